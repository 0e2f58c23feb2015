"""The record of one owned object: who owns it and who borrows it. What lies under a key of its own beside the bytes.

A record is only ever changed by compare-and-set; `wire.owning` has the rules. A claim is (session, number): a session
is an object that its process keeps alive, and that is never made again once it is gone. So who finds it gone knows that
all its claims have lapsed, and that they stay so; no clock but the one of the place where it lies is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from proxyfab.errors import ConfigurationError, IntegrityError
from proxyfab.keys import Key

MAGIC = b"PFO1"
LARGEST = 1 << 20
"""Bytes of a record, as of all that is compared and set: room for some 8,000 processes that borrow."""

ADOPTED = ".owner"
"""How the id of a record ends which all find who would adopt an object."""
ENDLESS = 1e9
"""Seconds that no lease is as long as."""


class Claim(NamedTuple):
    """What one process holds of an object."""

    session: str
    """Text of the key under which the process's session lies."""
    number: int
    """Drawn by the process, never again in this session."""
    who: str
    """`pid@host`, for people."""
    since: float
    """Seconds since the epoch by the holder's clock, for people."""

    def same(self, other: Claim | None) -> bool:
        """Whether it is this very claim."""
        return other is not None and self.number == other.number and self.session == other.session


class Seat(NamedTuple):
    """A place that one process has at a time: the owner's or the mutable borrower's."""

    holder: Claim | None = None
    ticket: str = ""
    """Of the message in which it was sent and not taken yet; its sender still sits here."""
    taken: str = ""
    """The ticket with which the holder came."""


class Record(NamedTuple):
    """Everything that is known of one owned object."""

    data: str
    """Text of the key of its bytes; another one after each update."""
    version: int
    """Counts the updates."""
    epoch: int
    """Counts those who came: each owner, and each borrower of either kind."""
    lease: float
    """Seconds that a process may be silent."""
    owner: Seat
    mutable: Seat = Seat()
    shared: tuple[Claim, ...] = ()

    @property
    def ttl(self) -> float:
        """Seconds that record and data live unless somebody renews them: lease and grace."""
        return keep(self.lease)


def is_adopted(key: str) -> bool:
    """Whether the record under a key may be made anew by whoever adopts its object."""
    return key.partition("@")[0].endswith(ADOPTED)


def is_vacant(record: Record) -> bool:
    """Whether nobody holds anything: the object was released, and its bytes are about to go."""
    return record.owner.holder is None and record.mutable.holder is None and not record.shared


def keep(lease: float) -> float:
    """Seconds that record and data outlive their last renewal: the lease, and half of it as grace."""
    return 1.5 * lease


def silence(lease: float) -> float:
    """Seconds after which a silent session is gone for others; its own process stops believing in it at `lease`."""
    return 1.25 * lease


# -- bytes ---------------------------------------------------------------------------------------------------------


def encode(record: Record) -> bytes:
    """A record's bytes."""
    return MAGIC + _packer()([*record[:4], _flat(record.owner), _flat(record.mutable), record.shared])


def decode(data: bytes) -> Record:
    """The record in some bytes.

    Raises:
        IntegrityError: They are none.
    """
    if data[:4] != MAGIC or len(data) > LARGEST:
        raise IntegrityError("These bytes are no record of an owned object.")
    try:
        data_key, version, epoch, lease, owner, mutable, shared = _unpacker()(data[4:])
        record = Record(data_key, version, epoch, float(lease), _seat(owner), _seat(mutable), _claims(shared))
    except (ValueError, TypeError, OverflowError) as error:
        raise IntegrityError(f"A record of an owned object is damaged: {error}") from error
    _check(record)
    return record


def _flat(seat: Seat) -> list[Any]:
    return [seat.holder, seat.ticket, seat.taken]


def _seat(parts: Any) -> Seat:
    holder, ticket, taken = parts
    _check_types((ticket, str), (taken, str))
    return Seat(None if holder is None else _claim(holder), ticket, taken)


def _claims(parts: Any) -> tuple[Claim, ...]:
    _check_types((parts, list))
    return tuple(map(_claim, parts))


def _claim(parts: Any) -> Claim:
    session, number, who, since = parts
    _check_types((session, str), (number, int), (who, str), (since, float))
    if not 0 <= since < 1e11:
        raise IntegrityError("A record of an owned object has a claim from a time that makes no sense.")
    return Claim(session, number, who, since)


def _check(record: Record) -> None:
    _check_types((record.data, str), (record.version, int), (record.epoch, int))
    for text in (record.data, *(claim.session for claim in _all(record))):
        try:
            Key.parse(text)
        except ConfigurationError as error:
            raise IntegrityError(f"A record of an owned object names {text!r:.40}, which is no key.") from error
    if not 0 < record.lease < ENDLESS or record.version < 0 or record.epoch < 0:
        raise IntegrityError("A record of an owned object has a lease or a count that makes no sense.")


def _all(record: Record) -> list[Claim]:
    seated = [seat.holder for seat in (record.owner, record.mutable) if seat.holder is not None]
    return [*seated, *record.shared]


def _check_types(*pairs: tuple[Any, type]) -> None:
    for value, kind in pairs:
        if type(value) is not kind:
            raise IntegrityError(f"A record of an owned object has {value!r:.40} where a {kind.__name__} belongs.")


@cache
def _packer() -> Callable[[object], bytes]:
    from msgpack import packb  # brings datetime, which a process that owns nothing never pays

    return packb  # type: ignore[no-any-return]  # msgpack has no types


@cache
def _unpacker() -> Callable[[bytes], Any]:
    from msgpack import unpackb  # as above

    return unpackb  # type: ignore[no-any-return]  # as above
