"""What `top` shows of a broker: topics with their rates, groups, producers, dead letters, and triggers.

Frames are what a broker counts: records of up to 64 events each. Rates are from two looks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from proxyfab import registry
from proxyfab.brokers.opening import open_broker
from proxyfab.cli.output import public, size
from proxyfab.cli.top_watch import Watch, in_time, number, table
from proxyfab.errors import ProxyfabError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.patterns.stream.letters import topic_of
from proxyfab.patterns.trigger import statistics, triggers

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from proxyfab.integrations.prometheus import Collector

_MOST_ROWS = 50
_DEAD = topic_of("")


def is_broker(url: str, said: bool) -> bool:
    """Whether a URL is a broker's: as it was said, or because no store has its scheme."""
    scheme = url.partition(":")[0]
    return said or (scheme in registry.names("brokers") and scheme not in registry.names("connectors"))


class GroupSample(NamedTuple):
    """A group: frames it has not acknowledged, those that somebody holds, and how many a second it acknowledges."""

    lag: int
    pending: int
    rate: float | None


class TopicSample(NamedTuple):
    """A topic: what it holds, what came in a second, who reads and who sends."""

    partitions: int
    frames: int
    nbytes: int
    written: int
    rate: float | None
    byte_rate: float | None
    groups: dict[str, GroupSample]
    dead_letters: int
    producers: int
    ended: int


class Sample(NamedTuple):
    """A look at a broker."""

    moment: float
    seconds: float
    topics: dict[str, TopicSample]
    triggers: dict[str, dict[str, Any]]


class BrokerWatch(Watch[Sample]):
    """A broker.

    Args:
        url: Its URL.
    """

    def __init__(self, url: str) -> None:
        self._broker = open_broker(url)
        self.url = public(url)

    def look(self, before: Sample | None) -> Sample:
        return in_time(lambda: _look(self._broker, before), f"What {self.url} holds")

    def document(self, sample: Sample) -> dict[str, object]:
        topics = {name: _said(topic) for name, topic in sample.topics.items()}
        return {"time": sample.moment, "what": self.url, "topics": topics, "triggers": sample.triggers}

    def line(self, sample: Sample) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(sample.moment))
        parts = [moment, self.url, f"topics={len(sample.topics)}"]
        for name, topic in sample.topics.items():
            parts += [
                f"{name}.frames={topic.frames}",
                f"{name}.bytes={topic.nbytes}",
                f"{name}.dead={topic.dead_letters}",
            ]
            parts += [f"{name}.in/s={topic.rate:.1f}"] if topic.rate is not None else []
            for group, each in topic.groups.items():
                parts += [f"{name}.{group}.lag={each.lag}"]
                parts += [f"{name}.{group}.out/s={each.rate:.1f}"] if each.rate is not None else []
        return " ".join(parts)

    def picture(self, sample: Sample) -> Group:
        topics = sample.topics.values()
        held = f"{len(topics)} topics, {sum(each.frames for each in topics)} frames, "
        held += size(sum(each.nbytes for each in topics))
        parts: list[Text | Table] = [Text(self.url, style="bold"), Text(held), _topics(sample), _groups(sample)]
        return Group(*parts, *([_triggers(sample)] if sample.triggers else []))

    def collector(self) -> Collector:
        return BrokerCollector(self)

    def close(self) -> None:
        """Others who have opened it keep it open."""
        self._broker.close()


# -- looking ---------------------------------------------------------------------------------------------------------


def _look(broker: Broker, before: Sample | None) -> Sample:
    moment, clock = time.time(), time.monotonic()
    passed = max(clock - before.seconds, 0.001) if before is not None else 0.0
    names = broker.topics()
    found: dict[str, TopicSample] = {}
    for name in sorted(names):
        if name.endswith(_DEAD) and name.removesuffix(_DEAD) in names:
            continue  # it is told of with its topic
        try:
            found[name] = _topic(broker, name, before.topics.get(name) if before is not None else None, passed)
        except TopicNotFound:  # deleted meanwhile
            continue
    return Sample(moment, clock, found, _fired(broker))


def _topic(broker: Broker, name: str, before: TopicSample | None, passed: float) -> TopicSample:
    said, groups = broker.describe(name), broker.groups(name)
    written = sum(extent.last for extent in said.extents.values())
    rate = None
    if before is not None and written >= before.written:  # otherwise it is another one of that name
        rate = (written - before.written) / passed
    each = {
        group: GroupSample(info.lag, info.pending, _acknowledged(info.lag, rate, before, group, passed))
        for group, info in sorted(groups.items())
    }
    nbytes = rate * said.nbytes / said.records if rate is not None and said.records else rate
    made, ended = _producers(broker, name)
    return TopicSample(
        len(said.extents), said.records, said.nbytes, written, rate, nbytes, each, _letters(broker, name), made, ended
    )


def _acknowledged(lag: int, rate: float | None, before: TopicSample | None, group: str, passed: float) -> float | None:
    """What came in, less what it is further behind now."""
    if rate is None or before is None or group not in before.groups:
        return None
    return max(0.0, rate - (lag - before.groups[group].lag) / passed)


def _letters(broker: Broker, name: str) -> int:
    try:
        return broker.describe(topic_of(name)).records
    except TopicNotFound:
        return 0


def _producers(broker: Broker, name: str) -> tuple[int, int]:
    """How many there were, and how many of them have ended."""
    if Capability.STATE not in broker.capabilities:
        return 0, 0
    made = ended = 0
    for kept in broker.state(name).items("producers/").values():
        try:
            ended += bool(msgspec.msgpack.decode(kept.value).get("ended"))
            made += 1
        except (msgspec.MsgspecError, AttributeError):  # somebody else's
            continue
    return made, ended


def _fired(broker: Broker) -> dict[str, dict[str, Any]]:
    if Capability.STATE not in broker.capabilities:
        return {}
    found = {}
    for name, said in sorted(triggers(broker).items()):
        did = statistics(broker, name)
        figures = {"fired": did.fired, "succeeded": did.succeeded, "failed": did.failed, "buried": did.buried}
        found[name] = {"topic": said.get("topic"), "enabled": bool(said.get("enabled")), **figures}
    return found


# -- showing ---------------------------------------------------------------------------------------------------------


def _said(topic: TopicSample) -> dict[str, object]:
    groups = {name: group._asdict() for name, group in topic.groups.items()}
    return {**topic._asdict(), "groups": groups, "open": topic.producers - topic.ended}


def _topics(sample: Sample) -> Table:
    columns = ("topic", "partitions", "frames", "size", "in/s", "bytes/s", "producers", "open", "dead letters")
    rows = [
        (
            name, str(each.partitions), number(each.frames), size(each.nbytes), _rate(each.rate),
            "-" if each.byte_rate is None else size(each.byte_rate), str(each.producers),
            str(each.producers - each.ended), str(each.dead_letters),
        )
        for name, each in list(sample.topics.items())[:_MOST_ROWS]
    ]  # fmt: skip
    return table(columns, [*rows, *_more(len(sample.topics), len(columns))])


def _groups(sample: Sample) -> Table:
    columns = ("group", "topic", "lag", "pending", "out/s")
    rows = [
        (group, name, number(each.lag), number(each.pending), _rate(each.rate))
        for name, topic in sample.topics.items()
        for group, each in topic.groups.items()
    ]
    return table(columns, [*rows[:_MOST_ROWS], *_more(len(rows), len(columns))])


def _triggers(sample: Sample) -> Table:
    columns = ("trigger", "topic", "enabled", "fired", "succeeded", "failed", "buried")
    return table(columns, [(name, *map(str, each.values())) for name, each in sample.triggers.items()])


def _more(count: int, columns: int) -> list[list[str]]:
    return [[f"and {count - _MOST_ROWS} more", *[""] * (columns - 1)]] if count > _MOST_ROWS else []


def _rate(rate: float | None) -> str:
    return "-" if rate is None else number(rate)


# -- exporting -------------------------------------------------------------------------------------------------------


class BrokerCollector:
    """Gauges and counters of a broker's topics, groups and triggers; only `proxyfab_up` where it does not answer."""

    def __init__(self, watch: BrokerWatch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """What is there now."""
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily("proxyfab_up", "Whether the place answers.", labels=("place",))
        try:
            sample: Sample | None = self._watch.look(None)
        except ProxyfabError:
            sample = None
        up.add_metric((self._watch.url,), 0 if sample is None else 1)
        yield up
        if sample is not None:
            yield from _metrics(self._watch.url, sample)


_OF_TOPICS = {
    "frames": "Frames that the topic holds.",
    "bytes": "Bytes of frames that the topic holds.",
    "dead_letters": "Frames among the topic's dead letters.",
    "producers": "Producers that ever sent to the topic.",
    "producers_ended": "Producers that have ended.",
}
_FIELDS = {"bytes": "nbytes", "producers_ended": "ended"}
_OF_GROUPS = {
    "lag": "Frames that a group has not acknowledged.",
    "pending": "Frames among them that a member holds.",
}


def _metrics(place: str, sample: Sample) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, what in _OF_TOPICS.items():
        gauge = GaugeMetricFamily(f"proxyfab_topic_{name}", what, labels=("place", "topic"))
        for topic, each in sample.topics.items():
            gauge.add_metric((place, topic), getattr(each, _FIELDS.get(name, name)))
        yield gauge
    written = CounterMetricFamily("proxyfab_topic_written", "Frames that ever came.", labels=("place", "topic"))
    for topic, each in sample.topics.items():
        written.add_metric((place, topic), each.written)
    yield written
    for field, what in _OF_GROUPS.items():
        gauge = GaugeMetricFamily(f"proxyfab_group_{field}", what, labels=("place", "topic", "group"))
        for topic, each in sample.topics.items():
            for group, figures in each.groups.items():
                gauge.add_metric((place, topic, group), getattr(figures, field))
        yield gauge
    for field in ("fired", "succeeded", "failed", "buried"):
        counter = CounterMetricFamily(
            f"proxyfab_trigger_{field}", f"{field}, as the trigger tells it.", labels=("place", "trigger")
        )
        for trigger, did in sample.triggers.items():
            counter.add_metric((place, trigger), did[field])
        yield counter
