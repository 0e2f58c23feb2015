"""Events: how many a second, how late, and what an object costs beside its event.

One producer here, one consumer in a process of its own (a thread for what lies in this one). Figures are seconds for
one event from the first `send` until the last has come and is acknowledged, so producing and consuming overlap as they
do in use.
Peers: ProxyStore's streaming over Redis. Limits: redis-py's pipelined XADD with a group, pyzmq's PUSH and PULL, which
keeps nothing, and `queue.Queue`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from benchmarks.baselines import streams
from benchmarks.baselines.streams import InThread, Ours, Peer, PushPull, PythonQueue, Streams
from benchmarks.harness import Outcome, Row, Settings, Skipped, interleaved, row
from benchmarks.pairs import missing
from benchmarks.payloads import KB, MB
from benchmarks.results import Results
from proxyfab import Store, registry
from proxyfab.brokers import open_broker
from proxyfab.errors import MissingDependency
from proxyfab.events.broker import Broker
from proxyfab.patterns import Producer
from proxyfab.testing.processes import Child
from proxyfab.testing.servers import HOST, RedisServer, ServerMissing

BENCH = "events"
SMALL, LONE, OBJECTS, LOOK = "event", "lone event", "event with an object", "metadata of all, objects of 1 %"
OURS = "proxyfab-{}"
PATIENCE = 120.0
EVENTS = 100_000
"""Of one sample: enough that what is paid once, at the end, is little of it. At NATS who flushes waits 0.15 s until the
server has written down what was acknowledged: of 50,000 events at 100,000 a second almost a third of the time."""
GOALS = {"memory": 200_000, "zmq": 150_000, "redis": 80_000, "nats": 100_000, "kafka": 80_000}
ROOMS = 32
"""Partitions of the topic that small events go through at Kafka's mock cluster. It keeps 5 MiB of each, and what goes
before a consumer took it is lost to the group: of the four that a topic gets there by itself it keeps a fifth of a
sample, and a consumer that gets no processor for 0.2 s is further behind. Of these it keeps all.
"""
REMARKS = {"proxyfab-kafka": f", at librdkafka's mock cluster, {ROOMS} partitions"}
Make = Callable[[], Any]


class Place(NamedTuple):
    """Where a broker is.

    Attributes:
        url: What opens it.
        prepare: Makes room for a sample in a topic, where the server has too little of it.
    """

    url: str
    prepare: Callable[[str], object] | None = None


def run(settings: Settings) -> Outcome:
    """Small events, lone ones, objects, and a look at metadata."""
    outcome = Outcome([], [])
    with contextlib.ExitStack() as stack:
        places = _brokers(stack, outcome)
        urls = {name: place.url for name, place in places.items()}
        redis = urls.get("redis", "")
        small: dict[str, Make] = {
            OURS.format(name): partial(Ours, place.url, prepare=place.prepare) for name, place in places.items()
        }
        small |= _others(redis, outcome)
        _rates(SMALL, small, KB, 50 if settings.tiny else EVENTS, settings, outcome)
        lone = {name: make for name, make in small.items() if name.startswith("proxyfab") or "proxystore" in name}
        _lone(lone, 3 if settings.tiny else 300, settings, outcome)
        if redis:
            _objects(redis, settings, outcome)
        _checkpoints(urls["nats" if "nats" in urls else "memory"], settings, outcome)
    _look(settings, outcome)
    return outcome


def _brokers(stack: contextlib.ExitStack, outcome: Outcome) -> dict[str, Place]:
    """Each broker that there is, with its server running."""
    places = {"memory": Place("memory://bench-events")}
    for name, start in (("redis", _redis), ("nats", _nats), ("kafka", _kafka), ("zmq", _zmq)):
        if name not in registry.names("brokers"):
            continue
        try:
            place = start(stack)
            stack.enter_context(open_broker(place.url))  # closed at the end
            places[name] = place
        except (ServerMissing, MissingDependency) as reason:
            outcome.skipped.append(Skipped(BENCH, OURS.format(name), str(reason)))
    return places


def _redis(stack: contextlib.ExitStack) -> Place:
    return Place(stack.enter_context(RedisServer()).url)


def _nats(stack: contextlib.ExitStack) -> Place:
    from proxyfab.testing.natsserver import NatsServer

    return Place(stack.enter_context(NatsServer()).url)


def _kafka(stack: contextlib.ExitStack) -> Place:
    from proxyfab.testing.kafka import KafkaCluster

    cluster = stack.enter_context(KafkaCluster())
    return Place(cluster.url, partial(cluster.create, partitions=ROOMS))


def _zmq(stack: contextlib.ExitStack) -> Place:
    from proxyfab.testing.events import EventServer

    return Place(stack.enter_context(EventServer()).url)


def _others(redis: str, outcome: Outcome) -> dict[str, Make]:
    made: dict[str, Make] = {"queue.Queue": PythonQueue}
    if find_spec("zmq"):
        made["pyzmq-push-pull"] = PushPull
    if redis:
        made["redis-py-xadd"] = partial(Streams, HOST, _port(redis))
        reason = missing("proxystore")
        if reason:
            outcome.skipped.append(Skipped(BENCH, "proxystore", reason))
        else:
            made["proxystore-redis-queue"] = partial(Peer, HOST, _port(redis), "Queue", store=False)
            made["proxystore-redis-pubsub"] = partial(Peer, HOST, _port(redis), "", store=False)
    return made


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


@contextlib.contextmanager
def _stream(make: Make) -> Iterator[tuple[Any, Any]]:
    """One system, and its consumer, which is ready."""
    stream = make()
    role, *arguments = stream.role
    alone = isinstance(stream, PythonQueue) or (isinstance(stream, Ours) and stream.broker.url.startswith("memory"))
    try:
        with (InThread if alone else Child)(role, *arguments) as consumer:
            consumer.receive(PATIENCE)
            if isinstance(stream, _Raw):
                stream.consumer = consumer
            yield stream, consumer
            consumer.send(None)
    finally:
        stream.close()


def _once(stream: Any, consumer: Any, payload: Any, count: int) -> float:
    """Seconds for each of `count` events."""
    consumer.send(count)
    start = time.monotonic()
    stream.produce(payload, count)
    return float(consumer.receive(PATIENCE) - start) / count


def _rates(what: str, systems: dict[str, Make], nbytes: int, count: int, settings: Settings, outcome: Outcome) -> None:
    payload = os.urandom(nbytes)
    with contextlib.ExitStack() as stack:
        names = settings.wanted(list(systems))
        open_ = {name: stack.enter_context(_stream(systems[name])) for name in names}
        samples: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            _once(*open_[name], payload, max(count // 10, 1))
        for name in interleaved(names, settings.rounds(MB)):
            samples[name].append(_once(*open_[name], payload, max(count // 5, 1) if "proxystore" in name else count))
    outcome.rows.extend(
        row(BENCH, what, name, samples[name], nbytes=nbytes, note=f"{count} events{REMARKS.get(name, '')}")
        for name in names
    )


def _lone(systems: dict[str, Make], count: int, settings: Settings, outcome: Outcome) -> None:
    """From `send` here to the object there, with nothing else under way."""
    for name in settings.wanted(list(systems)):
        samples = []
        with _stream(systems[name]) as (stream, consumer):
            for _ in range(count):
                consumer.send("moment")
                time.sleep(0.005)  # so that it waits
                stream.produce(time.monotonic(), 1)
                samples.append(consumer.receive(PATIENCE))
        outcome.rows.append(row(BENCH, LONE, name, samples))


# -- objects -----------------------------------------------------------------------------------------------------------


class _Raw:
    """The connector alone: put here, key by pipe, get and evict there."""

    def __init__(self, url: str) -> None:
        self.store = Store(url, name="raw")
        self.role: tuple[Any, ...] = (_consume_raw, url)
        self.consumer: Any = None

    def produce(self, payload: Any, count: int) -> None:
        for _ in range(count):
            self.consumer.send(self.store.put(payload))

    def close(self) -> None:
        self.store.clear()
        self.store.close()


def _consume_raw(talk: Any, url: str) -> None:
    with Store(url, name="raw") as store:

        def take() -> object:
            key = talk.recv()
            obj = store.get(key)
            store.evict(key)
            return obj

        streams._answer(talk, take, lambda: None)


def _objects(redis: str, settings: Settings, outcome: Outcome) -> None:
    """By size: through the store, inside the event, the peer's way, and the connector alone."""
    for nbytes in (10 * KB,) if settings.tiny else (10 * KB, MB, 10 * MB):
        systems: dict[str, Make] = {
            "proxyfab-redis": partial(Ours, redis, f"{redis}?ns=bench"),
            "proxyfab-redis-shm": partial(Ours, redis, "shm://bench"),
            "raw-connector-redis": partial(_raw, redis),
        }
        if nbytes < MB:
            systems["proxyfab-redis-inline"] = partial(Ours, redis)
        if not missing("proxystore"):
            systems["proxystore-redis"] = partial(Peer, HOST, _port(redis), "Queue", store=True)
        count = 3 if settings.tiny else 5000 if nbytes < MB else max(20, 100 * MB // nbytes)
        _rates(OBJECTS, systems, nbytes, count, settings, outcome)


def _raw(redis: str) -> _Raw:
    return _Raw(redis)


# -- metadata ----------------------------------------------------------------------------------------------------------


def _look(settings: Settings, outcome: Outcome) -> None:
    """Which part of the objects' bytes moves when one in a hundred is resolved; counted, so in one process."""
    from proxyfab.patterns.stream.consumer import Consumer

    count, nbytes = (100, KB * 100) if settings.tiny else (1000, KB * 100)
    with open_broker("memory://bench-look") as broker, Store("memory://") as store:
        payload = os.urandom(nbytes)
        with Producer(broker, TOPIC_LOOK, store=store) as out:
            for number in range(count):
                out.send(payload, number=number)
            out.end()
        moved = sum([len(each.body) for each in broker.subscribe(TOPIC_LOOK, group=None).fetch(count, 0)])
        started = time.perf_counter()
        for item in Consumer(broker, TOPIC_LOOK, observe=True):
            if item.metadata["number"] % 100 == 0:
                moved += len(bytes(item.proxy))
        seconds = time.perf_counter() - started
        broker.delete(TOPIC_LOOK)
        store.clear()
    part = moved / (count * nbytes)
    outcome.rows.append(Row(BENCH, LOOK, "proxyfab", part, "x", nbytes=nbytes, low=part, high=part, best=part))
    outcome.rows.append(row(BENCH, f"{LOOK}, an event", "proxyfab", [seconds / count], nbytes=nbytes))


TOPIC_LOOK = "look"


# -- checkpoints -------------------------------------------------------------------------------------------------------


def _checkpoints(url: str, settings: Settings, outcome: Outcome) -> None:
    """Seconds for an event that takes 2 ms of work, acknowledged, or counted by a checkpoint that is committed twice a
    second; in one process, so that whatever a checkpoint does beside the work costs the work its time.
    """
    count = 10 if settings.tiny else 1000
    samples: dict[str, list[float]] = {ACKNOWLEDGED: [], COUNTED: []}
    with open_broker(url) as broker:
        for name in interleaved(list(samples), settings.rounds(MB)):
            samples[name].append(_worked(broker, name, count))
    outcome.rows.extend(
        row(BENCH, WORK, name, found, note=f"{count} events, a commit each {COMMIT}") for name, found in samples.items()
    )


def _worked(broker: Broker, name: str, count: int) -> float:
    from proxyfab.patterns.stream import Checkpoint, Consumer

    with Producer(broker, "work") as out:
        for number in range(count):
            out.send(number)
        out.end()
    with Consumer(broker, "work") as consumer:
        point = Checkpoint(consumer, "sum", initial=0) if name == COUNTED else None
        started, total = time.perf_counter(), 0
        for number, item in enumerate(consumer if point is None else point, 1):
            total += item.get()
            until = time.thread_time() + 0.002
            while time.thread_time() < until:
                pass
            if point is None:
                item.ack()
            elif number % COMMIT == 0:
                point.commit(total)
        if point is not None:
            point.commit(total)
        consumer.flush()
        seconds = time.perf_counter() - started
        if point is not None:
            point.close()
    broker.delete("work")
    return seconds / count


WORK, ACKNOWLEDGED, COUNTED = "event with 2 ms of work", "proxyfab-acknowledged", "proxyfab-checkpoint"
COMMIT = 250


# -- what is promised --------------------------------------------------------------------------------------------------


def _rate(name: str, results: Results) -> tuple[str, bool]:
    seconds = results.median(BENCH, SMALL, OURS.format(name), "", KB)
    return f"{1 / seconds:,.0f}/s", 1 / seconds >= GOALS[name]


def _late(name: str, results: Results) -> tuple[str, bool]:
    seconds = results.median(BENCH, LONE, OURS.format(name))
    return f"{seconds * 1e3:.2f} ms", seconds < 0.003


def _as_inline(results: Results) -> tuple[str, bool]:
    mine, inline = (results.median(BENCH, OBJECTS, name, "", 10 * KB) for name in (OURS.format("redis"), INLINE))
    return f"{mine / inline:.2f}x the time", mine <= 1.05 * inline


INLINE = "proxyfab-redis-inline"


def _beats_peer(nbytes: int, results: Results) -> tuple[str, bool]:
    mine, other = (results.median(BENCH, OBJECTS, name, "", nbytes) for name in ("proxyfab-redis", "proxystore-redis"))
    return f"{other / mine:.1f}x", other >= 2 * mine


def _near_raw(nbytes: int, results: Results) -> tuple[str, bool]:
    mine, raw = (results.median(BENCH, OBJECTS, name, "", nbytes) for name in ("proxyfab-redis", "raw-connector-redis"))
    return f"{raw / mine:.2f} of its rate", raw >= 0.7 * mine


def _little_moves(results: Results) -> tuple[str, bool]:
    part = results.median(BENCH, LOOK, "proxyfab", "", 100 * KB)
    return f"{part:.2%}", part <= 0.015


def _costs_little(results: Results) -> tuple[str, bool]:
    counted, alone = (results.median(BENCH, WORK, name) for name in (COUNTED, ACKNOWLEDGED))
    return f"{counted / alone - 1:+.2%}", counted < 1.01 * alone


TARGETS = (
    *(
        (f"{name}://: events of 1 KB, acknowledged end to end", f"at least {goal:,}/s", partial(_rate, name))
        for name, goal in GOALS.items()
    ),
    *((f"{name}://: a lone event, end to end", "< 3 ms", partial(_late, name)) for name in ("redis", "nats")),
    ("events with objects of 10 kB, against inline through the same broker", "never slower", _as_inline),
    *(
        (f"events with objects of {size}, against ProxyStore over Redis", "at least 2x faster", partial(_beats_peer, n))
        for size, n in (("1 MB", MB), ("10 MB", 10 * MB))
    ),
    *(
        (f"events with objects of {size}, against the connector alone", "at least 0.7", partial(_near_raw, n))
        for size, n in (("1 MB", MB), ("10 MB", 10 * MB))
    ),
    ("metadata of all events, objects of 1 %: bytes that move", "at most 1.5 %", _little_moves),
    ("a checkpoint twice a second, against acknowledging, at 2 ms of work an event", "< 1 %", _costs_little),
)
"""Name, goal and check of what is promised."""
