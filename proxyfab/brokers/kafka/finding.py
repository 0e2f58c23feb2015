"""Where records lie of which the cluster says only that it has them: looked up by their ids, from the end backwards.

That is what it answers when a record is sent again whose acknowledgement was lost. Promises: of the last `REACH`
offsets of a partition nothing is overlooked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, TopicPartition

from proxyfab.brokers.kafka.client import Client, in_time
from proxyfab.brokers.kafka.errors import translated

REACH = 4096
_STEP = 128
"""Offsets that are looked through at first: it was sent a moment ago."""
_BATCH = 64
_SLICE = 0.1


def found(client: Client, topic: str, wanted: Mapping[int, set[str]], until: float) -> dict[tuple[int, str], int]:
    """Offsets of records by partition and id; those that are not found, or not in time, are left out.

    Args:
        client: Whose cluster.
        topic: Which has these partitions.
        wanted: The ids by partition.
        until: When to give up, in monotonic seconds.

    Raises:
        ConnectorError: The cluster cannot be reached.
    """
    places: dict[tuple[int, str], int] = {}
    with _reader(client) as reader:
        for number, (first, end) in client.bounds(topic, list(wanted)).items():
            left, step, upper = set(wanted[number]) - {""}, _STEP, end
            while left and upper > max(first, end - REACH):
                lower = max(first, upper - step)
                for id, offset in _ids(reader, TopicPartition(topic, number, lower), upper, until):
                    if id in left:
                        places[number, id] = offset
                left -= {id for partition, id in places if partition == number}
                upper, step = lower, 4 * step
    return places


def _ids(reader: Consumer, begin: TopicPartition, end: int, until: float) -> Iterator[tuple[str, int]]:
    with translated(f"Looking for records of {begin.topic}"):
        reader.assign([begin])
        at = begin.offset
        while at < end and time.monotonic() < until:
            for message in reader.consume(_BATCH, _SLICE):
                offset = message.offset()
                if message.error() is not None or offset is None:
                    continue
                at = max(at, offset + 1)
                for name, value in message.headers() or ():
                    if name == "id" and isinstance(value, bytes):
                        yield value.decode(errors="replace"), offset


@contextlib.contextmanager
def _reader(client: Client) -> Iterator[Consumer]:
    reader = client.consumer("proxyfab", {"auto.offset.reset": "earliest"})
    try:
        yield reader
    finally:
        in_time(reader.close)
