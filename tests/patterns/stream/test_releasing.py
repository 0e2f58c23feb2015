"""Objects of events live as long as anybody is to read them, and no longer: whoever acknowledges, dies or is gone."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from proxyfab import Store
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.errors import ConfigurationError, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import LATEST, Record, Topic
from proxyfab.patterns.stream import releaser as releasing_module
from proxyfab.patterns.stream.releaser import Releaser
from proxyfab.patterns.stream.releasing import FLOOR, LEASE, Marker, objects_of, sweep, ttl_of
from proxyfab.testing import until
from proxyfab.testing.content import held
from proxyfab.testing.natsserver import NatsServer
from proxyfab.wire.events import Event, Frame, decode
from tests.patterns.stream.events_at_hand import Hand, ack, fetch, publish, release


def big(n: int = 0) -> np.ndarray:
    return np.full(1000, n)


@pytest.mark.parametrize("partitions", [1, 3])
def test_the_last_group_s_acknowledgement_releases(broker: Broker, store: Store, partitions: int) -> None:
    topic = broker.ensure(Topic("t", groups=("a", "b"), partitions=partitions))
    for n in range(6):
        publish(broker, "t", [big(n), "text"], store=store, partition=n % partitions)

    assert release(broker, topic, "a").released == 0
    assert held(store) == 6
    assert release(broker, topic, "b").released == 6
    assert held(store) == 0
    assert sweep(broker, "t") == []


def test_without_any_group_nothing_goes(broker: Broker, store: Store) -> None:
    broker.ensure(Topic("t"))
    publish(broker, "t", [big()], store=store)

    assert sweep(broker, "t") == []
    assert held(store) == 1


def test_a_group_that_was_declared_counts_before_it_reads(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t", groups=("later",)))
    publish(broker, "t", [big()], store=store)

    assert release(broker, topic, "now").released == 0
    assert sweep(broker, "t") == []
    assert release(broker, topic, "later").released == 1


def test_a_group_that_is_deleted_does_not_count(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t", groups=("a", "gone")))
    publish(broker, "t", [big(), big()], store=store)
    release(broker, topic, "a")

    broker.delete_group("t", "gone")
    told = sweep(broker, "t")

    assert held(store) == 0
    assert len(told) == 2
    assert "every group has acknowledged its event (a)" in told[0].reason
    assert "t/0@1" in told[0].what
    assert told[0].nbytes >= 8000


def test_a_group_that_begins_now_is_not_owed_what_was_before(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t"))
    publish(broker, "t", [big()], store=store)
    broker.ensure_group("t", "late", LATEST)

    assert release(broker, topic, "a").released == 1


def test_who_is_killed_between_acknowledging_and_evicting_is_cleaned_up_after(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t"))
    for n in range(4):
        publish(broker, "t", [big(n)], store=store)
    ack(broker, "t", "g")  # and is killed

    assert held(store) == 4
    publish(broker, "t", [big()], store=store)
    assert release(broker, topic, "g").released == 5
    assert held(store) == 0


def test_what_others_are_at_is_left_to_them_for_a_while(
    broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing_module, "EVERY", 0.0)
    topic = broker.ensure(Topic("t"))
    publish(broker, "t", [big()], store=store)
    ack(broker, "t", "g")
    one = Releaser(broker, topic, "g")

    one.work()
    assert held(store) == 1
    one.work()
    assert held(store) == 0
    one.close()


def test_frames_acknowledged_out_of_order(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t", groups=("a", "b")))
    for n in range(3):
        publish(broker, "t", [big(n)], store=store)
    ack(broker, "t", "b")
    member, hands = fetch(broker, "t", "a")
    releaser = Releaser(broker, topic, "a")
    with member:
        member.ack([hands[1].delivery])
        releaser.told([hands[1]])
        releaser.work()
        assert held(store) == 3, "who goes back to the first gets the second, too"
        member.ack([hands[0].delivery, hands[2].delivery])
    releaser.told([hands[0], hands[2]])
    releaser.close()

    assert held(store) == 0
    assert Marker(broker.state("t")).read()[0][0].packed() == [1, 3]


@pytest.fixture
def shared(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Broker, Topic]]:
    """A topic of three partitions that share one count; just the test's thread releases, and must not sweep."""
    monkeypatch.setattr(releasing_module, "EVERY", 0.0)
    monkeypatch.setattr(Releaser, "_begin", lambda self: None)  # just this thread releases
    monkeypatch.setattr(releasing_module, "sweep", lambda *_, **__: pytest.fail("it is swept"))
    name = f"t{uuid.uuid4().hex[:8]}"
    with NatsBroker.from_url(nats_server.url) as broker:
        topic = broker.ensure(Topic(name, partitions=3))
        yield broker, topic
        broker.delete(name)


@pytest.mark.parametrize("first", [[0, 3], [8], list(range(8))])
def test_partitions_that_share_one_count_are_written_down_without_gaps(
    shared: tuple[Broker, Topic], store: Store, first: list[int]
) -> None:
    """Whatever was told when it was written down: nothing is read again by a sweep."""
    broker, topic = shared
    name = topic.name
    for n in range(9):
        publish(broker, name, [big(n)], store=store, partition=n % 3)
    releaser = Releaser(broker, topic, "g")
    with broker.subscribe(name, group="g") as member:
        found = {each.position.offset: each for _ in range(9) for each in member.fetch(1, 20)}
        hands = [Hand(found[offset], decode(found[offset].body)) for offset in sorted(found)]
        for some in (first, [n for n in range(9) if n not in first]):
            member.ack([hands[n].delivery for n in some])
            assert member.info().pending == 9 - len(some) or some is not first
            releaser.told([hands[n] for n in some])
            releaser.work()
    releaser.close()
    assert held(store) == 0
    known, _ = Marker(broker.state(name)).read()
    assert [known[number].packed() for number in range(3)] == [[1, 9]] * 3


def test_members_do_not_look_for_what_the_others_have_released(shared: tuple[Broker, Topic], store: Store) -> None:
    """Where partitions share one count, what one member has taken is a gap to the other: nothing lies in it."""
    broker, topic = shared
    name = topic.name
    for n in range(12):
        publish(broker, name, [big(n)], store=store, partition=n % 3)
    members = [Releaser(broker, topic, "g") for _ in range(2)]
    with broker.subscribe(name, group="g") as member:
        found = [each for _ in range(12) for each in member.fetch(1, 20)]
        hands = sorted(
            [Hand(each, decode(each.body)) for each in found], key=lambda hand: hand.delivery.position.offset
        )
        member.ack(found)
        assert member.info().pending == 0
    for n, hand in enumerate(hands):
        members[n // 2 % 2].told([hand])
    for releaser in [*members, *members]:  # at the second look what could have gone at the first one is swept
        releaser.work()
    assert held(store) == 0
    known, _ = Marker(broker.state(name)).read()
    assert [known[number].packed() for number in range(3)] == [[1, 12]] * 3
    for releaser in members:
        releaser.close()


def test_redelivered_and_replayed_events_do_no_harm(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t"))
    publish(broker, "t", [big()], store=store)
    fetch(broker, "t", "g")[0].close()
    again = release(broker, topic, "g")
    assert again.released == 1
    with broker.subscribe("t", group="g") as member:
        member.seek({0: 1})
    publish(broker, "t", [big()], store=store)

    assert release(broker, topic, "g").released == 1
    assert held(store) == 0


def test_first_ack(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t", groups=("a", "b"), release="first_ack"))
    publish(broker, "t", [big()], store=store)

    assert release(broker, topic, "a").released == 1
    publish(broker, "t", [big()], store=store)
    ack(broker, "t", "b")  # and is killed
    assert [item.reason for item in sweep(broker, "t")] == ["a group has acknowledged its event"]


def test_first_ack_waits_for_what_comes_before(broker: Broker, store: Store) -> None:
    """A broker that knows floors only hands out both once more when their member dies."""
    topic = broker.ensure(Topic("t", groups=("a",), release="first_ack"))
    for n in range(2):
        publish(broker, "t", [big(n)], store=store)
    member, (first, second) = fetch(broker, "t", "a")
    with member:
        releaser = Releaser(broker, topic, "a")
        for hand, left in ((second, 2), (first, 0)):
            member.ack([hand.delivery])
            releaser.told([hand])
            releaser.close()
            assert held(store) == left


@pytest.mark.parametrize("how", ["never", "retention"])
def test_what_is_not_ours_to_release(broker: Broker, store: Store, how: str) -> None:
    topic = broker.ensure(Topic("t", release=how, retention=60.0))
    publish(broker, "t", [big()], store=store)

    assert release(broker, topic, "g").released == 0
    assert sweep(broker, "t") == []
    assert held(store) == 1


def test_objects_of_somebody_else_stay(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t"))
    mine = store.ref(big())
    publish(broker, "t", [mine], keep=True)
    publish(broker, "t", [big()], store=store)

    assert release(broker, topic, "g").released == 1
    assert mine.exists()


def test_a_topic_that_is_to_go(broker: Broker, store: Store) -> None:
    broker.ensure(Topic("t", groups=("g",)))
    publish(broker, "t", [big()], store=store)

    assert len(sweep(broker, "t", everything=True, dry_run=True)) == 1
    assert held(store) == 1
    assert [item.reason for item in sweep(broker, "t", everything=True)] == ["its topic is to go"]
    assert held(store) == 0


def test_one_sweeps_at_a_time(broker: Broker, store: Store) -> None:
    broker.ensure(Topic("t"))
    publish(broker, "t", [big()], store=store)
    ack(broker, "t", "g")
    revision = broker.state("t").put(LEASE, b"other")

    assert sweep(broker, "t") == []
    broker.state("t").delete(LEASE, revision=revision)
    assert len(sweep(broker, "t")) == 1
    assert broker.state("t").get(LEASE) is None


def test_in_the_background(broker: Broker, store: Store) -> None:
    topic = broker.ensure(Topic("t"))
    publish(broker, "t", [big()], store=store)
    confirmed = []
    releaser = Releaser(broker, topic, "g", lambda: confirmed.append(held(store)))

    releaser.told(ack(broker, "t", "g"))

    until(lambda: held(store) == 0, 5)
    assert confirmed == [1]
    releaser.close()
    until(lambda: broker.state("t").get(FLOOR) is not None, 5)


def test_a_stream_without_objects_costs_nothing(broker: Broker) -> None:
    topic = broker.ensure(Topic("t"))
    publish(broker, "t", ["text"])
    releaser = release(broker, topic, "g")

    assert releaser._thread is None
    assert broker.state("t").get(FLOOR) is None


def test_a_place_that_cannot_be_reached_is_asked_again(broker: Broker, tmp_path: os.PathLike[str]) -> None:
    topic = broker.ensure(Topic("t"))
    with Store("memory://", inline_below=0) as store:
        publish(broker, "t", [big()], store=store)
        releaser = Releaser(broker, topic, "g", confirm := _Failing())
        releaser.told(ack(broker, "t", "g"))
        with pytest.raises(ProxyfabError, match="not now"):
            releaser.work()
        assert held(store) == 1
        confirm.fails = False
        releaser.close()
        assert held(store) == 0


class _Failing:
    fails = True

    def __call__(self) -> None:
        if self.fails:
            raise ProxyfabError("not now")


def test_what_makes_no_sense_is_passed_over(broker: Broker, store: Store) -> None:
    broken = [Event(1, [0, "a@b", "", 1, "", b"", 0]), Event(1, [0, 1, 2]), Event(0, "x")]

    assert objects_of(Frame("p", 0, 0, 0, "", [store.url], broken)) == []
    broker.ensure(Topic("t"))
    broker.publish("t", [Record(b"no frame")])
    ack_all = broker.subscribe("t", group="g")
    with ack_all:
        ack_all.ack(ack_all.fetch(1, 1))
    assert sweep(broker, "t") == []


def test_objects_expire_where_records_do() -> None:
    assert ttl_of(Topic("t")) is None
    assert ttl_of(Topic("t", retention=3600.0)) == 4200.0
    assert ttl_of(Topic("t", retention=10.0, release="retention")) == 70.0
    assert ttl_of(Topic("t", retention=10.0, release="never")) is None
    assert ttl_of(Topic("t", full="drop_oldest", max_bytes=1000, release="never")) is None
    assert ttl_of(Topic("t", full="drop_oldest", max_bytes=1000, retention=10.0)) == 70.0
    with pytest.raises(ConfigurationError, match="says no retention"):
        ttl_of(Topic("t", release="retention"))
    with pytest.raises(ConfigurationError, match="drops what is old"):
        ttl_of(Topic("t", full="drop_oldest", max_bytes=1000))
