"""Every benchmark runs once, tiny and with timing off, so that it never rots; figures become claims correctly."""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as main
from benchmarks import bench_events, report
from benchmarks.baselines.streams import Ours
from benchmarks.harness import Outcome, Place, Row, Settings, interleaved, quartiles, row
from benchmarks.memory import Taken, look, mark, stored, taken
from benchmarks.pairs import Pair, PairError
from benchmarks.payloads import KB, KINDS, MB, checksum, make, size_name, views
from benchmarks.results import Results
from benchmarks.systems import ALONE, TABLE, load
from benchmarks.targets import check, seconds
from proxyfab.testing import in_fork

BENCHES = [path.stem.removeprefix("bench_") for path in Path(report.__file__).parent.glob("bench_*.py")]
SERVERLESS = tuple(name for name in TABLE if name not in ("ray", "dask"))
OTHERWISE_SLOW = ("raw-disk", "proxystore-local", "proxystore-disk", "proxyfab-disk")
"""Each is another's twin in another directory, or an import of two seconds."""
TESTED_THEMSELVES = ("erasure", "proxy", "seal", "serialize", "shm")
"""A test beside the benchmark runs it whole."""
REPRESENTED: dict[str, tuple[str, ...]] = {
    "events": ("proxyfab-memory", "proxyfab-zmq", "proxyfab-redis", "queue.Queue", "redis-py-xadd"),
    "futures": ("process-pool", "proxyfab-redis", "proxyfab-shm"),
    "gets": ("proxyfab-shm",),
    "lifetimes": ("proxyfab-owned-killed",),
    "zmq": (
        "proxyfab-zmq",
        "proxyfab-zmq-unix",
        "proxyfab-zmq-wire",
        "proxyfab-zmq-router",
        "pyzmq",
        "raw-tcp",
        "raw-unix",
    ),
}
"""Without peers, whose import takes seconds in each process, and with few of many alike."""
MACHINE = {"cores": 2, "cpu": "test", "kernel": "6", "python": "3", "versions": {}}


@pytest.fixture
def place(shared_memory_root: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir=shared_memory_root.parent) as tmpfs, tempfile.TemporaryDirectory() as disk:
        yield Place(tmpfs, disk)


def tiny(place: Place, *systems: str) -> Settings:
    return Settings(place, sizes=(1_000, 100_000), systems=systems, tiny=True)


def assert_complete(outcome: Outcome) -> None:
    assert outcome.rows
    assert [skip for skip in outcome.skipped if "is not installed" not in skip.reason] == []


@pytest.mark.parametrize(
    ("bench", "system"),
    [
        *(
            pytest.param("store", system, marks=pytest.mark.slow if system in OTHERWISE_SLOW else ())
            for system in SERVERLESS
        ),
        ("memory", "proxyfab-shm"),
        pytest.param("memory", "proxystore-tmpfs", marks=pytest.mark.slow),
    ],
)
def test_a_hand_over_is_measured(bench: str, system: str, place: Place) -> None:
    outcome = importlib.import_module(f"benchmarks.bench_{bench}").run(tiny(place, system))

    assert [skip for skip in outcome.skipped if "is not installed" not in skip.reason] == []
    assert outcome.skipped or outcome.rows or not load(system).parts


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ray", "dask"])
def test_a_peer_with_servers_is_measured(system: str, place: Place) -> None:
    outcome = importlib.import_module("benchmarks.bench_store").run(tiny(place, system))

    assert [skip for skip in outcome.skipped if "is not installed" not in skip.reason] == []


@pytest.mark.parametrize("bench", sorted(set(BENCHES) - {"store", "memory", "import", "dask", *TESTED_THEMSELVES}))
def test_a_benchmark_in_one_process_runs(bench: str, place: Place) -> None:
    systems = REPRESENTED.get(bench, ())
    assert_complete(importlib.import_module(f"benchmarks.bench_{bench}").run(tiny(place, *systems)))


@pytest.mark.slow
@pytest.mark.parametrize("bench", REPRESENTED)
def test_a_benchmark_in_one_process_runs_with_its_peers(bench: str, place: Place) -> None:
    assert_complete(importlib.import_module(f"benchmarks.bench_{bench}").run(tiny(place)))


def test_a_sample_of_events_is_there_until_its_consumer_takes_it() -> None:
    pytest.importorskip("confluent_kafka")
    with contextlib.ExitStack() as stack:
        place = bench_events._kafka(stack)
        stream = Ours(place.url, prepare=place.prepare)
        stack.enter_context(stream.broker)
        stack.callback(stream.close)
        stream.produce(bytes(KB), bench_events.EVENTS)  # to a consumer that the machine gives no time meanwhile

        assert {extent.first for extent in stream.broker.describe(stream.topic).extents.values()} == {1}


def test_import_time_is_measured(place: Place) -> None:
    outcome = importlib.import_module("benchmarks.bench_import").run(tiny(place, "python", "proxyfab"))

    assert_complete(outcome)
    assert {(found.what, found.system) for found in outcome.rows} >= {("import", "proxyfab"), ("interpreter", "python")}


def test_which_systems_have_one_process_is_what_they_say() -> None:
    found = set()
    for name in TABLE:
        try:
            found |= {name} if load(name).alone else set()
        except ImportError:  # a peer that is not installed
            found |= {name} & ALONE

    assert found == ALONE


# -- what is handed over and how it is checked


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_has_exactly_its_size_and_the_same_bytes_each_time(kind: str) -> None:
    assert sum(view.nbytes for view in views(make(kind, 8_000))) == 8_000
    assert checksum(make(kind, 8_000, seed=3)) == checksum(make(kind, 8_000, seed=3))
    assert checksum(make(kind, 8_000, seed=3)) != checksum(make(kind, 8_000, seed=4))


def test_a_system_that_fails_says_why_and_leaves_no_process(place: Place) -> None:
    with Pair("raw-memcpy", place) as pair, pytest.raises(PairError, match="raw-memcpy: ValueError: 'song' is no kind"):
        pair.prepare("song", 1_000)


def test_a_system_that_cannot_start_says_why(place: Place) -> None:
    with pytest.raises(PairError, match=r"nothing: its process ended: .*KeyError: 'nothing'"):
        Pair("nothing", place)


def touched(nbytes: int) -> mmap.mmap:
    """Fresh pages, and none of those that an earlier test gave back to malloc only."""
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(block, np.uint8)[:] = 1
    return block


def test_memory_taken_is_the_peak_and_what_is_kept() -> None:
    def step_of_a_process() -> tuple[int, int]:
        before = mark()
        kept = touched(16 * MB)
        touched(32 * MB).close()
        step = taken(before, look())
        kept.close()
        return step.peak, step.kept

    step = Taken(*in_fork(step_of_a_process))  # where no thread of another test takes and gives back memory, too

    assert 16 * MB <= step.kept < 20 * MB
    assert 47 * MB <= step.peak < 56 * MB  # each core may keep a quarter of a megabyte to itself


# -- figures


def test_quartiles_are_of_the_samples() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_interleaving_gives_everyone_a_turn_in_each_round() -> None:
    turns = list(interleaved(["a", "b", "c"], rounds=4))

    assert [sorted(turns[start : start + 3]) for start in range(0, 12, 3)] == [["a", "b", "c"]] * 4


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 µs"), (9e-8, "90 ns")]
)
def test_seconds_are_written_with_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_sizes_have_names() -> None:
    assert [size_name(n) for n in (104, 1_000, 100_000_000, 1_000_000_000)] == ["104 B", "1 KB", "100 MB", "1 GB"]


def results_of(*rows: Row) -> Results:
    results = Results(dict(MACHINE))
    for name in {found.bench for found in rows}:
        results.add(name, "2026-01-01", Outcome([found for found in rows if found.bench == name], []))
    return results


def test_without_figures_no_target_is_reached() -> None:
    verdicts = check(results_of())

    assert {verdict.verdict for verdict in verdicts} == {"not measured"}
    assert len({verdict.target for verdict in verdicts}) == len(verdicts)


def test_the_command_knows_every_benchmark() -> None:
    assert set(BENCHES) <= set(main.BENCHES)


def test_a_benchmark_that_breaks_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(settings: Settings) -> Outcome:
        raise RuntimeError("no such peer")

    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path))  # as a run leaves it changed
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    monkeypatch.setattr("benchmarks.bench_concurrency.run", run)
    monkeypatch.setattr("benchmarks.bench_gets.run", lambda settings: Outcome([], []))
    monkeypatch.setattr(main.plots, "draw", lambda results, out: [])
    asked = ["--quick", "--only", "concurrency", "--only", "gets", "--out", str(tmp_path), "--tmpfs", str(tmp_path)]
    done = CliRunner().invoke(main.main, asked)

    assert done.exit_code == 1
    assert "concurrency was not measured, as it broke: RuntimeError: no such peer" in done.output
    assert set(json.loads((tmp_path / "results.json").read_text())["ran"]) == {"concurrency", "gets"}


def verdict_of(results: Results, words: str) -> str:
    (found,) = [verdict for verdict in check(results) if words in verdict.target]
    return found.verdict


@pytest.mark.parametrize(("ours", "verdict"), [(0.020, "reached"), (0.022, "missed")])
def test_a_target_compares_medians_of_the_same_run(ours: float, verdict: str) -> None:
    size = {"kind": "ndarray", "nbytes": 100 * MB}
    results = results_of(
        row("store", "total", "proxyfab-shm", [ours], **size), row("store", "total", "proxystore-tmpfs", [0.2], **size)
    )

    assert verdict_of(results, "put to read of a 100 MB array") == verdict


def test_never_slower_is_decided_by_the_worst_cell() -> None:
    rows = [
        row("store", what, system, [seconds], kind="bytes", nbytes=nbytes)
        for nbytes, ours in ((1_000, 0.5), (100_000, 1.2))
        for what in ("put", "get")
        for system, seconds in (("proxyfab-tmpfs", ours), ("proxystore-tmpfs", 1.0))
    ]

    assert verdict_of(results_of(*rows), "file on tmpfs: put and get") == "missed"
    assert verdict_of(results_of(*rows[:4]), "file on tmpfs: put and get") == "reached"


def test_results_come_back_from_their_file_on_the_same_machine_only(tmp_path: Path) -> None:
    results = results_of(row("limits", "memcpy", "raw", [0.1, 0.2, 0.3], nbytes=1_000))
    results.save(tmp_path / "results.json", {"targets": []})

    assert Results.load(tmp_path / "results.json", dict(MACHINE)).rows == results.rows
    assert Results.load(tmp_path / "results.json", MACHINE | {"cores": 64}).rows == []


def test_a_report_fills_the_marked_part_of_a_page_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    size = {"kind": "ndarray", "nbytes": 1_000}

    assert report.fill(page, report.short(results_of(row("store", "total", "proxyfab-shm", [1e-4], **size))))
    assert page.read_text().startswith(f"before\n{report.START}\n")
    assert page.read_text().endswith(f"{report.END}\nafter\n")
    assert "| **proxyfab, shared memory** | 100 µs |" in page.read_text()
    assert "old" not in page.read_text()


def test_the_page_on_dask_shows_how_much_faster_and_what_fails() -> None:
    size = {"nbytes": 10 * MB}
    rows = [row("dask", "round trip", "dask", [0.3], **size), row("dask", "round trip", "proxyfab", [0.1], **size)]
    rows.append(row("dask", "memory", "proxyfab", [2.5e6], unit="B"))
    text = report.dask(results_of(*rows, row("limits", "memcpy", "raw", [1.0])))

    assert "| memory |  |  |  | 2.5 MB |  |" in text
    assert "| round trip, 10 MB | 300 ms | fails | fails | 100 ms | 3.00x |" in text
    assert "Measured on 2026-01-01:" in text


def test_a_page_without_markers_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")

    assert not report.fill(page, "text")
    assert not report.fill(tmp_path / "missing.md", "text")
    assert page.read_text() == "nothing here\n"


def test_a_full_report_has_every_part(tmp_path: Path) -> None:
    size = {"kind": "ndarray", "nbytes": 1_000}
    results = results_of(
        row("store", "put", "proxyfab-shm", [1e-5], **size),
        row("limits", "memcpy", "raw", [1e-6], nbytes=1_000),
        row("small", "put + get", "proxyfab-shm", [1e-5], **size),
    )
    text = report.full(results, check(results))

    assert [title in text for title in ("## Targets", "## Hand-over", "## Limits", "## Small objects")] == [True] * 4


def test_what_a_store_holds_is_counted_once_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(100_000))
    (tmp_path / "second-name").hardlink_to(tmp_path / "object")

    assert 100_000 <= stored(str(tmp_path)) < 150_000
