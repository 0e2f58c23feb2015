"""Whether a history keeps the promises: nothing acknowledged lost, nothing torn, stale or resurrected, nobody hanging.

For each answer to a read, the states in which the object may have been are worked out from the calls that changed it:

1. the state behind the last change that was answered before the read began;
2. the state behind each change that was under way during the read;
3. the state behind each earlier change of which nobody knows whether it happened (its caller was killed, or told of an
   error): it may happen late, when its bytes reach a server after its sender's death;
4. missing, when its time to live has passed, or what it lives with (`Promise.lives_with`) has died.

What was read must be one of them. An object has one writer at a time, so changes of one id do not race.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple, TypeAlias

from proxyfab.testing.history import EVICTS, GETS, PUTS, Event, History, Record

_Window: TypeAlias = tuple[float, float]
GRACE = 1.0
"""Seconds that an answer may come, or an expired object stay, later than promised."""
MISSING = "missing"
LOST = "!ObjectLost"


class Promise(NamedTuple):
    """What a place promises.

    Args:
        deadline: Seconds in which every call is answered.
        lives_with: Whose death may take objects away: nobody's, the process's that put them, or the server's.
        tells: Whether a read of an object that a death took away raises ObjectLost, and never answers "missing".
        errors: Errors that calls may raise while a server is down or a connection breaks.
    """

    deadline: float
    lives_with: Literal["nobody", "writer", "server"] = "nobody"
    tells: bool = False
    errors: frozenset[str] = frozenset()


class Violation(NamedTuple):
    """A promise that was broken."""

    rule: str
    who: str
    text: str


@dataclass
class Verdict:
    """What a history shows."""

    violations: list[Violation] = field(default_factory=list)
    acknowledged: int = 0
    """Objects put and acknowledged."""
    read: int = 0
    """Objects read whole."""
    evicted: int = 0
    lost: int = 0
    """Objects that were found to be gone with the one they lived with, as was promised."""
    inside: int = 0
    """Calls that a kill fell into."""
    errors: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """Seconds that the slowest answer took."""

    def broken(self, rule: str) -> int:
        """How often a rule was broken."""
        return sum(violation.rule == rule for violation in self.violations)


class _Change(NamedTuple):
    record: Record
    state: str

    def known_before(self, moment: float) -> bool:
        return self.record.definite and self.record.returned is not None and self.record.returned <= moment


def judge(history: History, promise: Promise) -> Verdict:
    """Judge a history whose processes have all ended."""
    judged = Verdict()
    changes = _changes(history.records)
    deaths = _deaths(history.events)
    end = max((event.at for event in history.events), default=0.0)
    end = max([end, *(record.returned or record.invoked for record in history.records)])
    for record in history.records:
        _count(record, judged)
        judged.violations += _errors(record, promise)
        judged.violations += _late(record, promise, history.events, end, judged)
        if record.op in GETS and record.definite:
            for id, result in zip(record.ids, record.results, strict=True):
                judged.violations += _read(record, id, result, changes[id], promise, deaths, judged)
        elif record.op in GETS and record.results == (LOST,):  # of several, one is enough
            found = [list(_read(record, id, LOST, changes[id], promise, deaths, judged)) for id in record.ids]
            judged.violations += [] if [] in found else found[0]
    return judged


def _changes(records: list[Record]) -> dict[str, list[_Change]]:
    changes: dict[str, list[_Change]] = defaultdict(list)
    for record in records:
        state = f"v{record.version}" if record.op in PUTS else MISSING if record.op in EVICTS else None
        if state is not None:
            for id in record.ids:
                changes[id].append(_Change(record, state))
    return changes


def _deaths(events: list[Event]) -> Callable[[Promise, str], list[_Window]]:
    """When objects of a writer may have gone: those put before the end of a window, and read after its start."""
    killed = {event.who: event.at for event in events if event.what == "kill"}
    downs = [event for event in events if event.what in ("down", "up")]
    windows = [(one.at, other.at) for one, other in pairwise(downs) if one.what == "down"]
    if downs and downs[-1].what == "down":
        windows.append((downs[-1].at, inf))

    def of(promise: Promise, writer: str) -> list[_Window]:
        if promise.lives_with == "server":
            return windows
        return [(killed[writer], inf)] if promise.lives_with == "writer" and writer in killed else []

    return of


def _count(record: Record, judged: Verdict) -> None:
    judged.inside += record.returned is None
    if record.returned is not None:
        judged.slowest = max(judged.slowest, record.returned - record.invoked)
    if not record.definite:
        judged.errors.update(result.lstrip("!") for result in record.results[:1])
    elif record.op in PUTS:
        judged.acknowledged += len(record.ids)
    elif record.op in EVICTS:
        judged.evicted += sum(result == "true" for result in record.results)
    elif record.op in GETS:
        judged.read += sum(result.startswith("v") for result in record.results)


def _errors(record: Record, promise: Promise) -> Iterator[Violation]:
    for result in record.results:
        if result.startswith("!!"):
            yield Violation("undeclared", record.who, f"{record.op} {record.ids[0]} raised {result[2:]}")
        elif result == LOST and promise.lives_with == "nobody":
            yield Violation("lost", record.who, f"{record.op} {record.ids[0]} raised ObjectLost")
        elif result.startswith("!") and result != LOST and result[1:] not in promise.errors:
            yield Violation("refused", record.who, f"{record.op} {record.ids[0]} raised {result[1:]}")


def _late(record: Record, promise: Promise, events: list[Event], end: float, judged: Verdict) -> Iterator[Violation]:
    """Whether an answer took too long, time not counted in which its process was stopped."""
    until = record.returned
    if until is None:
        until = min((event.at for event in events if event.what == "kill" and event.who == record.who), default=end)
    took = until - record.invoked
    allowed = promise.deadline + GRACE
    if took > allowed and took - _stopped(record, until, events) > allowed:
        how = f"was answered after {took:.1f} s" if record.returned else f"was not answered in {took:.1f} s"
        yield Violation("hang", record.who, f"{record.op} {record.ids[0]} {how}")


def _stopped(record: Record, until: float, events: list[Event]) -> float:
    total, since = 0.0, None
    for event in events:
        if event.who == record.who and event.what in ("stop", "continue", "kill"):
            if event.what == "stop":
                since = event.at
            elif since is not None:
                total += max(min(event.at, until) - max(since, record.invoked), 0.0)
                since = None
    return total


def _read(
    record: Record,
    id: str,
    result: str,
    changes: list[_Change],
    promise: Promise,
    deaths: Callable[[Promise, str], list[_Window]],
    judged: Verdict,
) -> Iterator[Violation]:
    """Whether one object may have been found as it was."""
    assert record.returned is not None
    if result == "torn":
        yield Violation("torn", record.who, f"{record.op} {id} was not what anybody put")
        return
    if record.op == "held":  # what is held stays what it was, whatever became of the object
        return
    definite = [change for change in changes if change.known_before(record.invoked)]
    last = max(definite, key=lambda change: change.record.invoked, default=None)
    allowed = {MISSING} if last is None else {last.state}
    unsure = [change for change in changes if not change.known_before(record.invoked)]
    allowed |= {change.state for change in unsure if change.record.invoked <= record.returned}
    gone = last is not None and any(
        last.record.invoked <= end and start <= record.returned for start, end in deaths(promise, last.record.who)
    )
    expired = last is not None and _expiry(last, record, allowed)
    if result in allowed or (result == MISSING and (expired or (gone and not promise.tells))):
        judged.lost += result == MISSING and gone
        return
    if result == LOST and (gone or MISSING in allowed):
        judged.lost += 1
        return
    yield Violation(_rule(result, allowed, gone), record.who, f"{record.op} {id}: {result}, not {sorted(allowed)}")


def _expiry(last: _Change, record: Record, allowed: set[str]) -> bool:
    """Whether the object's time may have passed; when it has for certain, its state is no longer allowed."""
    ttl = last.record.ttl
    if ttl is None or record.returned is None or last.record.returned is None:
        return False
    if record.invoked > last.record.returned + ttl + GRACE:
        allowed.discard(last.state)
    return record.returned >= last.record.invoked + ttl


def _rule(result: str, allowed: set[str], gone: bool) -> str:
    if result in (MISSING, LOST):
        return "silent" if gone else "lost"
    return "stale" if allowed - {MISSING} else "resurrected"
