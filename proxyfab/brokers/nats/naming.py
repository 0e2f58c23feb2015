"""How topics, groups and values are called in JetStream, and how a topic's description is kept there. Pure.

stream     pf_<topic>         subjects pf.<topic>.<partition>, description in its metadata
consumer   <group>=<n>=<partition>; n grows when the group moves, and only the largest whole n counts
bucket     KV_pf_<topic>      subjects $KV.pf_<topic>.<name>; notes of a group under ~<group>.<partition>.<offset>
gathered   pf.<topic>.~.<server>.<name>    a producer's value on its way up, behind all that it sent; see `gathering`

The name of a value that begins with a word and a slash has its word as a token of its own, so that kinds of values can
be told apart by subject: `producers/cam` is `producers./cam`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from proxyfab.errors import ConfigurationError, IntegrityError
from proxyfab.events.model import Topic

_TOPIC = "proxyfab"
_SAFE = "!#$&'()*+,/:;<=>?@[]^_`{|}~-."
_KIND, _KIND_KEY = re.compile(r"^([A-Za-z0-9_=-]+)/"), re.compile(r"^([A-Za-z0-9_=-]+)\./")
OWN = "%-"
"""Begins the id of a record that has none, so that it can be sent again; `quote` makes no such thing."""


class Names(NamedTuple):
    """Names under one prefix."""

    ns: str

    def stream(self, topic: str) -> str:
        """The stream of a topic."""
        return f"{self.ns}_{escape(topic)}"

    def subject(self, topic: str, partition: int) -> str:
        """Where a partition's records go."""
        return f"{self.ns}.{topic}.{partition}"

    def subjects(self, topic: Topic) -> list[str]:
        """Where its records go."""
        return [self.subject(topic.name, number) for number in range(topic.partitions)]

    def topic(self, stream: str) -> str | None:
        """The topic of a stream; None for one that is nobody's here."""
        start = f"{self.ns}_"
        return unescape(stream[len(start) :]) if stream.startswith(start) else None

    def bucket(self, topic: str) -> str:
        """The bucket of the values beside a topic, or, without one, beside the broker."""
        return f"{self.ns}_{escape(topic)}" if topic else self.ns


def escape(topic: str) -> str:
    """A topic's name as streams and buckets may have it."""
    return topic.replace("_", "__").replace(".", "_-")


def unescape(name: str) -> str:
    """The inverse."""
    return re.sub(r"_[_-]", lambda match: "_" if match[0] == "__" else ".", name)


def key_of(value: str) -> str:
    """A value's name as a bucket has it; raises ConfigurationError."""
    if _KIND_KEY.match(value):
        raise ConfigurationError(f"{value!r} cannot name a value here: leave out its first dot.")
    return _KIND.sub(r"\1./", value)


def value_of(key: str) -> str:
    """The inverse."""
    return _KIND_KEY.sub(r"\1/", key)


class Seat(NamedTuple):
    """A consumer of a group: which of its incarnations, and which partition."""

    group: str
    turn: int
    partition: int

    def __str__(self) -> str:
        return f"{self.group}={self.turn}={self.partition}"

    @classmethod
    def parse(cls, consumer: str) -> Seat | None:
        """None for what is no group's."""
        group, *rest = consumer.split("=")
        return cls(group, int(rest[0]), int(rest[1])) if len(rest) == 2 and all(map(str.isdigit, rest)) else None


def pack(topic: Topic) -> dict[str, str]:
    """A topic as a stream's metadata."""
    return {_TOPIC: base64.b64encode(msgspec.msgpack.encode(topic)).decode()}


def unpack(config: dict[str, Any], name: str) -> Topic:
    """The inverse; raises IntegrityError."""
    try:
        return msgspec.msgpack.decode(base64.b64decode(config["metadata"][_TOPIC]), type=Topic)
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise IntegrityError(
            f"The stream {config.get('name')} is not the topic {name} as proxyfab makes one: {error!r}. Choose another "
            "?ns=, or delete that stream."
        ) from error


def pack_id(identity: str) -> str:
    """A record's id as a header has it."""
    return quote(identity, safe=_SAFE)


def unpack_id(text: str) -> str:
    """The inverse; "" for one that was drawn for sending only."""
    if text.startswith(OWN):
        return ""
    return unquote(text) if "%" in text else text


def lowest(floors: Iterable[int]) -> int:
    """The lowest of several floors; 0 when there is none."""
    return min(floors, default=0)
