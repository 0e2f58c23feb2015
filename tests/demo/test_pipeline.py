"""One pass over real processes: what comes out, what moved, and what happens when something breaks."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.demo.pipeline import DemoError, Pipeline
from proxyfab.demo.role import now
from proxyfab.demo.setup import Setup

SMALL = Setup(frames=6, size=64, angles=96, workers=2, deadline=60)
SLOW = pytest.mark.slow
"""Another process of those that are watched alike."""


@contextmanager
def running(setup):
    with Store() as store, Pipeline(setup.at(store.url)) as pipeline:
        yield pipeline
    assert all(process.returncode is not None for process in pipeline.processes.values()), "a process was left behind"


@pytest.fixture(scope="module")
def by_reference_and_left():
    with Store() as store, Pipeline(SMALL.at(store.url)) as pipeline:
        return pipeline.run(), store.clear()


@pytest.fixture(scope="module")
def by_reference(by_reference_and_left):
    return by_reference_and_left[0]


@pytest.fixture(scope="module")
def by_value():
    with running(SMALL.by("value")) as pipeline:
        return pipeline.run()


def test_both_ways_give_the_same_pictures_bit_for_bit(by_reference, by_value):
    assert sorted(by_reference.pictures) == sorted(by_value.pictures) == list(range(6))
    for frame, picture in by_reference.pictures.items():
        assert picture.shape == (64, 64)
        assert np.array_equal(picture, by_value.pictures[frame])


def test_the_dispatcher_has_no_numpy_and_sees_no_arrays(by_reference, by_value):
    dispatcher = by_reference.reports["dispatcher"]
    one_frame = SMALL.angles * SMALL.size * 2

    assert dispatcher["loaded"] == []
    assert by_value.reports["dispatcher"]["loaded"] == []
    assert by_reference.reports["worker-0"]["loaded"] != []  # the same question has another answer elsewhere
    assert dispatcher["received"] < one_frame
    assert by_value.reports["dispatcher"]["received"] > SMALL.frames * one_frame


def test_control_flow_carries_references_and_the_store_the_bulk(by_reference, by_value):
    bulk = SMALL.frames * (SMALL.angles * SMALL.size * 2 + SMALL.size**2 * 4)
    put = sum(report["stats"].get("put", {}).get("bytes", 0) for report in by_reference.reports.values())

    assert by_reference.control_bytes < by_value.control_bytes / 8
    assert by_reference.control_bytes / SMALL.frames < 3000
    assert by_value.control_bytes > 2 * bulk  # each array takes two hops
    assert put >= bulk


def test_every_frame_was_timed_all_the_way(by_reference):
    assert len(by_reference.trips) == SMALL.frames
    for trip in by_reference.trips:
        assert list(trip[1:]) == sorted(trip[1:])
        assert sum(trip.stages().values()) == pytest.approx(trip.collected - trip.begun)


def test_frames_are_released_after_their_use(by_reference_and_left):
    assert by_reference_and_left[1] <= 1  # the calibration, which has several readers


def when(frames, act):
    """Hears of progress and acts once."""
    return lambda done, total: act() if done == frames else None


@pytest.mark.parametrize(
    ("victim", "passing"),
    [
        pytest.param("worker-0", "reference", marks=SLOW),
        ("instrument", "value"),
        pytest.param("dispatcher", "reference", marks=SLOW),
    ],
)
def test_a_process_that_is_killed_ends_the_pass_with_its_name(victim, passing):
    message = rf"The {victim} process was ended by SIGKILL\. It said nothing\."
    killed = []

    def kill():
        pipeline.processes[victim].kill()
        killed.append(now())

    with running(replace(SMALL, frames=5000).by(passing)) as pipeline:
        with pytest.raises(DemoError, match=message):
            pipeline.run(when(3, kill))
        assert now() - killed[0] < SMALL.deadline / 2, "it was noticed at once, not given up"


@pytest.mark.parametrize(
    "victim", ["dispatcher", *(pytest.param(who, marks=SLOW) for who in ("worker-0", "instrument"))]
)
def test_a_process_that_hangs_is_given_up_at_the_deadline(victim):
    message = r"(Nobody said anything|took no message|said nothing) for 1\.5 s"
    setup = replace(SMALL, frames=5000, workers=1, deadline=1.5)

    with running(setup) as pipeline, pytest.raises(DemoError, match=message):
        pipeline.run(when(2, lambda: pipeline.processes[victim].send_signal(signal.SIGSTOP)))


def test_a_process_that_fails_tells_why():
    setup = SMALL.by("value")  # this process gets along, the others will not find their store
    pipeline = Pipeline(setup)
    pipeline.setup = setup.by("reference").at("nosuch://")
    with pipeline:
        pipeline.setup = setup
        with pytest.raises(DemoError, match=r"process ended with status 1\. It said: .*nosuch"):
            pipeline.run()


def test_an_interrupt_leaves_no_process_behind():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), running(replace(SMALL, frames=5000)) as pipeline:
        pipeline.run(when(2, interrupt))


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "proxyfab-test", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small tmpfs is not allowed here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_the_pass_with_what_is_full(small_disk):
    setup = replace(SMALL, frames=20, size=256, angles=384)

    with Store(f"file://{small_disk}") as store, Pipeline(setup.at(store.url)) as pipeline:
        with pytest.raises(DemoError, match=rf"process ended with status 1\. It said: .*CapacityError: .*{small_disk}"):
            pipeline.run()
        store.clear()
