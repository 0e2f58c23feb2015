"""What a history of a stream shows: which promise was broken, and by which event.

| rule | |
|---|---|
| lost | an event was acknowledged to its producer, and a group, or the output, never had it |
| duplicate | it is in the output of the effectively-once path more than once |
| invented | it is there, and nobody sent it |
| disorder | of one producer and key a later one was seen first: in the ordered group, or in the output |
| torn | an object is not what was sent |
| released | an object was gone before its group had seen it |
| hang | a call was not answered in time, or a process did not see the stream's end |
| refused, undeclared | an error without a reason, or one that is not proxyfab's |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from proxyfab.testing.history import History, Record
from proxyfab.testing.streamkills.work import KEYS, ORDERED, PLAIN, RELAY
from proxyfab.testing.verdict import Violation

RULES = ("lost", "duplicate", "invented", "disorder", "torn", "released", "hang", "refused", "undeclared")
_GONE = frozenset({"!ObjectReleased", "!KeyNotFound", "!ObjectLost"})


@dataclass
class Verdict:
    """What a history shows."""

    violations: list[Violation] = field(default_factory=list)
    acknowledged: int = 0
    """Events that their producers were told are there."""
    sent: int = 0
    """Events that they were sent, whatever became of it."""
    taken: int = 0
    """Events that members of groups had in their hands, each time that they had."""
    relayed: int = 0
    """Events in the output."""
    inside: int = 0
    """Calls that a kill fell into."""
    again: int = 0
    """Events that came to the at-least-once groups more than once."""
    slowest: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    def broken(self, rule: str) -> int:
        """How often a rule was broken."""
        return sum(violation.rule == rule for violation in self.violations)


def judge(history: History, output: Sequence[str], *, deadline: float, errors: frozenset[str]) -> Verdict:
    """Judge a history whose processes have all ended.

    Args:
        history: What they did.
        output: The events in the output, as they lie there.
        deadline: Seconds in which every call is answered.
        errors: What calls may raise.
    """
    judged = Verdict(relayed=len(output))
    sent: set[str] = set()
    known: set[str] = set()
    for record in history.records:
        judged.violations += _call(record, deadline, errors, judged, history)
        if record.op == "send":
            sent.update(record.ids)
            known.update(record.ids if record.definite else ())
    judged.sent, judged.acknowledged = len(sent), len(known)
    for group in (PLAIN, ORDERED, RELAY):
        seen = [record for record in history.records if record.op == "take" and record.who.startswith(f"{group}-")]
        judged.taken += len(seen)
        judged.violations += _group(group, seen, sent, known, judged)
    judged.violations += _output(output, sent, known)
    return judged


def _call(
    record: Record, deadline: float, errors: frozenset[str], judged: Verdict, history: History
) -> Iterator[Violation]:
    text = f"{record.op} {record.ids[0]}"
    judged.inside += record.returned is None
    until = record.returned
    if until is None:
        until = next((event.at for event in history.events if event.what == "kill" and event.who == record.who), None)
    took = 0.0 if until is None else until - record.invoked
    judged.slowest = max(judged.slowest, took)
    if took > deadline:
        yield Violation("hang", record.who, f"{text} took {took:.1f} s")
    for result in record.results:
        if not result.startswith("!"):
            continue
        judged.errors[result.lstrip("!")] += 1
        if result.startswith("!!"):
            yield Violation("undeclared", record.who, f"{text} raised {result[2:]}")
        elif result[1:] not in errors and result not in _GONE:
            yield Violation("refused", record.who, f"{text} raised {result[1:]}")


def _group(group: str, seen: list[Record], sent: set[str], known: set[str], judged: Verdict) -> Iterator[Violation]:
    whole: set[str] = set()
    order: list[str] = []
    for record in seen:
        (id,) = record.ids
        if record.results == ("torn",):
            yield Violation("torn", record.who, id)
        elif record.results and record.results[0] in _GONE and id not in whole:
            yield Violation("released", record.who, f"{id}: {record.results[0][1:]}")
        if id not in sent:
            yield Violation("invented", record.who, id)
        if record.results == ("whole",):
            judged.again += id in whole
            whole.add(id)
        order.append(id)
    for id in sorted(known - whole):
        yield Violation("lost", group, id)
    if group != PLAIN:
        yield from _disorder(group, order)


def _output(output: Sequence[str], sent: set[str], known: set[str]) -> Iterator[Violation]:
    counts = Counter(output)
    for id, count in counts.items():
        if count > 1:
            yield Violation("duplicate", "output", f"{id}: {count} times")
        if id not in sent:
            yield Violation("invented", "output", id)
    for id in sorted(known - counts.keys()):
        yield Violation("lost", "output", id)
    yield from _disorder("output", output)


def _disorder(who: str, order: Sequence[str]) -> Iterator[Violation]:
    """What came for the first time after a later one of the same producer's life and key."""
    met: set[str] = set()
    last: dict[tuple[str, int], int] = {}
    for id in order:
        if id in met:
            continue
        met.add(id)
        life, _, text = id.rpartition(":")
        number = int(text)
        lane = life, number % KEYS
        if number < last.get(lane, -1):
            yield Violation("disorder", who, f"{id} after {life}:{last[lane]}")
        last[lane] = max(number, last.get(lane, -1))
