"""Parallel-beam tomography: what a detector counts, and the picture computed from it.

Both directions rest on the Fourier slice theorem (Bracewell 1956): the Fourier transform of a projection is a line
through the middle of the picture's two-dimensional transform. Between lines and grid one interpolates with a
Kaiser-Bessel kernel on a twice finer grid ("gridding": O'Sullivan 1985, Jackson 1991), which is filtered
back-projection at the cost of an FFT. The tests compare both directions with scikit-image's `radon` and `iradon`.

Nothing here knows of processes or stores. Units: lengths in detector pixels, attenuation per pixel length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft, sparse, special

Image = npt.NDArray[np.float32]
Sinogram = npt.NDArray[np.float32]
Counts = npt.NDArray[np.uint16]

_REACH = 4
"""Grid points that one sample touches along each axis."""
_BETA = 9.14
"""Shape of the Kaiser-Bessel window for reach 4 on a twofold grid (Beatty, Nishimura, Pauly 2005)."""


class Beam(NamedTuple):
    """The source and the detector.

    Attributes:
        photons: Mean counts of a pixel without a specimen, in one exposure.
        dark: Mean counts of a pixel without the beam.
        opacity: Optical depth (minus log of transmission) of a line through a specimen of attenuation 1 all along.
    """

    photons: float = 30_000.0
    dark: float = 120.0
    opacity: float = 3.0


BEAM = Beam()


class Scanner:
    """One geometry: square pictures of `size` pixels, `angles` projections over half a turn.

    The interpolation table is computed once (some tenths of a second) and used for every picture. Thread-safe.
    """

    def __init__(self, size: int, angles: int) -> None:
        self.size = size
        self.angles = angles
        self._grid = 2 * size
        self._frequencies = fft.rfftfreq(self._grid)
        self._table = _gridding_table(np.arange(angles) * np.pi / angles, self._frequencies, self._grid)
        window = _window_transform((np.arange(size) - size // 2) / self._grid)
        self._unwindow = (1 / np.outer(window, window)).astype(np.float32)
        middle = np.exp(2j * np.pi * self._frequencies * (size // 2))
        self._centre: npt.NDArray[np.complex64] = middle.astype(np.complex64)
        self._ramp = self._ramp_filter()

    def project(self, picture: Image) -> Sinogram:
        """Line integrals of `picture`, shape (angles, size): the Radon transform."""
        wide = np.zeros((self._grid, self._grid), np.float32)
        wide[self._inside] = picture * self._unwindow
        spectrum = fft.fft2(fft.ifftshift(wide)).astype(np.complex64)
        lines = (self._table @ spectrum.ravel()).reshape(self.angles, -1)
        integrals = fft.irfft(lines * self._centre.conj(), self._grid, axis=1)[:, : self.size]
        return np.asarray(integrals, np.float32)

    def reconstruct(self, sinogram: Sinogram) -> Image:
        """The picture whose line integrals are `sinogram`, shape (size, size): filtered back-projection."""
        lines = fft.rfft(sinogram, self._grid, axis=1) * (self._centre * self._ramp)
        spectrum = (self._table.T @ lines.astype(np.complex64).ravel()).reshape(self._grid, self._grid)
        wide = fft.fftshift(fft.ifft2(spectrum, overwrite_x=True).real)
        return np.asarray(wide[self._inside] * self._unwindow, np.float32)

    @property
    def _inside(self) -> tuple[slice, slice]:
        inside = slice(self._grid // 2 - self.size // 2, self._grid // 2 - self.size // 2 + self.size)
        return inside, inside

    def _ramp_filter(self) -> npt.NDArray[np.float32]:
        """|frequency| as the transform of its band-limited kernel (Kak and Slaney 1988, eq. 61), Hann-tapered.

        It holds all factors of the inversion: the step in angle, and 2 because the other half of each line is implied.
        """
        offset = np.minimum(np.arange(self._grid), self._grid - np.arange(self._grid))
        kernel = np.zeros(self._grid)
        kernel[0] = 0.25
        odd = offset % 2 == 1
        kernel[odd] = -1 / (np.pi * offset[odd]) ** 2
        ramp = fft.rfft(kernel).real * (0.5 + 0.5 * np.cos(2 * np.pi * self._frequencies))
        ramp[1:-1] *= 2
        return np.asarray(ramp * np.pi / self.angles * self._grid, np.float32)


def _gridding_table(
    angles: npt.NDArray[np.float64], frequencies: npt.NDArray[np.float64], grid: int
) -> sparse.csr_array:
    """Weights from the points of a square frequency grid to the samples on all lines: (samples, grid * grid)."""
    x, y = (np.outer(turn, frequencies * grid).ravel() for turn in (np.cos(angles), -np.sin(angles)))
    columns = [_neighbours(axis, grid) for axis in (y, x)]
    (rows, row_weights), (cols, col_weights) = columns
    index = (rows[:, :, None] * grid + cols[:, None, :]).reshape(-1)
    weight = (row_weights[:, :, None] * col_weights[:, None, :]).reshape(-1)
    ends = np.arange(len(x) + 1, dtype=np.int32) * _REACH**2
    return sparse.csr_array((weight, index, ends), shape=(len(x), grid * grid))


def _neighbours(position: npt.NDArray[np.float64], grid: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The `_REACH` grid points around each position (negative frequencies wrap) and the window's weight there."""
    first = np.ceil(position - _REACH / 2).astype(np.int32)
    points = first[:, None] + np.arange(_REACH, dtype=np.int32)
    inside = 1 - ((points - position[:, None]) / (_REACH / 2)) ** 2
    weight = special.i0(_BETA * np.sqrt(np.maximum(inside, 0))) / special.i0(_BETA)
    return np.asarray(points % grid, np.int32), np.asarray(weight, np.float32)


def _window_transform(position: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The window's Fourier transform, by which gridding dims the picture towards its edges."""
    root = np.sqrt(_BETA**2 - (np.pi * _REACH * position) ** 2 + 0j)
    return np.asarray((_REACH * np.sinh(root) / (root * special.i0(_BETA))).real)


class Detector:
    """Counts photons: a line of `size` pixels of uneven sensitivity, behind an uneven beam, with dark current.

    Args:
        size: Pixels.
        seed: The pixels' sensitivities and all noise follow from it.
        beam: Source and detector constants.
    """

    def __init__(self, size: int, seed: int, beam: Beam = BEAM) -> None:
        self._size = size
        self._seed = seed
        self._beam = beam
        pixels = np.random.default_rng([seed, 0])
        profile = 1 - 0.35 * np.linspace(-1, 1, size) ** 2
        self._flat = beam.photons * profile * pixels.normal(1, 0.04, size).clip(0.7, 1.3)
        self._dark = beam.dark * pixels.normal(1, 0.1, size).clip(0.5, 1.5)

    def expose(self, sinogram: Sinogram, frame: int) -> Counts:
        """Counts behind a specimen, same shape, with the noise of counting (Poisson), which `frame` determines."""
        depth = sinogram * np.float32(self._beam.opacity / self._size)
        return self._count(np.exp(-depth) * self._flat, 3 + frame)

    def darks(self, exposures: int) -> Counts:
        """Counts without the beam, shape (exposures, size)."""
        return self._count(np.zeros((exposures, self._size)), 1)

    def flats(self, exposures: int) -> Counts:
        """Counts of the beam without a specimen, shape (exposures, size)."""
        return self._count(np.broadcast_to(self._flat, (exposures, self._size)), 2)

    def _count(self, light: npt.NDArray[np.float64], draw: int) -> Counts:
        random = np.random.default_rng([self._seed, draw])
        return random.poisson(light + self._dark).clip(0, 65_535).astype(np.uint16)


def line_integrals(counts: Counts, darks: Counts, flats: Counts, beam: Beam = BEAM) -> Sinogram:
    """Counts to line integrals: flat-field correction and Beer-Lambert's law, stripes of the detector removed."""
    dark = darks.mean(axis=0, dtype=np.float32)
    flat = flats.mean(axis=0, dtype=np.float32) - dark
    seen = np.maximum(counts - dark, np.float32(0.5)) / flat
    return np.asarray(-np.log(seen) * np.float32(counts.shape[1] / beam.opacity), np.float32)
