"""The specimen: a real volume that ships in a PyPI package, cut into the slices that the instrument will look at.

The volume is `example4d.nii.gz` from nibabel's own test data: a magnetic resonance scan of a human head, 128 x 96 x 24
voxels of 2 x 2 x 2.2 mm at two moments, so 48 real slices. A slice is resampled (cubic) to the size that the detector
sees; nothing is drawn or invented.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
FILE = "example4d.nii.gz"
_VIEW = 108
"""Voxels along the edge of the square that is looked at; the head and the circle around it fit in."""


class Slice(NamedTuple):
    """Which slice a frame shows: the moment of the scan and the height in the head."""

    moment: int
    height: int


class Specimen:
    """Slices of the head, as attenuation per pixel: 0 is air, the brightest tissue is 1.

    Args:
        size: Pixels along the edge of a slice.
    """

    def __init__(self, size: int) -> None:
        import nibabel
        from scipy import ndimage

        path = Path(nibabel.__file__).parent / "tests" / "data" / FILE
        volume = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
        self.source = f"nibabel {nibabel.__version__}: tests/data/{FILE}"
        self.shape: tuple[int, ...] = volume.shape
        self.size = size
        self._volume = volume / np.float32(np.percentile(volume, 99.9))
        # Cubic interpolation is linear and the same along both axes: what it makes of the identity does it at once.
        eye = np.eye(_VIEW, dtype=np.float32)
        self._finer: Image = ndimage.zoom(eye, (size / _VIEW, 1), order=3, mode="nearest", grid_mode=True)

    def slices(self, frames: int) -> list[Slice]:
        """What `frames` frames show, in the order of acquisition.

        Fewer frames than slices are spread over the first moment; more go on with the second, then start again.
        """
        heights, moments = self.shape[2:]
        if frames < heights:
            spread = np.linspace(heights * 0.2, heights - 1, frames).round().astype(int)
            return [Slice(0, int(height)) for height in spread]
        return [Slice(i // heights % moments, i % heights) for i in range(frames)]

    def image(self, which: Slice) -> Image:
        """A slice, nose up, shape (size, size), zero outside the circle that the detector sees at every angle."""
        plane = _centred(self._volume[:, :, which.height, which.moment].T[::-1], _VIEW)
        fine = np.asarray(self._finer @ plane @ self._finer.T, np.float32)
        across = (np.arange(self.size) - (self.size - 1) / 2) ** 2
        fine[np.add.outer(across, across) > (self.size * 0.48) ** 2] = 0
        return np.clip(fine, 0, 1.2, out=fine)


def _centred(plane: Image, edge: int) -> Image:
    """`plane` in the middle of a square of `edge` voxels: cut where it is longer, zeros where it is shorter."""
    square = np.zeros((edge, edge), np.float32)
    into, out = [], []
    for length in plane.shape:
        kept = min(length, edge)
        into.append(slice((edge - kept) // 2, (edge - kept) // 2 + kept))
        out.append(slice((length - kept) // 2, (length - kept) // 2 + kept))
    square[into[0], into[1]] = plane[out[0], out[1]]
    return square
