"""The third act: what its figures mean, who is told why there is none, and, for root, the act itself and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest

from proxyfab.demo.between import place
from proxyfab.demo.between.act import perform
from proxyfab.demo.between.passage import Carried, Cut, Passage, Sample
from proxyfab.demo.between.plan import Plan
from proxyfab.demo.experiment import _third_act, run
from proxyfab.demo.setup import Setup
from proxyfab.demo.stream.course import Slice
from proxyfab.demo.summary import table_of_sites, verdict_of_sites
from proxyfab.testing.processes import until
from tests.demo.small import SMALL

root = pytest.mark.skipif(bool(place.lacking()), reason=place.lacking())


def passage(*slices, frames=2):
    """A passage that begins at 10 s: 1 MB/s, a cut from 12 to 17 s, nothing until 18 s, then 2 MB/s."""
    moments = [(10, 0), (12, 2), (12.05, 2.05), (17, 2.05), (18, 2.05), (19, 4.05)]
    samples = [Sample(at, int(1e6 * total), int(1.1e6 * total)) for at, total in moments]
    reports = {"instrument": {"cpu": 1.0, "peak_memory": 1, "records": frames + 1, "record_bytes": 700}}
    cut = Cut(12.0, 17.0, 1)
    return Passage(frames, 0.5, slices, {}, cut, samples, Carried(4e6, 1e5), int(4e6), reports)


def done(frame, worker, first=True):
    return Slice(frame, worker, 1, 10.0 + frame, 10.1 + frame, 10.2 + frame, 10.3 + frame, 10.4 + frame, 19.0, first)


def test_throughput_keeps_every_byte_and_its_time():
    times, rates = passage(done(0, "worker-0")).throughput(0.5)

    assert sum(rates) * 0.5 == pytest.approx(4.05)
    at = dict(zip(times, rates, strict=True))
    assert (at[0.0], at[1.5]) == pytest.approx((1, 1))
    assert [at[moment] for moment in (2.5, 4.0, 6.5, 7.5)] == [0, 0, 0, 0]
    assert (at[8.0], at[8.5]) == pytest.approx((2, 2))


def test_what_a_passage_says():
    once = passage(done(0, "worker-0"), done(1, "worker-1"))
    twice = passage(done(0, "worker-0"), done(0, "worker-1", first=False))

    assert (once.lost, once.duplicates, once.seconds) == (0, 0, 9.0)
    assert (twice.lost, twice.duplicates) == (1, 1)
    assert once.in_cut == 0
    assert once.recovery == pytest.approx(2.0)
    assert once.again == pytest.approx(0.025)
    assert once.dropped == pytest.approx(0.1 * 4.05e6)
    said = once.as_dict()
    assert said["cut"] == {"began": 2.0, "seconds": 5.0, "planned_seconds": 5.0, "frame": 1}
    assert ("slices lost, reconstructed twice", "0, 0") in table_of_sites(once)


def test_what_comes_in_the_look_after_a_cut_is_not_of_the_cut():
    once = passage(done(0, "worker-0"), done(1, "worker-1"))
    late = sorted([*(each for each in once.samples if each.at != 17), Sample(17.01, int(2.06e6), 0)])
    looks = [Sample(16.95, int(2.05e6), 0), *late]
    held = [Sample(12.3, int(2.05e6), 0), *looks]

    assert replace(once, samples=sorted(looks)).in_cut == 0
    assert replace(once, samples=sorted(held)).in_cut == 0
    assert replace(once, samples=sorted([*looks, Sample(15.0, int(2.04e6), 0)])).in_cut == 10_000


def test_a_short_scan_is_stretched_so_that_there_is_a_middle():
    plan = Plan.of(SMALL, "demo-1")
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.interval * SMALL.frames == pytest.approx(6)
    assert Plan.of(Setup(frames=4800), "demo-1").interval == pytest.approx(0.125)


@pytest.mark.parametrize("uid", [0, 65534])
def test_who_cannot_have_it_is_told_why(uid, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    why = {0: "network namespaces need iproute2's ip", 65534: "network namespaces need root"}[uid]

    assert _third_act(SMALL, lambda *_: None) == (None, why)


def test_the_report_says_that_there_was_none(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    why = place.lacking()
    result = run(frames=2, size=64, out=tmp_path, compare=False, stream=False)

    assert verdict_of_sites(result) == f"The third act did not run: {why}."
    assert escape(verdict_of_sites(result)) in (tmp_path / "report.html").read_text()
    assert result.as_dict()["sites_missing"] == why
    assert not (tmp_path / "throughput.png").exists()


@root
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_slice_is_reconstructed_once_though_the_link_is_cut(first):
    with place.facilities() as world:
        found = perform(SMALL, world, lambda *_: None)

    assert (found.lost, found.duplicates, len(found.slices)) == (0, 0, 9)
    for frame, picture in first.pictures.items():
        assert np.array_equal(picture, found.pictures[frame])
    assert found.cut.ended - found.cut.began == pytest.approx(5, abs=0.5)
    assert found.in_cut == 0
    assert max(each.loaded for each in found.slices) > found.cut.ended
    assert found.again <= 0.05
    assert found.sent > found.counts
    assert set(found.reports) == {"instrument", "worker-0", "worker-1"}
    assert found.reports["instrument"]["records"] == 9 + 1  # and the end


@root
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_amid_the_act_leaves_nothing(number, status, tmp_path):
    places = {name: tmp_path / name.lower() for name in ("TMPDIR", "PROXYFAB_SHM_DIR", "PROXYFAB_BROKER_DIR")}
    places["TMPDIR"].mkdir()
    command = [sys.executable, "-m", "proxyfab.demo", "--frames", "4", "--size", "64", "--no-compare", "--no-stream"]
    program = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        env={**os.environ, **{name: str(path) for name, path in places.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        # Two emulators, two gateways, a broker, an instrument and two workers, and both gateways serve.
        assert until(lambda: len(children(program.pid)) == 8 and served(places["TMPDIR"]) == 2, 100)
        theirs = children(program.pid)
        program.send_signal(number)
        _, said = program.communicate(timeout=60)
    finally:
        program.kill()

    assert program.returncode == status, said
    assert until(lambda: not any(os.path.exists(f"/proc/{child}") for child in theirs))
    left = [path for folder in places.values() for path in folder.rglob("*") if path.is_file()]
    assert [path for path in left if not path.name.startswith(".")] == []


def children(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def served(folder):
    return len(list(folder.glob("proxyfab-demo-*/*/ready")))
