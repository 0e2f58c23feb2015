"""A topic's customs: who validates its events, selects their partitions and serializes their metadata. By name, or not.

What a Producer is given as a callable is its own affair. What is given by name, or as `[name, argument]`, is kept with
the topic (`Topic.options`), and holds for all who send to it; each of them has to know the name:

    register_validator("exposed", lambda metadata, obj: metadata["exposure"] > 0)
    Producer(broker, "frames", validator="exposed", selector=["field", "run"])

Validators, partition selectors and serializers are Mofka's words (https://mofka.readthedocs.io).

Promises: a name is looked up in a table, never imported. A validator refuses by raising, or by answering False. A
serializer's metadata say its name, so that whoever reads them needs no topic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import index
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from proxyfab.errors import ConfigurationError, IntegrityError, ProxyfabError, SerializationError
from proxyfab.events.model import Topic

T = TypeVar("T")
Validator: TypeAlias = Callable[[dict[str, Any], object], object]
"""Called with `(metadata, object)`."""
Selector: TypeAlias = Callable[[dict[str, Any], "str | None", int], int]
"""Called with `(metadata, key, partitions)`."""
_MARK = "serializer:"


class Serializer(Protocol):
    """Metadata as bytes, and back. `name` is known to all who read them."""

    name: str

    def dump(self, metadata: dict[str, Any], /) -> bytes:
        """What travels."""

    def load(self, data: bytes, /) -> dict[str, Any]:
        """The inverse; the bytes may come from anybody."""


_KINDS = ("validator", "selector", "serializer")
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}


def register_validator(name: str, validator: Validator) -> None:
    """Let topics ask for it by name, in this process."""
    _registered["validator"][name] = validator


def register_selector(name: str, selector: Selector) -> None:
    """Let topics ask for it by name, in this process."""
    _registered["selector"][name] = selector


def register_serializer(serializer: Serializer) -> None:
    """Let topics ask for it by its name, and read what it wrote, in this process."""
    _registered["serializer"][serializer.name] = serializer


@lru_cache(4096)
def partition_of(key: str, partitions: int) -> int:
    """Where the events of a key go; raises SerializationError."""
    try:
        return xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) % partitions
    except AttributeError:
        raise SerializationError(f"An event's key is text, not {key!r}.") from None


# -- what is built in ------------------------------------------------------------------------------------------------

_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (int, float, str, bool, bytes, list, dict)}


def whole(partition: object) -> int:
    """A partition's number, whoever has it made; raises ConfigurationError."""
    try:
        return index(partition)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise ConfigurationError(f"A partition is a whole number, not {partition!r}.") from None


def _schema(fields: Mapping[str, str]) -> Validator:
    """`["schema", {"exposure": "float", "run": "str?"}]`: fields of these types; those with `?` may be missing."""
    unknown = sorted({kind.rstrip("?") for kind in fields.values()} - set(_TYPES))
    if unknown:
        raise ConfigurationError(f"A schema has no type {unknown[0]!r}; it knows {', '.join(_TYPES)}.")
    members: list[Any] = [
        (name, _TYPES[kind.rstrip("?")], *([None] if kind.endswith("?") else []))
        for name, kind in sorted(fields.items(), key=lambda field: field[1].endswith("?"))
    ]
    shape = msgspec.defstruct("Metadata", members)

    def validate(metadata: dict[str, Any], _: object) -> None:
        msgspec.convert(metadata, shape)

    return validate


def _pattern(wanted: Mapping[str, Sequence[Any]]) -> Validator:
    """`["pattern", {"kind": ["frame", "dark"]}]`: these fields have one of these values."""

    def validate(metadata: dict[str, Any], _: object) -> bool:
        return all(metadata.get(name) in values for name, values in wanted.items())

    return validate


def _field(name: str) -> Selector:
    """`["field", "run"]`: events with one value of a field of their metadata go to one partition."""
    return lambda metadata, _, partitions: partition_of(str(metadata.get(name)), partitions)


class _Fields:
    """`["fields", ["exposure", "run"]]`: values without their names, in this order. Others are refused."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.name = f"fields={','.join(self.names)}"

    def dump(self, metadata: dict[str, Any], /) -> bytes:
        strange = sorted(set(metadata) - set(self.names))
        if strange:
            raise SerializationError(f"Metadata of this topic have no field {strange[0]!r}, only {self.names}.")
        return msgspec.msgpack.encode([metadata.get(name) for name in self.names])

    def load(self, data: bytes, /) -> dict[str, Any]:
        values = msgspec.msgpack.decode(data, type=list[Any])
        return {name: value for name, value in zip(self.names, values, strict=True) if value is not None}


_BUILT_IN: dict[str, dict[str, Callable[[Any], Any]]] = {
    "validator": {"schema": _schema, "pattern": _pattern},
    "selector": {"field": _field},
    "serializer": {"fields": _Fields},
}
_USUAL = "default"
"""Validates nothing, goes by key and else round robin, writes msgpack: the same as nothing."""


def find(kind: str, named: object) -> Any:
    """What a topic asks for by name, or by `[name, argument]`; None for the default.

    Raises:
        ConfigurationError: It is not known here.
    """
    name, *arguments = [named] if isinstance(named, str) else named if isinstance(named, (list, tuple)) else [None]
    if name == _USUAL:
        return None
    try:
        if len(arguments) == 1 and name in _BUILT_IN[kind]:
            return _BUILT_IN[kind][name](arguments[0])
        if not arguments and name in _registered[kind]:
            return _registered[kind][name]
    except (TypeError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"The {kind} {named!r} makes no sense: {error}.") from error
    known = [*_registered[kind], *(f"[{each!r}, ...]" for each in _BUILT_IN[kind])]
    raise ConfigurationError(
        f"The {kind} {named!r} is not known here: call register_{kind} first. Known are {', '.join(known)}."
    )


def opened(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata as they were given, from what an event holds.

    Raises:
        ConfigurationError: Their serializer is not known here.
        IntegrityError: They are damaged.
    """
    if len(metadata) != 1:
        return metadata
    ((name, data),) = metadata.items()
    if not name.startswith(_MARK) or data.__class__ is not bytes:
        return metadata
    name = name.removeprefix(_MARK)
    short, _, fields = name.partition("=")
    serializer = _Fields(fields.split(",")) if short == "fields" else find("serializer", name)
    try:
        return serializer.load(data)
    except ProxyfabError:
        raise
    except Exception as error:
        raise IntegrityError(f"Metadata of an event cannot be read by the serializer {name!r}: {error}.") from error


# -- what holds for one producer -------------------------------------------------------------------------------------


class Customs:
    """What one producer has to mind: its own customs, and its topic's."""

    def __init__(self, validator: Any, selector: Any, serializer: Any) -> None:
        given = {"validator": validator, "selector": selector, "serializer": serializer}
        self.kept = {kind: _plain(each) for kind, each in given.items() if isinstance(each, (str, list, tuple))}
        """What a new topic keeps."""
        self._own = {kind: each for kind, each in given.items() if each is not None and kind not in self.kept}
        for kind, named in self.kept.items():
            find(kind, named)
        if serializer is not None and "serializer" not in self.kept:
            register_serializer(serializer)
        self._validators: list[Validator] = []
        self._selector: Selector | None = None
        self._serializer: Serializer | None = None

    def know(self, topic: Topic) -> None:
        """Learn what the topic asks for.

        Raises:
            ConfigurationError: It is not known here, or something else was asked for.
        """
        for kind, named in self.kept.items():
            if _plain(topic.options.get(kind)) != named:
                raise ConfigurationError(
                    f"Topic {topic.name} exists, and its {kind} is {topic.options.get(kind)!r}, not {named!r}."
                )
        asked = {kind: find(kind, topic.options[kind]) for kind in _KINDS if topic.options.get(kind) is not None}
        self._validators = [each for each in (asked.get("validator"), self._own.get("validator")) if each is not None]
        self._selector = self._own.get("selector") or asked.get("selector")
        self._serializer = self._own.get("serializer") or asked.get("serializer")

    @property
    def any(self) -> bool:
        """Whether there is anything to mind."""
        return bool(self._validators or self._selector or self._serializer)

    def apply(
        self, obj: object, fields: dict[str, Any], key: str | None, partition: int | None, topic: Topic
    ) -> tuple[int | None, dict[str, Any]]:
        """The partition and the metadata of an event.

        Raises:
            SerializationError: It is refused.
            ConfigurationError: There is no such partition.
        """
        for validator in self._validators:
            try:
                answer = validator(fields, obj)
            except Exception as error:
                raise SerializationError(f"An event for topic {topic.name} is not valid: {error}") from error
            if answer is False:
                raise SerializationError(f"An event for topic {topic.name} is not valid: its metadata are {fields}.")
        if partition is None and self._selector is not None:
            partition = self._selector(fields, key, topic.partitions)
        if self._serializer is not None and fields:
            fields = {_MARK + self._serializer.name: self._serializer.dump(fields)}
        return partition, fields


def _plain(named: Any) -> Any:
    """As it comes back from a broker, which has no tuples."""
    if isinstance(named, (list, tuple)):
        return [_plain(each) for each in named]
    return {name: _plain(each) for name, each in named.items()} if isinstance(named, dict) else named


def topic_named(topic: str | Topic) -> Topic:
    """What a consumer's or producer's `topic=` says; raises ConfigurationError."""
    if isinstance(topic, str):
        return Topic(topic)
    if not isinstance(topic, Topic):
        raise ConfigurationError(f"topic= is a topic's name, or a Topic, not {topic!r}.")
    return topic


def broker_given(broker: T) -> T:
    """What is given as `broker=`, and is no URL; raises ConfigurationError."""
    if not callable(getattr(broker, "subscribe", None)):
        raise ConfigurationError(f"broker= is a broker or its URL, such as nats://host:4222, not {broker!r}.")
    return broker


def topic_of(topic: str | Topic, given: Mapping[str, Any], kept: Mapping[str, Any]) -> Topic:
    """What a producer's topic is to be like, if it does not exist; raises ConfigurationError."""
    options = {name: value for name, value in given.items() if value is not None}
    if isinstance(topic, str):
        return Topic(topic, **options, options=kept)
    topic = topic_named(topic)
    if options or kept:
        raise ConfigurationError(f"What topic {topic.name} is like is said by the Topic: give it {[*options, *kept]}.")
    return topic
