"""nats:// when what a member waits for cannot come any more: nobody waits for ever, and who is told is told why."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from proxyfab.brokers.nats import groups, pulling, settling
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.nats.link import Link, Refusal
from proxyfab.brokers.nats.loop import Runner, runner
from proxyfab.brokers.nats.naming import Seat
from proxyfab.brokers.nats.place import Place
from proxyfab.brokers.nats.session import Lost, Session
from proxyfab.errors import ConnectorError, TopicNotFound
from proxyfab.events.model import EARLIEST, Record, Topic
from proxyfab.testing.brokering.flows import take
from proxyfab.testing.natsserver import NatsServer

PARTITIONS = 2
PATIENCE = 20.0


@pytest.fixture
def broker(nats_server: NatsServer) -> Iterator[NatsBroker]:
    with NatsBroker.from_url(nats_server.url) as broker:
        yield broker


@pytest.fixture
def topic(broker: NatsBroker) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:8]}"
    broker.ensure(Topic(name, partitions=PARTITIONS))
    yield name
    broker.delete(name)


def forget(broker: NatsBroker, topic: str, group: str) -> None:
    """Have the server know the group, but nothing of what it did: as after it was killed, of the last of it."""
    broker.delete_group(topic, group)
    broker.ensure_group(topic, group)


def test_what_the_server_has_forgotten_it_delivers_again_and_nobody_waits_for_its_answer(
    broker: NatsBroker, topic: str
) -> None:
    """nats-server gives none to who acknowledges what it has not delivered, as far as it knows."""
    broker.publish(topic, [Record(b"%d" % number, partition=number % PARTITIONS) for number in range(6)])
    with broker.subscribe(topic, group="g") as member:
        found = take(member, 6, PATIENCE)
        forget(broker, topic, "g")
        before = time.monotonic()
        member.ack(found)

        with pytest.raises(ConnectorError, match="forgotten 6 deliveries"):
            member.flush()

        assert time.monotonic() - before < 20, "a call has 30 s, and what is said is said for 60 s"
        assert member.info().lag == 6
        again = take(member, 6, PATIENCE)
        assert sorted(each.position for each in again) == sorted(each.position for each in found)
        member.ack(again)
        member.flush()
        assert member.info().lag == 0


def test_what_the_server_knows_of_the_same_acknowledgements_is_done(broker: NatsBroker, topic: str) -> None:
    broker.publish(topic, [Record(b"%d" % number) for number in range(4)])
    with broker.subscribe(topic, group="g") as member, broker.subscribe(topic, group="g") as other:
        found = take(member, 4, PATIENCE)
        forget(broker, topic, "g")
        again = take(other, 2, PATIENCE)
        assert [each.body for each in again] == [b"0", b"1"]

        member.ack(found)

        with pytest.raises(ConnectorError, match="forgotten 2 deliveries"):
            member.flush()
        assert member.info().lag == 2


@dataclass
class Looks:
    """What members ask the server about consumers: how often, and what to do first."""

    count: int = 0
    first: Callable[[], Awaitable[None]] | None = None


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Members soon doubt that an answer comes, as where it is late."""
    found, genuine = Looks(), Link.call

    async def call(self: Link, verb: str, body: Any, deadline: float) -> dict[str, Any]:
        if verb.startswith("CONSUMER.INFO."):
            found.count += 1
            if found.count == 1 and found.first is not None:
                await found.first()
        return await genuine(self, verb, body, deadline)

    monkeypatch.setattr(Link, "call", call)
    monkeypatch.setattr(settling, "_DOUBT", 0.0)
    return found


def test_what_is_given_back_to_a_slow_server_is_not_taken_from_who_got_it_since(
    broker: NatsBroker, topic: str, looks: Looks
) -> None:
    broker.publish(topic, [Record(b"0")])
    passed = threading.Event()

    async def until_passed() -> None:
        await asyncio.to_thread(passed.wait, 20)

    with broker.subscribe(topic, group="g") as member, broker.subscribe(topic, group="g") as other:
        found = take(member, 1, PATIENCE)
        looks.first, looks.count = until_passed, 0
        member.nack(found)
        assert [each.attempt for each in take(other, 1, PATIENCE)] == [2]
        passed.set()
        member.flush()
        assert looks.count
        assert other.fetch(1, 0.1) == []
        assert member.fetch(1, 0.1) == []


def test_who_acknowledges_one_by_one_to_a_slow_server_does_not_ask_it_as_often(
    broker: NatsBroker, topic: str, looks: Looks
) -> None:
    broker.publish(topic, [Record(b"%d" % number) for number in range(200)])
    with broker.subscribe(topic, group="g") as member:
        for each in take(member, 200, PATIENCE):
            member.ack([each])
        member.flush()
        assert looks.count < 50
        assert member.info().lag == 0


def test_a_cluster_that_cannot_say_how_far_a_consumer_is_has_not_confirmed_anything(
    broker: NatsBroker, topic: str, looks: Looks
) -> None:
    broker.publish(topic, [Record(b"0")])

    async def refused() -> None:
        raise Refusal(10008, "JetStream system temporarily unavailable")

    with broker.subscribe(topic, group="g") as member:
        found = take(member, 1, PATIENCE)
        forget(broker, topic, "g")
        looks.first, looks.count = refused, 0
        member.ack(found)
        with pytest.raises(ConnectorError, match="forgotten 1 deliver"):
            member.flush()


def test_what_is_extended_or_given_back_and_was_forgotten_is_nothing_to_be_told(
    broker: NatsBroker, topic: str, looks: Looks
) -> None:
    broker.publish(topic, [Record(b"0")])
    with broker.subscribe(topic, group="g") as member:
        found = take(member, 1, PATIENCE)
        forget(broker, topic, "g")
        member.extend(found)
        member.nack(found)
        member.flush()
        assert [each.body for each in take(member, 1, PATIENCE)] == [b"0"]


@pytest.mark.parametrize("gone", [lambda broker, topic: broker.delete_group(topic, "g"), NatsBroker.delete])
def test_who_waits_is_told_when_the_group_or_the_topic_goes(
    broker: NatsBroker, nats_server: NatsServer, topic: str, gone: Callable[[NatsBroker, str], bool]
) -> None:
    with broker.subscribe(topic, group="g") as member, NatsBroker.from_url(nats_server.url) as other:
        assert not member.fetch(1, 0.1)
        going = threading.Timer(0.2, gone, (other, topic))
        going.start()
        begun = time.monotonic()

        with pytest.raises(TopicNotFound):
            member.fetch(1, 60.0)

        assert time.monotonic() - begun < 30
        going.join()


def test_a_member_does_not_wait_for_what_is_left_of_a_group_that_has_moved(
    broker: NatsBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who moved it has died before all that there was before had gone."""
    monkeypatch.setattr(pulling, "_SLICE", 100.0)
    known = broker.ensure(Topic(topic, partitions=PARTITIONS))
    names, link = broker._desk.names, broker._link

    async def move(deadline: float) -> None:
        there: dict[int, Any] = {0: {}}
        while not all(info.get("num_waiting") for info in there.values()):  # the server knows that it waits
            there = await groups.seated(link, names, known, "g", deadline) or there
        for number in range(PARTITIONS):
            await groups._make(link, names, known, Seat("g", 1, number), EARLIEST, 10.0, deadline)
        await groups._remove(link, names, topic, str(Seat("g", 0, 0)), deadline)

    def on() -> None:
        broker._run(move)
        broker.publish(topic, [Record(b"0")])

    with broker.subscribe(topic, group="g") as member:
        other, begun = threading.Thread(target=on), time.monotonic()
        other.start()
        assert [each.body for each in member.fetch(1, 100.0)] == [b"0"]
        assert time.monotonic() - begun < 60, "it waited for as long as it had asked for"
        other.join()


def test_a_call_amid_which_its_broker_is_closed_opens_no_other_connection(
    nats_server: NatsServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    genuine = Session.open

    async def opening(self: Session, *args: Any) -> None:
        opened.append(self)
        await genuine(self, *args)

    monkeypatch.setattr(Session, "open", opening)
    broker = NatsBroker.from_url(nats_server.url)
    with pytest.raises(ConnectorError, match="closed"):
        broker._run(lambda deadline: closed_amid(broker, deadline))
    assert len(opened) == 1
    broker._link.closed = False
    broker.close()


def test_a_call_that_finds_its_broker_being_closed_keeps_nothing_open(
    broker: NatsBroker, nats_server: NatsServer
) -> None:
    """What it held then nobody would have let go any more: a thread, and the loop's descriptors."""
    broker.topics()
    late = NatsBroker.from_url(nats_server.url)
    late._link._guard = Amid(late.close, late._link._guard)  # type: ignore[assignment]  # it is what is used of a lock
    before = runner._holders
    with pytest.raises(ConnectorError, match="closed"):
        late.topics()
    assert (late.closed, runner._holders) == (True, before)


class Amid:
    """A lock before which somebody else comes, once."""

    def __init__(self, comes: Callable[[], None], lock: threading.Lock) -> None:
        self._comes: list[Callable[[], None]] = [comes]
        self._lock = lock

    def __enter__(self) -> None:
        for comes in [self._comes.pop() for _ in self._comes[:]]:
            comes()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_what_is_asked_while_the_last_broker_is_closed_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    own, genuine = Runner(), asyncio.run_coroutine_threadsafe
    own.hold()
    ends = threading.Thread(target=own.release)

    def submitting(*args: Any) -> Any:
        ends.start()
        ends.join(0.1)  # it comes first where it can
        return genuine(*args)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", submitting)
    with pytest.raises(ConnectorError, match="closed"):
        own.run(asyncio.sleep(20), 30.0)
    ends.join()


def test_a_server_that_takes_nothing_keeps_nobody_beyond_his_time() -> None:
    records = [Record(bytes(900_000)) for _ in range(8)]
    with NatsServer() as server, NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))
        server.stop()
        try:
            before = time.monotonic()
            with pytest.raises(ConnectorError, match="in time"):
                broker.publish("t", records, timeout=0.2)
            assert time.monotonic() - before < 10, "after 15 s more the loop is taken for stuck"
            with pytest.raises(Lost):
                broker._run(lambda deadline: cut_amid(broker, deadline))
        finally:
            server.go_on()


async def cut_amid(broker: NatsBroker, deadline: float) -> None:
    """Somebody waits for room in a connection that is given up."""
    session = await broker._link.session(deadline)
    waits = asyncio.ensure_future(session.say("nobody", b""))
    await asyncio.sleep(0)
    session.drop()
    await waits


async def closed_amid(broker: NatsBroker, deadline: float) -> None:
    session = await broker._link.session(deadline)
    broker._link.closed = True  # as another thread's `close` begins
    await session.close()
    await broker._link.session(deadline)


def test_a_connection_that_fails_while_it_is_given_up_is_nothing_for_a_log() -> None:
    said: list[dict[str, Any]] = []

    async def fails(**options: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("cut off") from None

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        session = Session(Place.parse("nats://127.0.0.1:1"), ["nats://127.0.0.1:1"], lambda: None)
        session._client.connect = fails
        opening = asyncio.create_task(session.open(30.0, {}))
        await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait([opening])
        del session, opening
        gc.collect()

    asyncio.run(main())
    gc.collect()
    assert said == []
