"""The transforms are right: they agree with scikit-image's, invert each other, and survive the noise of counting."""

from __future__ import annotations

import numpy as np
import pytest

from proxyfab.demo.specimen import Slice, Specimen
from proxyfab.demo.tomography import BEAM, Detector, Scanner, line_integrals

SIZE, ANGLES = 128, 180
DEGREES = np.arange(ANGLES) * 180 / ANGLES


@pytest.fixture(scope="module")
def picture():
    return Specimen(SIZE).image(Slice(0, 13))


@pytest.fixture(scope="module")
def scanner():
    return Scanner(SIZE, ANGLES)


def test_projections_are_those_of_scikit_image(picture, scanner):
    from skimage.transform import radon

    theirs = radon(picture, DEGREES, circle=True).T

    ours = scanner.project(picture)

    assert ours.shape == (ANGLES, SIZE)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).mean() < 0.005 * theirs.max()


def test_pictures_are_those_of_scikit_image(picture, scanner):
    from skimage.transform import iradon

    sinogram = scanner.project(picture)
    theirs = iradon(sinogram.T, DEGREES, filter_name="hann", circle=True)

    ours = scanner.reconstruct(sinogram)

    assert np.abs(ours - theirs).mean() < 0.01


def test_a_projection_holds_all_of_the_picture(picture, scanner):
    assert scanner.project(picture).sum(axis=1) == pytest.approx(picture.sum(), rel=2e-3)


def test_a_point_comes_back_where_it_was(scanner):
    point = np.zeros((SIZE, SIZE), np.float32)
    point[40, 75] = 1

    back = scanner.reconstruct(scanner.project(point))

    assert np.unravel_index(back.argmax(), back.shape) == (40, 75)


def test_counts_lead_back_to_the_line_integrals(picture, scanner):
    detector = Detector(SIZE, seed=1)
    sinogram = scanner.project(picture)

    counts = detector.expose(sinogram, frame=0)
    measured = line_integrals(counts, detector.darks(40), detector.flats(40))

    assert counts.dtype == np.uint16
    assert BEAM.dark < counts.min() < counts.max() < 65_535
    assert np.abs(measured - sinogram).mean() < 0.02 * sinogram.max()
    assert abs((measured - sinogram).mean()) < 0.002 * sinogram.max()


def test_a_frame_is_determined_by_the_seed_and_its_number(picture, scanner):
    sinogram = scanner.project(picture)

    first = Detector(SIZE, seed=1).expose(sinogram, frame=3)

    assert np.array_equal(Detector(SIZE, seed=1).expose(sinogram, frame=3), first)
    assert not np.array_equal(Detector(SIZE, seed=1).expose(sinogram, frame=4), first)
    assert not np.array_equal(Detector(SIZE, seed=2).expose(sinogram, frame=3), first)


def test_a_noisy_scan_still_shows_the_slice(picture, scanner):
    from skimage.metrics import peak_signal_noise_ratio

    detector = Detector(SIZE, seed=1)
    counts = detector.expose(scanner.project(picture), frame=0)

    after = scanner.reconstruct(line_integrals(counts, detector.darks(40), detector.flats(40)))

    assert peak_signal_noise_ratio(picture, after, data_range=1) > 28
