"""Where records lie of which the cluster says only that it has them: looked up by their marks, from the end backwards.

That is what it answers when a record is sent again whose acknowledgement was lost. Promises: of the last `REACH`
offsets of a partition nothing is overlooked, and what was looked through is told, so that what is not there is known
not to be.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

from proxyfab.brokers.kafka.client import Client, in_time
from proxyfab.brokers.kafka.errors import translated

REACH = 4096
IDENTITY, MARK = "id", "mark"
"""Headers: the id that a record was given, and what is drawn for one that has none."""
_STEP = 128
"""Offsets that are looked through at first: it was sent a moment ago."""
_BATCH = 64
_SLICE = 0.1


class Search(NamedTuple):
    """What was looked for.

    Attributes:
        places: Offsets by partition and mark, of what was found.
        low: By partition the offset from which on to the end everything was looked through.
        end: By partition what was the end then.
    """

    places: dict[tuple[int, str], int]
    low: dict[int, int]
    end: dict[int, int]

    def covers(self, partition: int, since: int) -> bool:
        """Whether all was seen that lies at `since` or behind it."""
        low = self.low[partition]
        return low == 0 or low <= since <= self.end[partition]


def search(client: Client, topic: str, wanted: Mapping[int, set[str]], until: float) -> Search:
    """Look for records by their marks, until all are found, or for `REACH` offsets.

    Args:
        client: Whose cluster.
        topic: Which has these partitions.
        wanted: The marks by partition.
        until: When to give up, in monotonic seconds.

    Raises:
        ConnectorError: The cluster cannot be reached.
    """
    bounds = client.bounds(topic, list(wanted))
    told = Search({}, {}, {number: end for number, (_, end) in bounds.items()})
    with _reader(client) as reader:
        for number, (first, end) in bounds.items():
            left, step, upper = set(wanted[number]), _STEP, end
            told.low[number] = end
            while left and upper > max(first, end - REACH):
                lower = max(first, upper - step)
                if not _look(reader, TopicPartition(topic, number, lower), upper, until, told.places, left):
                    break
                told.low[number] = upper = lower
                step *= 4
    return told


def _look(
    reader: Consumer, begin: TopicPartition, end: int, until: float, places: dict[tuple[int, str], int], left: set[str]
) -> bool:
    """Take what is found out of `left`; whether everything from `begin` to `end` was seen."""
    with translated(f"Looking for records of {begin.topic}"):
        reader.assign([begin])
        at = begin.offset
        while at < end:
            if time.monotonic() >= until:
                return False
            for message in reader.consume(_BATCH, _SLICE):
                offset, error = message.offset(), message.error()
                if offset is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):
                    continue
                at = max(at, offset + (error is None))  # at the end it is that of the end itself
                if error is None and (mark := _mark(message)) in left:
                    places[begin.partition, mark] = offset
                    left.discard(mark)
    return True


def _mark(message: Any) -> str:
    for name, value in message.headers() or ():
        if name in (IDENTITY, MARK) and isinstance(value, bytes):
            return value.decode(errors="replace")
    return ""


@contextlib.contextmanager
def _reader(client: Client) -> Iterator[Consumer]:
    """Sees the end, and what transactions of others hold back; so it waits for neither."""
    options = {"enable.partition.eof": True, "isolation.level": "read_uncommitted"}
    reader = client.consumer("proxyfab", options)
    try:
        yield reader
    finally:
        in_time(reader.close)
