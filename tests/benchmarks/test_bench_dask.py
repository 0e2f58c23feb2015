"""Dask's benchmark runs once, tiny and with timing off; apart from others, since Dask keeps threads in its process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from benchmarks import bench_dask, report
from benchmarks.harness import Place, Settings
from benchmarks.results import Results

SYSTEMS = ("dask", "proxyfab")
MACHINE = {"cores": 2, "cpu": "test", "kernel": "6", "python": "3", "versions": {}}


@pytest.fixture
def no_leaks() -> None:
    """In place of the check after each test: of Dask a thread stays, and descriptors are its own business."""


@pytest.fixture
def place(shared_memory_root: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir=shared_memory_root.parent) as tmpfs, tempfile.TemporaryDirectory() as disk:
        yield Place(tmpfs, disk)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_work_is_done_by_every_system_and_shown(place: Place) -> None:
    settings = Settings(place, systems=SYSTEMS, tiny=True)
    outcome = bench_dask.run(settings)

    works = [(what, nbytes) for what, _, nbytes, _ in bench_dask._works(settings)]
    assert outcome.skipped == []
    assert {(found.what, found.nbytes, found.system) for found in outcome.rows} == {
        (*work, system) for work in works for system in SYSTEMS
    }
    assert all(found.median > 0 for found in outcome.rows)
    results = Results(dict(MACHINE))
    results.add("dask", "2026-01-01", outcome)
    lines = [line for line in report.dask(results).splitlines() if line.endswith("x |")]
    assert len(lines) == len(works)
