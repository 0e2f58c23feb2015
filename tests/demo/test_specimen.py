"""The specimen is the real volume, cut and scaled, and frames show its slices in order."""

from __future__ import annotations

import numpy as np

from proxyfab.demo.specimen import Slice, Specimen


def test_a_slice_is_a_picture_inside_the_circle():
    specimen = Specimen(64)

    image = specimen.image(Slice(1, 12))

    assert specimen.shape == (128, 96, 24, 2)
    assert "example4d.nii.gz" in specimen.source
    assert image.shape == (64, 64)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1.2
    assert image[0, 0] == 0
    assert 0.1 < (image > 0.2).mean() < 0.6  # a head, with air around it


def test_the_two_moments_and_neighbouring_slices_differ():
    specimen = Specimen(64)

    images = [specimen.image(which) for which in (Slice(0, 12), Slice(1, 12), Slice(0, 13))]

    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_frames_go_through_all_slices_then_start_again():
    program = Specimen(64).slices(50)

    assert len(set(program)) == 48
    assert program[:2] == [Slice(0, 0), Slice(0, 1)]
    assert program[24] == Slice(1, 0)
    assert program[48:] == program[:2]


def test_few_frames_are_spread_over_the_head():
    program = Specimen(64).slices(4)

    assert [which.moment for which in program] == [0] * 4
    assert program == sorted(set(program))
    assert program[-1].height == 23


def test_scaling_at_once_is_cubic_interpolation():
    from scipy import ndimage

    from proxyfab.demo.specimen import _VIEW, _centred

    specimen = Specimen(256)
    plane = _centred(specimen._volume[:, :, 12, 0].T[::-1], _VIEW)
    slow = ndimage.zoom(plane, 256 / _VIEW, order=3, mode="nearest", grid_mode=True)

    inside = specimen.image(Slice(0, 12)) > 0

    assert inside.mean() > 0.2
    assert np.allclose(specimen.image(Slice(0, 12))[inside], slow.clip(0, 1.2)[inside], atol=1e-4)
