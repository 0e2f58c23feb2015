"""For every test: a clean place, nothing left behind, a deadline (pyproject.toml), and no silent skips.

Hypothesis profiles: `ci` (short, the default in CI), `dev` (the default elsewhere) and `thorough`;
HYPOTHESIS_PROFILE chooses. A run in CI (the variable CI is set) fails where a test was skipped for a reason that is not
on the list below.
"""

from __future__ import annotations

import asyncio  # here: modules are taken away and put back by tests, and a half of it would be left
import faulthandler
import gc
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("proxyfab.testing")

from proxyfab.store import Store  # noqa: E402  # after assertions are rewritten
from proxyfab.testing.leaks import SHARED, no_leaks, stray_places  # noqa: E402  # as above
from proxyfab.testing.natsserver import NatsServer  # noqa: E402  # as above
from proxyfab.testing.nodes import NodeServer  # noqa: E402, F401  # as above; pyzmq starts a thread of its own with it
from proxyfab.testing.processes import Child  # noqa: E402  # as above
from proxyfab.testing.servers import RedisServer  # noqa: E402  # as above
from proxyfab.testing.zygote import Zygote  # noqa: E402  # as above

__all__ = ["asyncio", "no_leaks"]

ALLOWED_SKIPS = [
    r" does not claim ",  # a statement in a connector's own test file, which a reviewer sees
    r"^mounting a small tmpfs (needs root|is not allowed here)",
    r"^(network namespaces need|an emulated way needs|NAT needs) ",  # root, and tools that are not everywhere
    r"^could not import '(pandas|polars|pyarrow|torch|xarray|dask)",  # optional packages, tested where they are
    r"^could not import '(distributed|globus_sdk)",  # likewise
    r"^the page has no Python block to run$",
    r"^PROXYFAB_KAFKA names no Kafka",  # what needs more than a mock cluster: an administrator's requests, access, time
    r"^only on Python",
    r"^needs Python",
    r"^no C (core|compiler)",  # tests/proxy/test_core.py fails where it could have been built
]

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("ci", max_examples=15, stateful_step_count=30, derandomize=True, **_COMMON)
settings.register_profile("dev", max_examples=30, stateful_step_count=30, **_COMMON)
settings.register_profile("thorough", max_examples=1000, stateful_step_count=60, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

PACKAGES = [
    *("asyncio", "concurrent.futures.process", "ctypes", "multiprocessing.pool", "pytest", "hypothesis", "numpy"),
    *("cryptography.hazmat.primitives.ciphers.aead", "hmac", "mmap", "msgpack", "msgspec", "secrets"),
    *("confluent_kafka", "nats.aio.client", "redis", "redis.asyncio", "zmq.asyncio", "zmq.utils.monitor"),
]
"""What children load beforehand."""
PROVED_BELOW = frozenset(
    f"test_{what}"
    for what in (
        "a_batch_of_a_thousand",
        "a_fork_while_threads_work",
        "a_full_disk",
        "a_limit_on_the_size_of_files",
        "a_view_in_a_fork_keeps_it",
        "a_view_of_a_killed_process_frees_its_memory",
        "an_object_larger_than_the_disk",
        "clearing_beside_a_writer_breaks_neither",
        "few_file_descriptors",
        "hammering_tears_nothing",
        "many_processes_open_a_fresh_place_at_once",
        "processes_that_count_lose_nothing",
        "sweeping_leaves_living_writers_alone",
        "what_killed_writers_left_is_taken_back",
    )
)
"""The dearest tests of connectors. What they try is between processes, the system and the place that holds the bytes;
a suite of what only stands around places that have suites of their own says `around = True`, and has these as slow."""
NOTES = os.environ.get("TEST_NOTES", "")
"""A directory where tools/run-tests looks for what is said here."""
_bad_skips: list[str] = []
_failed: list[pytest.TestReport | pytest.CollectReport] = []
STRAYS = "processes that have ended left unnamed namespaces behind"


@pytest.fixture(scope="session", autouse=True)
def shared_memory_root() -> Iterator[Path]:
    """Shared memory of this run only, so that nobody's objects meet; at the end nothing is in it of ended processes
    but of killed ones.
    """
    base = SHARED if os.access(SHARED, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="proxyfab-tests-", dir=base))
    os.environ["PROXYFAB_SHM_DIR"] = str(root)
    yield root
    with Store() as fresh:
        fresh.connector.reap()  # type: ignore[attr-defined]  # shared memory can
    strays = stray_places(root)
    shutil.rmtree(root, ignore_errors=True)
    assert strays == [], STRAYS


@pytest.fixture(scope="session", autouse=True)
def quick_children() -> Iterator[None]:
    """Children that find other people's packages loaded; they are started by the thousand."""
    with Zygote(PACKAGES) as zygote:
        start, Child.start = Child.start, staticmethod(zygote.start)
        yield
        Child.start = staticmethod(start)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this run's own; a test takes a database of it that nobody else has. It must not stop it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """A NATS of this run's own, with JetStream; a test takes topics that nobody else has. It must not stop it."""
    with NatsServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_left_behind(no_leaks: None) -> None:
    """Applies `no_leaks` to all; an automatic fixture is the last to end."""


@pytest.hookimpl(tryfirst=True)  # before those are left out that are slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "cls", None), "around", False) and getattr(item, "originalname", "") in PROVED_BELOW:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Whoever collects what a test left need not look at all tests each time, nor copy them when he has forked."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.failed:
        _failed.append(report)
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.search(allowed, reason) for allowed in ALLOWED_SKIPS):
            _bad_skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """A worker's stack goes to a file when it crashes, for who sees no more of a run than its end.

    A shell has those that it starts in the background ignore interrupts, and so would our children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if NOTES and hasattr(session.config, "workerinput"):
        del os.environ["TEST_NOTES"]  # no test's business
        stack = Path(NOTES, f"stack-{session.config.workerinput['workerid']}")
        faulthandler.enable(os.open(stack, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _bad_skips and os.environ.get("CI") and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if NOTES and not hasattr(session.config, "workerinput"):
        Path(NOTES, "again").write_text("".join(f"{name}\n" for name in _worth_another_try()))
        Path(NOTES, "said").write_text("".join(_said_of_failures()))


def _crashed(report: pytest.TestReport | pytest.CollectReport) -> bool:
    return report.when not in ("setup", "call", "teardown", "collect")


def _worth_another_try() -> list[str]:
    """The tests that failed, for tools/run-tests; none of them where something else went wrong as well."""
    for report in _failed:
        if _crashed(report) or report.when == "collect" or STRAYS in report.longreprtext:
            return []
    return [] if _bad_skips else list(dict.fromkeys(report.nodeid for report in _failed))


def _said_of_failures() -> Iterator[str]:
    """What failed, each with its error's last line; and the stacks of those who crashed."""
    if _failed:
        yield "\nFailed:\n"
    for report in _failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (crash.message if crash else report.longreprtext).strip().splitlines() or [""]
        said = dict.fromkeys([lines[0], lines[-1]] if crash else lines[-1:])
        yield f"  {report.nodeid}: {' ... '.join(said)[:400]}\n"
    if any(map(_crashed, _failed)):
        for stack in sorted(Path(NOTES).glob("stack-*")):
            if told := stack.read_text(errors="replace"):
                yield f"\nCrashed, {stack.name.removeprefix('stack-')}:\n{told}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _bad_skips:
        terminalreporter.section("skipped, and not on the list of allowed reasons (tests/conftest.py)")
        for line in _bad_skips:
            terminalreporter.line(line)
