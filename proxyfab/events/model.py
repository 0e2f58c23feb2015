"""The words of the event plane, as frozen data: topics, records, positions, deliveries.

A broker moves records: some bytes (a frame of up to 64 events, see `wire.events`), an id that it knows them again by,
and a partition. It never looks inside. Offsets are counted by the broker, from 1 and upwards in each partition; they
may have gaps, never repeats.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from proxyfab.errors import ConfigurationError

_TOPIC = r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_LONGEST = 128


class Capability(enum.Flag):
    """What a broker can do beyond publishing and fetching. Asked for at construction, never found out by failing."""

    NONE = 0
    DURABLE = enum.auto()
    """What was acknowledged to the publisher outlives the broker's process."""
    REPLAY = enum.auto()
    """Records that were read stay, and can be read again from a position until retention takes them."""
    REPLAY_TIME = enum.auto()
    """Also from a moment."""
    GROUPS = enum.auto()
    """Members of a group share a topic's records: each record goes to one of them."""
    PER_EVENT_ACK = enum.auto()
    """Records are acknowledged one by one, in any order."""
    DELAYED_NACK = enum.auto()
    """A record can be given back, to come again after a while, to any member."""
    DEDUP = enum.auto()
    """A record whose id was taken within the topic's window is taken once; where it lies is told again."""
    PARTITIONS = enum.auto()
    """A topic can have more than one."""
    STATE = enum.auto()
    """Small values beside a topic, with compare-and-set."""
    LAST_VALUE = enum.auto()
    """Who waits for such a value is told of its change, not polled."""
    ACL = enum.auto()
    """`grant` and `revoke` work, if the broker was set up for them."""
    FEDERATION = enum.auto()
    """Servers can be chained: edge, site, cloud."""
    CUT = enum.auto()
    """The oldest records can be cut off (`Broker.cut`), before retention takes them."""


IN_MEMORY = ~(Capability.DURABLE | Capability.ACL | Capability.FEDERATION)
"""What a broker can do whose topics lie in a process's memory, here or in a server (`events.engine`)."""


class From(enum.Enum):
    """Where reading begins, if not at a Position or a moment."""

    EARLIEST = "earliest"
    LATEST = "latest"


EARLIEST, LATEST = From.EARLIEST, From.LATEST


class Position(NamedTuple):
    """Where a record, or an event in it, lies. Ordered in a partition; `Position.parse(str(position))` is itself."""

    topic: str
    partition: int
    offset: int
    event: int = 0

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}" + (f".{self.event}" if self.event else "")

    @classmethod
    def parse(cls, text: str) -> Position:
        """A position from its text; raises ConfigurationError."""
        match = re.fullmatch(r"(?P<topic>[^/@]+)/(?P<partition>\d+)@(?P<offset>\d+)(?:\.(?P<event>\d+))?", text)
        if match is None:
            raise ConfigurationError(f"{text!r} is no position: it looks like frames/0@1234 or frames/0@1234.7.")
        return cls(match["topic"], int(match["partition"]), int(match["offset"]), int(match["event"] or 0))


Start: TypeAlias = "From | Mapping[int, int] | float"
"""EARLIEST; LATEST (what comes from now on); the first offset wanted in each partition (others: EARLIEST); or seconds
since 1970."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic is. Kept by the broker, the same for all who use it.

    Attributes:
        name: Words of letters, digits, `_` and `-`, joined by dots.
        partitions: How many; events of one key go to one of them.
        retention: Seconds that records are kept; None for as long as there is room.
        max_bytes: Bytes of records at most; None for no limit. What all groups have acknowledged makes room first.
        full: When that is not enough: `"reject"` (publishing fails with BackPressureError) or `"drop_oldest"`.
        window: Seconds within which a record's id is known again.
        release: When a stored object goes: `"all_groups_acked"`, `"first_ack"`, `"retention"` (with its record) or
            `"never"`.
        groups: Groups that are there from the beginning: nothing is released before these have read it.
        options: What else is kept with it, by name: validator, selector, serializer, and of whom else needs it.
    """

    name: str
    partitions: int = 1
    retention: float | None = None
    max_bytes: int | None = None
    full: str = "reject"
    window: float = 120.0
    release: str = "all_groups_acked"
    groups: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_topic(self.name)
        if self.partitions < 1 or self.partitions > 1024:
            raise ConfigurationError(f"Topic {self.name} cannot have {self.partitions} partitions: 1 to 1024.")
        if self.full not in ("reject", "drop_oldest"):
            raise ConfigurationError(f"A full topic can reject or drop_oldest, not {self.full!r}.")
        if self.release not in RELEASES:
            raise ConfigurationError(f"Objects are released at one of {', '.join(RELEASES)}, not {self.release!r}.")
        kept = self.retention
        if kept is not None and not (hasattr(kept, "__float__") and kept > 0):
            raise ConfigurationError(f"retention= is a positive number of seconds, or None, not {kept!r}.")
        groups: object = self.groups
        if isinstance(groups, str):  # each letter of which could name a group
            raise ConfigurationError(f"groups= is several names, such as ({groups!r},), not {groups!r}.")
        for group in self.groups:
            check_group(group)


RELEASES = ("all_groups_acked", "first_ack", "retention", "never")


class Record(NamedTuple):
    """What a broker moves.

    Attributes:
        body: Bytes that it does not look at.
        id: Known again within the topic's window, if the broker has DEDUP; "" for never.
        partition: Where it goes.
        key: Of all its events, if they have one: what engines that have keys of their own are told.
    """

    body: bytes
    id: str = ""
    partition: int = 0
    key: str | None = None


class Delivery(NamedTuple):
    """A record as it came to a subscriber.

    Attributes:
        body: As published.
        position: Where it lies.
        id: As published.
        time: Seconds since 1970 when the broker took it.
        attempt: 1 at first; how many times it was delivered to this group, where the broker counts (PER_EVENT_ACK).
        note: What the last one left who gave it back; b"" otherwise.
        token: The broker's own.
        serial: Where offsets have gaps (`Broker.one_count`): its number among all deliveries of its partition to this
            group, what came again counted again; 0 where something may have been delivered meanwhile and lost on its
            way, and where offsets have none.
    """

    body: bytes
    position: Position
    id: str = ""
    time: float = 0.0
    attempt: int = 1
    note: bytes = b""
    token: Any = None
    serial: int = 0


class Kept(NamedTuple):
    """A value beside a topic."""

    value: bytes
    revision: int


def revision_of(kept: Kept | None) -> int:
    """The revision of what may be there; 0 for nothing."""
    return 0 if kept is None else kept.revision


class Extent(NamedTuple):
    """What a partition holds.

    Attributes:
        first: Offset of the oldest record that can be read; `last + 1` when there is none.
        last: Offset of the newest one there ever was; 0 for none.
    """

    first: int
    last: int


class Reached(NamedTuple):
    """How far the delivering of a partition to a group has come.

    Attributes:
        serial: Of the last delivery.
        offset: Up to which everything was delivered once.
    """

    serial: int
    offset: int


class GroupInfo(NamedTuple):
    """How far a group is.

    Attributes:
        floor: In each partition, the offset up to which it has acknowledged everything.
        undelivered: Records that nobody in it has fetched.
        pending: Records that were fetched and are not acknowledged.
        owed: How many of these are of each partition; None where the broker does not tell.
        reached: Of each partition the last delivery, where deliveries have serials.
    """

    floor: Mapping[int, int]
    undelivered: int
    pending: int
    owed: Mapping[int, int] | None = None
    reached: Mapping[int, Reached] | None = None

    @property
    def lag(self) -> int:
        """Records that it has not acknowledged."""
        return self.undelivered + self.pending


class Description(NamedTuple):
    """A topic and what is in it."""

    topic: Topic
    extents: Mapping[int, Extent]
    records: int
    nbytes: int


class Grant(NamedTuple):
    """Who may do what: `actions` of publish, subscribe and admin; a topic may end in `.*`."""

    principal: str
    topic: str
    actions: frozenset[str]


def check_topic(name: object) -> str:
    """A topic's name; raises ConfigurationError."""
    if not isinstance(name, str) or len(name) > _LONGEST or not re.fullmatch(_TOPIC, name):
        raise ConfigurationError(
            f"{name!r} cannot name a topic: words of letters, digits, '_' and '-', joined by dots, {_LONGEST} at most."
        )
    return name


def check_start(start: Start, name: str = "start") -> Start:
    """Where reading begins, as an argument of that `name` says it; raises ConfigurationError."""
    if not isinstance(start, From | Mapping | int | float):
        raise ConfigurationError(
            f"{name}= is EARLIEST, LATEST, seconds since 1970 or the first offset of each partition, not {start!r}."
        )
    return start


def check_group(name: object) -> str:
    """A group's name; raises ConfigurationError."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_~][A-Za-z0-9_~-]{0,63}", name):
        raise ConfigurationError(f"{name!r} cannot name a group: 1 to 64 letters, digits, '_' and '-'.")
    return name


def check_name(name: str) -> str:
    """The name of a value beside a topic; raises ConfigurationError."""
    if not re.fullmatch(r"[A-Za-z0-9_=/-][A-Za-z0-9_=/.-]{0,199}", name) or ".." in name or name.endswith("."):
        raise ConfigurationError(f"{name!r} cannot name a value: 1 to 200 letters, digits, '_', '=', '/', '.' and '-'.")
    return name
