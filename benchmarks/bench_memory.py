"""Peak extra memory of put and of get: the process's private memory above its start, and the store's growth.

Private memory is the kernel's own peak (VmHWM, reset before the step) without the mapped pages of a store, which are
counted once, in the store. The first object of a size is reported apart: a store that recycles memory grows only then.
"""

from __future__ import annotations

from benchmarks.harness import Outcome, Settings, Skipped, row
from benchmarks.pairs import Pair, PairError, close_pairs, open_pairs
from benchmarks.payloads import MB
from benchmarks.steps import MemorySample
from benchmarks.systems import TABLE, load

BENCH = "memory"
NBYTES = 100 * MB


def run(settings: Settings) -> Outcome:
    """Every system that stores bytes, one after another: memory does not drift."""
    outcome = Outcome([], [])
    for name in settings.wanted(TABLE):
        pairs, skipped = open_pairs([name], settings, BENCH)
        outcome.skipped.extend(skipped)
        try:
            for pair in pairs.values():
                _system(pair, settings, outcome)
        except PairError as error:
            outcome.skipped.append(Skipped(BENCH, name, str(error)))
        finally:
            close_pairs(pairs)
    return outcome


def _system(pair: Pair, settings: Settings, outcome: Outcome) -> None:
    nbytes = MB if settings.tiny else NBYTES
    if not load(pair.name).parts:
        return
    for kind in [kind for kind in settings.kinds if kind in ("ndarray", "bytes")]:
        pair.prepare(kind, nbytes // 100)  # imports and first-use tables are not the object's
        pair.run(2)
        pair.metered()
        pair.prepare(kind, nbytes)
        first = pair.metered()
        later = [pair.metered() for _ in range(1 if settings.tiny else 5)]
        pair.release()
        _report(outcome, pair.name, "first ", [first], kind, nbytes)
        _report(outcome, pair.name, "", later, kind, nbytes)


def _report(outcome: Outcome, name: str, when: str, samples: list[MemorySample], kind: str, nbytes: int) -> None:
    figures = {
        "put peak": [sample.put.peak + max(0, sample.stored) for sample in samples],
        "put private peak": [sample.put.peak for sample in samples],
        "store growth": [max(0, sample.stored) for sample in samples],
        "get peak": [sample.get.peak for sample in samples],
        "get kept": [max(0, sample.get.kept) for sample in samples],
    }
    for what, values in figures.items():
        outcome.rows.append(
            row(BENCH, when + what, name, [float(v) for v in values], unit="B", kind=kind, nbytes=nbytes)
        )
