"""Streams as a benchmark drives them: who produces is here, who consumes is a process of its own.

A consumer's role answers each number it is told with the moment (CLOCK_MONOTONIC, which all processes of a machine
share) when that many events had come and were acknowledged; a moment that travels in an event is answered at once.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from proxyfab.errors import CapabilityError

TOPIC, GROUP = "frames", "bench"
AT_ONCE = 500
PATIENCE = 60.0
_numbers = itertools.count(1)


class Ours:
    """Producer and Consumer.

    Args:
        broker: A URL.
        store: Where objects go; None: inside the events.
        above: From which size.
        prepare: Called with the topic's name before the topic is used.
    """

    def __init__(
        self,
        broker: str,
        store: str | None = None,
        above: int = 32 << 10,
        prepare: Callable[[str], object] | None = None,
    ) -> None:
        from proxyfab import open_store
        from proxyfab.brokers import open_broker
        from proxyfab.patterns import Producer

        self.broker = open_broker(broker)
        self.topic = f"{TOPIC}-{next(_numbers)}"
        if prepare is not None:
            prepare(self.topic)
        self.store = None if store is None else open_store(store)
        self.producer = Producer(self.broker, self.topic, store=self.store, above=above, groups=[GROUP])
        self.role: tuple[Any, ...] = (consume_ours, broker, self.topic)
        self.producer.send(b"")
        self.producer.flush(PATIENCE)

    def produce(self, payload: Any, count: int) -> None:
        """Send, and return when the broker has everything."""
        send = self.producer.send
        for _ in range(count):
            send(payload)
        self.producer.flush(PATIENCE)

    def close(self) -> None:
        self.producer.close()
        with contextlib.suppress(CapabilityError):  # Kafka's mock cannot
            self.broker.delete(self.topic)
        self.broker.close()
        if self.store is not None:
            self.store.clear()
            self.store.close()


def consume_ours(talk: Connection, broker: str, topic: str) -> None:
    """The consumer's process."""
    from proxyfab.brokers import open_broker
    from proxyfab.patterns.stream.consumer import Consumer

    with open_broker(broker) as opened, Consumer(opened, topic, group=GROUP, timeout=PATIENCE) as consumer:
        items = iter(consumer)
        next(items).ack()

        def take() -> object:
            item = next(items)
            obj = _touched(item.proxy)
            item.ack()
            return obj

        _answer(talk, take, consumer.flush)


class Peer:
    """ProxyStore's streaming over Redis, as its documentation has it: a queue (a list) or publish/subscribe."""

    def __init__(self, host: str, port: int, way: str, *, store: bool) -> None:
        from proxystore.connectors.redis import RedisConnector
        from proxystore.store import Store, register_store

        with warnings.catch_warnings():  # that it is experimental
            warnings.simplefilter("ignore")
            from proxystore.stream import StreamProducer
            from proxystore.stream.shims import redis as shims

        self.store = Store(f"bench-{way}", RedisConnector(host, port, clear=False)) if store else None
        if self.store is not None:
            register_store(self.store)
        publisher = getattr(shims, f"Redis{way}Publisher")(host, port)
        self.producer: Any = StreamProducer(publisher, default_store=self.store)
        self.role: tuple[Any, ...] = (consume_peer, host, port, way, store)

    def produce(self, payload: Any, count: int) -> None:
        for _ in range(count):
            self.producer.send(TOPIC, payload, evict=True)
        self.producer.flush()

    def close(self) -> None:
        from proxystore.store import unregister_store

        self.producer.close()
        if self.store is not None:
            unregister_store(self.store)
            self.store.close()


def consume_peer(talk: Connection, host: str, port: int, way: str, store: bool) -> None:
    from proxystore.stream import StreamConsumer
    from proxystore.stream.shims import redis as shims

    consumer: Any = StreamConsumer(getattr(shims, f"Redis{way}Subscriber")(host, port, TOPIC))
    _answer(talk, lambda: _touched(consumer.next_object() if store else consumer.next()), lambda: None)


class Streams:
    """The limit of Redis from Python: XADD in pipelines, XREADGROUP and XACK, with redis-py and hiredis."""

    def __init__(self, host: str, port: int) -> None:
        import redis

        self.client = redis.Redis(host, port)
        self.client.delete("raw")
        self.client.xgroup_create("raw", GROUP, id="0", mkstream=True)
        self.role: tuple[Any, ...] = (consume_streams, host, port)

    def produce(self, payload: bytes, count: int) -> None:
        while count > 0:
            with self.client.pipeline(transaction=False) as pipe:
                for _ in range(min(count, AT_ONCE)):
                    pipe.xadd("raw", {b"d": payload})
                pipe.execute()
            count -= AT_ONCE

    def close(self) -> None:
        self.client.delete("raw")
        self.client.close()


def consume_streams(talk: Connection, host: str, port: int) -> None:
    import redis

    client: Any = redis.Redis(host, port)

    def batches() -> Iterator[object]:
        while True:
            for _, found in client.xreadgroup(GROUP, "me", {"raw": ">"}, AT_ONCE, 1000) or ():
                for _, fields in found:
                    yield fields[b"d"]
                client.xack("raw", GROUP, *[each for each, _ in found])

    _answer(talk, batches().__next__, lambda: None)


class PushPull:
    """The limit of ZeroMQ from Python: nothing is kept, and nothing acknowledged."""

    def __init__(self) -> None:
        import zmq

        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.set_hwm(0)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.role: tuple[Any, ...] = (consume_pull, port)

    def produce(self, payload: bytes, count: int) -> None:
        for _ in range(count):
            self.socket.send(payload)

    def close(self) -> None:
        self.context.destroy(linger=0)


def consume_pull(talk: Connection, port: int) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(0)
        socket.connect(f"tcp://127.0.0.1:{port}")
        _answer(talk, socket.recv, lambda: None)


class PythonQueue:
    """The limit of threads: `queue.Queue`."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()
        self.role: tuple[Any, ...] = (self._consume,)

    def produce(self, payload: Any, count: int) -> None:
        for _ in range(count):
            self.queue.put(payload)

    def _consume(self, talk: Connection) -> None:
        _answer(talk, self.queue.get, lambda: None)

    def close(self) -> None:
        """Nothing is open."""


def _touched(obj: Any) -> object:
    """The object itself: what was only referred to is fetched."""
    return obj if isinstance(obj, (bytes, int, float)) else len(obj) and obj


def _answer(talk: Connection, take: Callable[[], object], flush: Callable[[], object]) -> None:
    talk.send("ready")
    while (count := talk.recv()) is not None:
        if count == "moment":
            sent = float(str(take()))
            talk.send(time.monotonic() - sent)
            continue
        for _ in range(count):
            take()
        flush()
        talk.send(time.monotonic())


class InThread:
    """A consumer's role in a thread, for what lies in this process; the face of a `Child`."""

    def __init__(self, role: Callable[..., None], *arguments: Any) -> None:
        from multiprocessing import Pipe

        self.talk, self._theirs = Pipe()
        self._thread = threading.Thread(target=role, args=(self._theirs, *arguments), daemon=True)
        self._thread.start()

    def send(self, message: Any) -> None:
        self.talk.send(message)

    def receive(self, timeout: float) -> Any:
        if not self.talk.poll(timeout):
            raise TimeoutError(f"the consumer said nothing for {timeout} s")
        return self.talk.recv()

    def __enter__(self) -> InThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)
        self.talk.close()
        self._theirs.close()
