"""Hand-over of one object between two processes: put, get, get and read every byte, and the whole way.

Every system has a producer's and a consumer's process; they take turns within each round. The whole way is from the
start of put to the last byte read in the consumer, so it includes the reference's own trip. No object is got twice,
caches are off, each object is evicted behind its round (so that stores which recycle memory may), and every result is
checked.
"""

from __future__ import annotations

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row
from benchmarks.pairs import Pair, PairError, close_pairs, open_pairs
from benchmarks.payloads import GB, KB, MB
from benchmarks.steps import Sample
from benchmarks.systems import TABLE, load

BENCH = "store"
WARM_UP = 2
ROW_OF = 100 * MB


def run(settings: Settings) -> Outcome:
    """All systems, kinds and sizes of the settings."""
    outcome = Outcome([], [])
    pairs, skipped = open_pairs(list(TABLE), settings, BENCH)
    outcome.skipped.extend(skipped)
    try:
        for kind in settings.kinds:
            for nbytes in settings.sizes:
                if nbytes < GB or kind == "ndarray":  # other kinds at 1 GB take minutes and tell nothing new
                    _cell(pairs, kind, nbytes, settings, outcome)
    finally:
        close_pairs(pairs)
    return outcome


def _cell(pairs: dict[str, Pair], kind: str, nbytes: int, settings: Settings, outcome: Outcome) -> None:
    """One kind and size: warm up, then every system once a round."""
    samples: dict[str, list[Sample]] = {name: [] for name in pairs}
    times = 5 if nbytes <= 100 * KB and not settings.tiny else 1
    hold = nbytes < GB
    for name in list(pairs):
        _visit(pairs, name, kind, nbytes, 1 if settings.tiny or not hold else WARM_UP, hold, outcome, first=True)
    for name in interleaved(list(pairs), settings.rounds(nbytes)):
        if name in pairs:
            samples[name] += _visit(pairs, name, kind, nbytes, times, hold, outcome)
    if nbytes == ROW_OF or settings.tiny:
        _in_a_row(pairs, kind, nbytes, settings, outcome)
    for name, pair in list(pairs.items()):
        _visit_end(pairs, name, pair, outcome)
        if samples[name]:
            _report(outcome, name, samples[name], kind, nbytes)


def _in_a_row(pairs: dict[str, Pair], kind: str, nbytes: int, settings: Settings, outcome: Outcome) -> None:
    """Hand-overs without a pause: a store that frees memory some time later must take fresh memory meanwhile."""
    for name in [name for name in ("raw-memcpy", "proxyfab-shm", "ray") if name in pairs]:
        samples = _visit(pairs, name, kind, nbytes, 2 if settings.tiny else 12, True, outcome)[1:]
        if samples:
            put = [sample.put for sample in samples]
            outcome.rows.append(row(BENCH, "put in a row", name, put, kind=kind, nbytes=nbytes))


def _visit(
    pairs: dict[str, Pair],
    name: str,
    kind: str,
    nbytes: int,
    times: int,
    hold: bool,
    outcome: Outcome,
    first: bool = False,
) -> list[Sample]:
    """Let one system hand over; one that fails is closed and noted, the others go on."""
    try:
        if first or not hold:
            pairs[name].prepare(kind, nbytes)
        samples = pairs[name].run(times)
        if not hold:  # a gigabyte in each of a dozen processes is more than a usual machine has
            pairs[name].release()
    except PairError as error:
        outcome.skipped.append(Skipped(BENCH, name, f"{kind} of {nbytes} bytes: {error}"))
        pairs.pop(name).close()
        return []
    return samples


def _visit_end(pairs: dict[str, Pair], name: str, pair: Pair, outcome: Outcome) -> None:
    try:
        pair.release()
    except PairError as error:
        outcome.skipped.append(Skipped(BENCH, name, str(error)))
        pairs.pop(name).close()


def _report(outcome: Outcome, name: str, samples: list[Sample], kind: str, nbytes: int) -> None:
    put, get, read, total = zip(*samples, strict=True)
    whole = {"total": total}
    parts = {"put": put, "get": get, "read": read} if load(name).parts else {}
    for what, seconds in (parts | whole).items():
        outcome.rows.append(row(BENCH, what, name, seconds, kind=kind, nbytes=nbytes))
