"""Leftovers: what patterns left in a store and nobody can use any more, although it has not expired yet.

Rules:
1. An owned object goes when all who own or borrow it have ended, and no message may be on its way that moves it: the
   next to use such a message, or the same one again, would find nothing. Those expire.
2. A sign of life goes when its process was of this machine and is not there any more.
3. Nothing is taken from somebody who only looks dead: who is judged is looked for first, and a record is changed by
   compare-and-set, so that whoever comes meanwhile has it.
4. What expires is its place's business, and `reap`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from proxyfab.abc import Reclaimed, Stat, SupportsCompareAndSet, SupportsScan
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key
from proxyfab.patterns.ownership.desk import Desk
from proxyfab.patterns.ownership.protocol import Look, Outcome, Request, change
from proxyfab.store import Store
from proxyfab.wire.owned import MAGIC, Claim, Record, decode
from proxyfab.wire.owning import LENT, NOBODY, SENT, Change, Refused, Same, Verdict
from proxyfab.wire.remains import SIGN

LARGEST = 1 << 16
"""Bytes of the largest record that is looked at."""
BATCH = 500


def leftovers(
    store: Store, *, dry_run: bool = False, seen: Callable[[int, int], object] = lambda _done, _all: None
) -> list[Reclaimed]:
    """What was taken back, or would be, and why.

    Args:
        store: Where to look; nothing is found where it cannot scan.
        dry_run: Only look.
        seen: Is told again and again how many of how many objects were looked at.
    """
    connector = store.connector
    if not isinstance(connector, SupportsScan):
        return []
    small = [stat for stat in connector.scan() if stat.nbytes <= LARGEST]
    taken = []
    for start in range(0, len(small), BATCH):
        seen(start, len(small))
        taken += [found for found in _judged(store, small[start : start + BATCH], dry_run) if found is not None]
    seen(len(small), len(small))
    return taken


def _judged(store: Store, stats: list[Stat], dry_run: bool) -> Iterator[Reclaimed | None]:
    for stat, body in zip(stats, _bodies(store, stats), strict=True):
        first = b"" if body is None else body[:4]
        try:
            if first == MAGIC:
                yield _object(store, stat, body or b"", dry_run)
            elif first == SIGN:
                yield _sign(store, stat, dry_run)
        except ProxyfabError as error:  # damaged, or somebody is at it
            yield Reclaimed(f"{_name(stat.key)} (left)", 0, str(error))


def _bodies(store: Store, stats: list[Stat]) -> list[bytes | None]:
    keys = [stat.key for stat in stats]
    try:
        return list(map(_bytes, store.connector.get_many(keys)))
    except ProxyfabError:  # one that cannot be read must not spoil the others
        return [_alone(store, key) for key in keys]


def _alone(store: Store, key: Key) -> bytes | None:
    try:
        return _bytes(store.connector.get(key))
    except ProxyfabError:
        return None


def _bytes(frames: Frames | None) -> bytes | None:
    """A record or a sign is small: a copy, so that nothing that is mapped is held."""
    return None if frames is None else frames.tobytes()


def _name(key: Key) -> str:
    return f"object {key}"


# -- owned objects -------------------------------------------------------------------------------------------------


def forsaken(record: Record | None, dead: frozenset[str]) -> Verdict:
    """The rule by which an object goes whose holders are all dead (rule 1)."""
    if record is None:
        return Same()
    if any(seat.ticket or seat.taken for seat in (record.owner, record.mutable)):
        return Refused(SENT)
    living = tuple(claim for claim in _claims(record) if claim.session not in dead)
    return Refused(LENT, living) if living else Change(None)


def _claims(record: Record) -> Iterable[Claim]:
    return [claim for claim in (record.owner.holder, record.mutable.holder, *record.shared) if claim is not None]


def _object(store: Store, stat: Stat, body: bytes, dry_run: bool) -> Reclaimed | None:
    record = decode(body)
    data = store.connector.stat(Key.parse(record.data))
    who = ", ".join(sorted({claim.who for claim in _claims(record)})) or "nobody"
    found = Reclaimed(
        _name(Key.parse(record.data)),
        stat.nbytes + (0 if data is None else data.nbytes),
        f"who owned or borrowed it has ended: {who}",
    )
    if dry_run:
        return found if Desk(store).run(_would_go(record)) else None
    if not isinstance(store.connector, SupportsCompareAndSet):
        return None
    outcome: Outcome = Desk(store).run(change(str(stat.key), forsaken, body, believed=True))
    return found if outcome.refused is None and outcome.record is None else None


def _would_go(record: Record) -> Generator[Request, Any, bool]:
    verdict = forsaken(record, NOBODY)
    if isinstance(verdict, Refused) and verdict.holders:
        seen = yield Look(tuple(dict.fromkeys(claim.session for claim in verdict.holders)), False)
        verdict = forsaken(record, seen.dead)
    return isinstance(verdict, Change)


# -- signs of life -------------------------------------------------------------------------------------------------


def _sign(store: Store, stat: Stat, dry_run: bool) -> Reclaimed | None:
    def look() -> Generator[Request, Any, bool]:
        seen = yield Look((str(stat.key),), False)
        return bool(seen.dead)

    if not Desk(store).run(look()) or not (dry_run or store.evict(stat.key)):
        return None
    return Reclaimed(_name(stat.key), stat.nbytes, "the process of which it is a sign of life has ended")
