"""Topics, starts and group's ways as plain maps and lists, for messages and files. Sans-IO; what is read is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from proxyfab.errors import ConfigurationError, IntegrityError
from proxyfab.events.model import EARLIEST, LATEST, From, GroupInfo, Start, Topic

_PARTITIONS = 1024


def topic_out(topic: Topic) -> dict[str, Any]:
    """A topic as a map; its options are packed, since they are nobody's business but its users'.

    Raises:
        ConfigurationError: The options hold what msgpack has not.
    """
    try:
        options = msgspec.msgpack.encode(dict(topic.options))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"The options of topic {topic.name} are plain: numbers, text, lists, maps; {error}."
        ) from error
    return {
        "name": topic.name,
        "partitions": topic.partitions,
        "retention": topic.retention,
        "max_bytes": topic.max_bytes,
        "full": topic.full,
        "window": topic.window,
        "release": topic.release,
        "groups": list(topic.groups),
        "options": options,
    }


def topic_in(fields: Mapping[str, Any]) -> Topic:
    """The inverse.

    Raises:
        IntegrityError: It is none.
        ConfigurationError: It is one that makes no sense.
    """
    name, groups = fields.get("name"), fields.get("groups")
    retention, limit, window = fields.get("retention"), fields.get("max_bytes"), fields.get("window")
    if (
        not isinstance(name, str)
        or not isinstance(groups, list)
        or not all(isinstance(group, str) for group in groups)
        or not isinstance(fields.get("partitions"), int)
        or not (retention is None or isinstance(retention, int | float))
        or not (limit is None or isinstance(limit, int))
        or not isinstance(window, int | float)
        or not isinstance(fields.get("full"), str)
        or not isinstance(fields.get("release"), str)
    ):
        raise IntegrityError("The description of a topic is malformed.")
    return Topic(
        name,
        fields["partitions"],
        retention,
        limit,
        fields["full"],
        float(window),
        fields["release"],
        tuple(groups),
        options_in(fields.get("options")),
    )


def options_in(packed: object) -> dict[str, Any]:
    """Options of a topic from their packed form; raises IntegrityError."""
    try:
        return msgspec.msgpack.decode(cast("bytes", packed), type=dict[str, Any])
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"The options of a topic are malformed: {error}.") from error


def start_out(start: Start) -> str | float | list[list[int]]:
    """Where to begin, as text, seconds or pairs of partition and offset."""
    if isinstance(start, From):
        return start.value
    if isinstance(start, Mapping):
        return [[int(partition), int(offset)] for partition, offset in start.items()]
    return float(start)


def start_in(plain: object) -> Start:
    """The inverse; raises IntegrityError."""
    if plain == EARLIEST.value:
        return EARLIEST
    if plain == LATEST.value:
        return LATEST
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return float(plain)
    return cursors_in(plain)


def cursors_in(plain: object) -> dict[int, int]:
    """Offsets by partition, from pairs; raises IntegrityError."""
    if not isinstance(plain, list) or len(plain) > _PARTITIONS:
        raise IntegrityError("Where to begin is neither a moment nor a list of partitions and offsets.")
    found: dict[int, int] = {}
    for pair in plain:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or pair[0].__class__ is not int
            or pair[1].__class__ is not int
            or not 0 <= pair[0] < _PARTITIONS
            or not 0 <= pair[1] < 1 << 62
        ):
            raise IntegrityError("A partition and an offset to begin at are no numbers.")
        found[pair[0]] = pair[1]
    return found


def info_out(info: GroupInfo) -> list[Any]:
    """How far a group is, as a list."""
    owed = None if info.owed is None else _pairs(info.owed)
    return [_pairs(info.floor), info.undelivered, info.pending, owed]


def _pairs(numbers: Mapping[int, int]) -> list[list[int]]:
    return [[partition, number] for partition, number in numbers.items()]


def info_in(plain: Any) -> GroupInfo:
    """The inverse; raises IntegrityError."""
    if not isinstance(plain, list) or len(plain) != 4 or plain[1].__class__ is not int or plain[2].__class__ is not int:
        raise IntegrityError("How far a group is, is malformed.")
    owed = None if plain[3] is None else cursors_in(plain[3])
    return GroupInfo(cursors_in(plain[0]), plain[1], plain[2], owed)
