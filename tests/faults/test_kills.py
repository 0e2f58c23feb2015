"""Kill -9 at random moments: nothing acknowledged lost, nothing torn, nobody hanging, nothing left behind.

The short form of what `make kills` does a thousand times over. A seed is printed with every failure.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab import registry
from proxyfab.testing.campaign import one_run
from proxyfab.testing.kills import Kills, Report, Subject
from proxyfab.testing.subjects import kinds, names
from proxyfab.testing.verdict import Promise

SEED = 20261121
RUNS = [(place, victims) for place in names() for victims in kinds(place)]


@pytest.mark.parametrize(("place", "victims"), RUNS)
def test_some_kills(place: str, victims: str) -> None:
    report, _ = one_run(place, victims, 3 if victims == "servers" else 6, SEED)  # a server is an interpreter

    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("place", "victims"), RUNS)
def test_a_thousand_kills(place: str, victims: str) -> None:
    report, _ = one_run(place, victims, 1000, SEED + 1)

    assert report.ok, str(report)


@pytest.fixture
def broken() -> Iterator[str]:
    """The module of broken connectors, known while a test runs."""
    known = dict(registry._BUILT_IN["connectors"])
    module = importlib.import_module("tests.faults.broken")
    registry._BUILT_IN["connectors"] = {**known, **module.ENTRIES}
    yield module.__name__
    registry._BUILT_IN["connectors"] = known


@pytest.mark.parametrize(
    ("scheme", "victims", "deadline", "rule"),
    [
        ("plain", "writers", 5.0, None),
        ("torn", "writers", 5.0, "torn"),
        ("lost", "writers", 5.0, "lost"),
        ("risen", "writers", 5.0, "resurrected"),
        ("slow", "readers", -0.8, "hang"),
    ],
)
def test_the_harness_finds_what_is_broken(
    broken: str, scheme: str, victims: str, deadline: float, rule: str | None, tmp_path: Path
) -> None:
    place = Subject(scheme, f"{scheme}://{tmp_path}/objects", Promise(deadline), modules=(broken,))
    with Kills(place, seed=SEED, directory=tmp_path / "logs") as kills:
        report = kills.run(victims, 8)

    found = {violation.rule for violation in report.verdict.violations}
    assert report.ok == (rule is None), str(report)
    assert rule is None or rule in found


def test_a_run_without_faults_or_work_shows_nothing() -> None:
    report = Report("shm", "writers", SEED)

    assert not report.ok
    assert len(report.void) == 4
