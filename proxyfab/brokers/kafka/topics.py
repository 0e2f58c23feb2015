"""Making topics, by request or by use; and what a topic is, as it is kept beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

from proxyfab.brokers.kafka.client import Client
from proxyfab.errors import CapabilityError, ConfigurationError, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.events.model import Topic

OPTION = "kafka"
"""The option of a Topic that is for Kafka: `{"replicas": 3, "config": {"min.insync.replicas": "2"}}`."""


def make_topic(client: Client, name: str, partitions: int, config: Mapping[str, str], replicas: int = -1) -> int:
    """Make a topic, if there is none, and return when it can be used; how many partitions it has."""
    if not client.place.admin:
        return client.bring_about(name)
    said = f"Making topic {name} at {client.place.label}"
    request_topic(client, said, NewTopic(name, partitions, replicas, config=dict(config)))
    until = time.monotonic() + client.timeout
    while not (count := client.partitions(name, fresh=True)):
        if time.monotonic() > until:
            raise ConnectorError(f"{said}: it was made, and its servers do not show it yet; try again.")
        time.sleep(0.02)
    return count


def delete_topic(client: Client, name: str) -> None:
    """Delete a topic that there is."""
    if not client.place.admin:
        raise CapabilityError(f"{client.place.label} is used without its administrator's requests (?admin=0).")
    said = f"Deleting topic {name} at {client.place.label}"
    request_end(client, said, name)
    client.forget(name)
    until = time.monotonic() + client.timeout
    while client.partitions(name, fresh=True):
        if time.monotonic() > until:
            raise ConnectorError(f"{said}: its servers still show it; look again later.")
        time.sleep(0.02)


def request_topic(client: Client, said: str, wanted: NewTopic) -> None:
    """Ask for a topic; nothing happens if it exists."""
    try:
        client.answers(said, lambda admin, seconds: admin.create_topics([wanted], request_timeout=seconds))
    except ProxyfabError as error:
        cause = error.__cause__
        if not isinstance(cause, KafkaException) or cause.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def request_end(client: Client, said: str, name: str) -> None:
    """Ask for a topic's end."""
    client.answers(said, lambda admin, seconds: admin.delete_topics([name], request_timeout=seconds))


def request_cut(client: Client, name: str, before: int, partition: int = 0) -> None:
    """Ask for the end of all records of a partition before an offset."""
    spot = TopicPartition(name, partition, before)
    client.answers(
        f"Cutting {name} at {client.place.label}",
        lambda admin, seconds: admin.delete_records([spot], request_timeout=seconds),
    )


def cut(client: Client, name: str, partitions: int, upto: Mapping[int, int]) -> int:
    """Take out the oldest records of partitions, up to our offsets (from 1); how many."""
    if not client.place.admin:
        raise CapabilityError(f"{client.place.label} is used without its administrator's requests (?admin=0).")
    if any(not 0 <= number < partitions for number in upto):
        raise ConfigurationError(f"Topic {name} has {partitions} partitions; {list(upto)} are not all there.")
    taken = 0
    for number, (low, high) in client.bounds(name, list(upto)).items():
        before = min(upto[number], high)
        if before > low:
            request_cut(client, name, before, number)
            taken += before - low
    return taken


def settings(topic: Topic) -> tuple[dict[str, str], int]:
    """Kafka's configuration of a topic, and its number of replicas; -1 for what the cluster is used to.

    Raises:
        ConfigurationError: It asks for what Kafka cannot do.
    """
    if topic.max_bytes is not None and topic.full == "reject":
        raise ConfigurationError(
            f"Topic {topic.name}: Kafka rejects nothing when a topic is full, it drops the oldest; say "
            'full="drop_oldest" with max_bytes, or leave max_bytes out.'
        )
    own: Mapping[str, Any] = topic.options.get(OPTION, {})
    config = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    if topic.retention is not None:
        config["retention.ms"] = str(max(1, round(1000 * topic.retention)))
    if topic.max_bytes is not None:
        config["retention.bytes"] = str(max(1, topic.max_bytes // topic.partitions))
    config |= {str(name): str(value) for name, value in own.get("config", {}).items()}
    return config, int(own.get("replicas", -1))


def pack(topic: Topic) -> bytes:
    """What a topic is, as bytes."""
    return msgspec.msgpack.encode({name: getattr(topic, name) for name in Topic.__slots__})


def unpack(body: bytes, partitions: int) -> Topic:
    """The inverse, with the number of partitions that there really are."""
    try:
        fields: dict[str, Any] = msgspec.msgpack.decode(body)
        fields |= {"groups": tuple(fields["groups"]), "partitions": partitions}
        return Topic(**fields)
    except (msgspec.MsgspecError, ConfigurationError, TypeError, KeyError) as error:
        raise IntegrityError(f"What a topic is kept as makes no sense: {error}.") from error
