"""How a record is changed: read, decide, compare and set, and again where somebody was faster. A generator, no I/O.

It yields what it wants done and is sent the answer; who drives it talks to a connector (`desk`), or plays one, with
lost messages and stopped processes (the simulation in the tests). So what is tried a thousand times there is what runs.

Rules:
1. What was read before is believed at first, and never enough for a refusal: that is looked at again.
2. A compare-and-set whose answer was lost is decided by reading: rules answer Same where it took effect.
3. Nobody is taken for dead before his session was looked for and not found.
4. Data that no record names any more are evicted by who made it so; if he dies first they expire. The record of what
   may be adopted goes last, so that nobody adopts bytes that are about to go.
5. No record is written that is larger than what is read.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from proxyfab.errors import ConnectorError
from proxyfab.wire.owned import LARGEST, Record, Seat, decode, encode, is_adopted
from proxyfab.wire.owning import FULL, NOBODY, TAKEN, Change, Refused, Rule, Same, Verdict

LOST = "lost"
"""Another process was faster."""
FAILED = "failed"
"""Nobody answered, so it may have taken effect or not."""
HELD = "held"
"""Somebody's claim stands in the way, and may end."""


class Read(NamedTuple):
    """Answer: the bytes under `key`, or None."""

    key: str


class Swap(NamedTuple):
    """Answer: whether `new` (None: nothing) was put in place of `old` (None: nothing), to expire in `ttl` seconds."""

    key: str
    old: bytes | None
    new: bytes | None
    ttl: float | None


class Look(NamedTuple):
    """Answer: a Seen."""

    sessions: tuple[str, ...]
    closely: bool
    """Whether to say who has shown a sign of life since the first such look."""


class ReadMany(NamedTuple):
    """Answer: a list of the bytes under `keys`, or None."""

    keys: tuple[str, ...]


class Renew(NamedTuple):
    """Answer: a list of whether something lies under each of `keys`, which then expires in `ttl` seconds."""

    keys: tuple[str, ...]
    ttl: float


class Now(NamedTuple):
    """Answer: seconds on this process's own clock, which never goes back."""


class Evict(NamedTuple):
    """Nothing has to come of it. Answer: whether it is done, for sure."""

    key: str


class Pause(NamedTuple):
    """Answer: whether there is time for one more attempt, after a pause."""

    why: str
    number: int
    """Of the pause, from 1; of those for the same reason."""


class Seen(NamedTuple):
    """What became of sessions."""

    dead: frozenset[str]
    renewed: frozenset[str] = NOBODY


Request: TypeAlias = Read | ReadMany | Swap | Look | Renew | Evict | Now | Pause


class Outcome(NamedTuple):
    """How it ended."""

    record: Record | None
    """As it lies there now; None: nothing does."""
    raw: bytes | None
    """Its bytes."""
    refused: Refused | None = None


Steps: TypeAlias = Generator[Request, Any, Outcome]


def change(
    key: str, rule: Rule, known: bytes | None = None, *, believed: bool = False, waits: Collection[str] = ()
) -> Steps:
    """Apply a rule to the record under `key`.

    Args:
        key: Of the record.
        rule: What to do with it.
        known: The record's bytes as they were seen last.
        believed: Whether to begin with what is `known`; None then says that nothing lies there.
        waits: Reasons of refusals that are worth waiting for.

    Raises:
        ConnectorError: The place did not answer, so that it is not known what took effect; or others kept changing it.
        IntegrityError: What lies there is no record.
    """
    raw, fresh, dead = known, False, NOBODY
    pauses = dict.fromkeys((LOST, FAILED, HELD), 0)
    if not believed:
        raw, fresh = (yield Read(key)), True
    while True:
        before = None if raw is None else decode(raw)
        verdict = _with_room(raw, rule(before, dead))
        if isinstance(verdict, Change):
            done, error = yield from _swap(key, raw, before, verdict.record)
            if done is not None:
                return done
            why = LOST if error is None else FAILED
            pauses[why] += 1
            if not (yield Pause(why, pauses[why])):
                raise error or ConnectorError(f"The record {key} changes faster than this process can; try again.")
        elif fresh:
            if isinstance(verdict, Same):
                return Outcome(before, raw)
            seen = yield from _look(verdict, dead)
            if seen.dead:
                dead |= seen.dead
                continue
            pauses[HELD] += 1
            if not _worth(verdict, seen, waits) or not (yield Pause(HELD, pauses[HELD])):
                return Outcome(before, raw, verdict)
        raw, fresh = (yield Read(key)), True


def _with_room(raw: bytes | None, verdict: Verdict) -> Verdict:
    """A change that makes the record too large is refused, unless there are dead among those who borrow."""
    grown = verdict.record if isinstance(verdict, Change) and raw is not None and len(raw) > LARGEST // 2 else None
    return verdict if grown is None or len(encode(grown)) <= LARGEST else Refused(FULL, grown.shared)


def _swap(
    key: str, raw: bytes | None, before: Record | None, after: Record | None
) -> Generator[Request, Any, tuple[Outcome | None, ConnectorError | None]]:
    left = after
    if after is None and before is not None and is_adopted(key):  # who adopts must see it until the bytes have gone
        left = before._replace(owner=Seat(), mutable=Seat(), shared=())
    new = None if left is None else encode(left)
    try:
        won = yield Swap(key, raw, new, None if left is None else left.ttl)
    except ConnectorError as error:
        return None, error
    if not won:
        return None, None
    if before is not None and (after is None or after.data != before.data):
        gone = yield Evict(before.data)
        if left is not after and gone:
            yield from _bury(key, new)
    return Outcome(after, None if after is None else new), None


def _bury(key: str, vacant: bytes | None) -> Generator[Request, Any, None]:
    """Remove the record of a released object. If that fails, it expires."""
    with suppress(ConnectorError):
        yield Swap(key, vacant, None, None)


def _look(refused: Refused, dead: frozenset[str]) -> Generator[Request, Any, Seen]:
    suspects = tuple(dict.fromkeys(claim.session for claim in refused.holders if claim.session not in dead))
    if not suspects:
        return Seen(NOBODY)
    return (yield Look(suspects, refused.reason == TAKEN))  # type: ignore[no-any-return]  # the driver's promise


def _worth(refused: Refused, seen: Seen, waits: Collection[str]) -> bool:
    """Whether it may be another answer soon; who took a message and lives will not give it back."""
    return refused.reason in waits and not (refused.reason == TAKEN and seen.renewed)
