"""Validators, selectors and serializers: callables are the producer's own, names are kept with the topic."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.errors import ConfigurationError, IntegrityError, SerializationError
from proxyfab.patterns.stream import Producer
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.naming import (
    opened,
    register_selector,
    register_serializer,
    register_validator,
)
from tests.patterns.stream_reading import events, frames, metadata, objects


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with MemoryBroker() as broker:
        yield broker


class Squeezed:
    name = "squeezed"

    def dump(self, metadata: dict[str, Any], /) -> bytes:
        return zlib.compress(msgspec.msgpack.encode(metadata))

    def load(self, data: bytes, /) -> dict[str, Any]:
        return msgspec.msgpack.decode(zlib.decompress(data), type=dict[str, Any])


def test_a_callable_validates(broker: MemoryBroker) -> None:
    def exposed(metadata: dict[str, Any], obj: object) -> None:
        if metadata["exposure"] <= 0:
            raise ValueError("not exposed")

    with Producer(broker, "frames", validator=exposed) as out:
        out.send(1, exposure=1)
        with pytest.raises(SerializationError, match="not exposed"):
            out.send(2, exposure=0)
        with pytest.raises(SerializationError, match="exposure"):
            out.send(3)

    assert objects(broker, "frames") == [1]
    assert dict(broker.describe("frames").topic.options) == {}


def test_a_name_holds_for_all_producers_of_the_topic(broker: MemoryBroker) -> None:
    register_validator("tests.named", lambda metadata, obj: "run" in metadata)
    with Producer(broker, "frames", validator="tests.named") as out:
        out.send(1, run=1)
    with Producer(broker, "frames") as out, pytest.raises(SerializationError, match="not valid"):
        out.send(2)


@pytest.mark.parametrize(
    ("validator", "good", "bad"),
    [
        (["schema", {"exposure": "float", "run": "str?"}], {"exposure": 0.5}, {"exposure": "x"}),
        (["schema", {"exposure": "float", "run": "str?"}], {"exposure": 1, "run": "a", "other": 1}, {"run": "a"}),
        (["pattern", {"kind": ["dark", "flat"]}], {"kind": "dark"}, {"kind": "frame"}),
    ],
)
def test_what_is_built_in(broker: MemoryBroker, validator: Any, good: Any, bad: Any) -> None:
    with Producer(broker, "frames", validator=validator) as out:
        out.send(1, metadata=good)
        with pytest.raises(SerializationError, match="not valid"):
            out.send(2, metadata=bad)


def test_selectors(broker: MemoryBroker) -> None:
    register_selector("tests.last", lambda metadata, key, partitions: partitions - 1)
    with Producer(broker, "last", partitions=3, selector="tests.last") as out:
        out.send(1)
        out.send(2, partition=1)
    with Producer(broker, "fields", partitions=8, selector=["field", "run"]) as out:
        for number in range(100):
            out.send(number, run=number % 5)
    with Producer(broker, "own", partitions=3, selector=lambda metadata, key, partitions: 7) as out:
        with pytest.raises(ConfigurationError, match="no partition 7"):
            out.send(1)

    assert {frame.partition: event.data for frame, event in events(broker, "last")} == {2: 1, 1: 2}
    for run in range(5):
        assert len({frame.partition for frame, event in events(broker, "fields") if event.data % 5 == run}) == 1


@pytest.mark.parametrize("serializer", [Squeezed(), "squeezed", ["fields", ["exposure", "run"]]])
def test_serializers(broker: MemoryBroker, serializer: Any) -> None:
    register_serializer(Squeezed())
    with Producer(broker, "frames", serializer=serializer) as out:
        out.send(1, exposure=0.5)
        out.send(2, exposure=0.5, run="a")
        out.send(3)

    packed = metadata(broker, "frames")

    assert all("exposure" not in str(each) or each == {} for each in packed if "fields" not in str(each))
    assert [opened(each) for each in packed] == [{"exposure": 0.5}, {"exposure": 0.5, "run": "a"}, {}]
    with Consumer(broker, "frames") as consumer:
        assert [item.metadata for item in consumer.fetch(3, 5)] == [
            {"exposure": 0.5},
            {"exposure": 0.5, "run": "a"},
            {},
        ]


def test_metadata_that_no_serializer_wrote_are_what_they_are() -> None:
    assert opened({}) == {}
    assert opened({"a": b"1"}) == {"a": b"1"}
    with pytest.raises(ConfigurationError, match="register_serializer"):
        opened({"serializer:unheard": b""})
    for damaged in ({"serializer:fields=a,b": b"\xc1"}, {"serializer:fields=a": b"\x92\x01\x02"}):
        with pytest.raises(IntegrityError):
            opened(damaged)


def test_names_that_are_not_known(broker: MemoryBroker) -> None:
    for wrong in ({"validator": "unheard"}, {"selector": ["field"]}, {"serializer": "x"}, {"validator": ["schema", 5]}):
        with pytest.raises(ConfigurationError, match=r"not known here|makes no sense"):
            Producer(broker, "frames", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no type 'complex'"):
        Producer(broker, "frames", validator=["schema", {"a": "complex"}])


def test_a_topic_that_exists_is_not_changed(broker: MemoryBroker) -> None:
    register_validator("tests.any", lambda metadata, obj: None)
    with Producer(broker, "frames") as out:
        out.send(1)
    with Producer(broker, "frames", validator="tests.any") as out:
        with pytest.raises(ConfigurationError, match="its validator is None, not 'tests.any'"):
            out.send(2)

    assert len(frames(broker, "frames")) == 1
