"""Import time: a whole interpreter's run with the statement, beside one with `pass`, and what else gets imported."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.harness import Outcome, Row, Settings, Skipped, interleaved, row, timed
from benchmarks.pairs import ROOT, missing

BENCH = "import"
STATEMENTS = {
    "python": "pass",
    "proxyfab": "import proxyfab",
    "proxyfab + Store()": "import proxyfab; proxyfab.Store('memory://')",
    "proxystore": "import proxystore.store, proxystore.connectors.file",
    "ray": "import ray",
    "dask": "import distributed",
    "numpy": "import numpy",
}
UNWANTED = ("numpy", "pandas", "dask", "distributed", "redis", "globus_sdk", "pyarrow", "torch", "asyncio")


def run(settings: Settings) -> Outcome:
    """Seconds of each statement's interpreter, and those minus a bare one's."""
    outcome = Outcome([], [])
    statements = {}
    for name in settings.wanted(STATEMENTS):
        reason = missing(name)
        if reason:
            outcome.skipped.append(Skipped(BENCH, name, reason))
        else:
            statements[name] = STATEMENTS[name]
    samples: dict[str, list[float]] = {name: [] for name in statements}
    for name in statements:  # writes byte code, reads files into the page cache
        _run(statements[name])
    for name in interleaved(list(statements), settings.rounds(0)):
        samples[name].append(timed(lambda name=name: _run(statements[name])))  # type: ignore[misc]
    _report(outcome, samples)
    return outcome


def _report(outcome: Outcome, samples: dict[str, list[float]]) -> None:
    for name, seconds in samples.items():
        outcome.rows.append(row(BENCH, "interpreter", name, seconds))
    if "python" in samples:
        bare = next(found.median for found in outcome.rows if found.system == "python")
        for found in list(outcome.rows):
            outcome.rows.append(found._replace(what="import", median=found.median - bare, low=0, high=0, best=0))
    loaded = _run(f"import sys, proxyfab; print([name for name in {UNWANTED!r} if name in sys.modules])").strip()
    count = 0 if loaded == "[]" else loaded.count(",") + 1
    outcome.rows.append(Row(BENCH, "unwanted imports", "proxyfab", count, unit="n", note=loaded))


def _run(statement: str) -> str:
    command = [sys.executable, "-c", statement]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment).stdout
