"""What kafka:// is made of, without a Kafka: its URL, the log of values, and what a member has in hand."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, strategies

from proxyfab.brokers.kafka import KafkaBroker, acls, register_tokens
from proxyfab.brokers.kafka.fold import Fold, attempt
from proxyfab.brokers.kafka.hand import Hand
from proxyfab.brokers.kafka.place import VARIABLE, Place
from proxyfab.brokers.kafka.topics import settings
from proxyfab.brokers.kafka.versions import Ear
from proxyfab.errors import AccessDenied, ConfigurationError, IntegrityError
from proxyfab.events.access import kafka_rules
from proxyfab.events.model import Capability, Delivery, Grant, Position, Topic

# -- the URL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "kafka://localhost:9092",
        "kafka://b1:9096,b2:9097?user=me&password=env:MINE&sasl=SCRAM-SHA-512&tls=1",
        "kafka://b1:9098?sasl=OAUTHBEARER&tokens=msk&tls=1&ca=/etc/ca.pem&values=ns.pf",
        "kafka://b1:9092?admin=0&protocol=classic&max=2000000&timeout=5&rd.fetch.wait.max.ms=10",
    ],
)
def test_a_url_says_the_same_twice(url: str) -> None:
    assert Place.parse(url).url == url
    assert Place.parse(Place.parse(url).url) == Place.parse(url)


def test_a_port_may_be_left_out() -> None:
    assert Place.parse("kafka://b1,b2:9093").hosts == "b1:9092,b2:9093"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "kafka://b1/topic",
        "kafka://b1?sasl=GSSAPI",
        "kafka://b1?sasl=OAUTHBEARER",
        "kafka://b1?tokens=msk",
        "kafka://b1?ca=/x",
        "kafka://b1?password=plain",
        "kafka://b1?protocol=eager",
        "kafka://b1?timeout=-1",
        "kafka://b1?rd.plugin.library.paths=/tmp/x.so",
        "kafka://b1?rd.sasl.password=x",
        "kafka://b1?rd.ssl.key.pem=x",
        "kafka://b1?nonsense=1",
    ],
)
def test_what_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Place.parse(url)


def test_a_password_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = KafkaBroker.from_url("kafka://me:s3cr%40t@b1?sasl=PLAIN&tls=1")
    place = Place.parse(broker.url)

    assert place.config()["sasl.password"] == "s3cr@t"
    for shown in (broker.url, repr(broker), repr(place), pickle.dumps(broker).decode(errors="replace")):
        assert "s3cr" not in shown
    broker.close()


def test_a_password_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.parse("kafka://b2?sasl=SCRAM-SHA-256&user=me&password=env:THERE")
    with pytest.raises(AccessDenied, match="THERE"):
        place.config()
    monkeypatch.setenv("THERE", "x")
    assert place.config()["sasl.password"] == "x"
    assert place.config()["security.protocol"] == "sasl_plaintext"

    other = Place.parse("kafka://b3?sasl=PLAIN&user=me")
    with pytest.raises(AccessDenied, match=VARIABLE):
        other.config()
    monkeypatch.setenv(VARIABLE, "y")
    assert other.config()["sasl.password"] == "y"


def test_tokens_by_a_registered_name() -> None:
    place = Place.parse("kafka://b1?sasl=OAUTHBEARER&tokens=mine&tls=1")
    with pytest.raises(AccessDenied, match="mine"):
        place.config()

    def source(config: str) -> tuple[str, float]:
        return "token", 0.0

    register_tokens("mine", source)
    assert place.config()["oauth_cb"] is source


def test_what_kafka_cannot_do_is_said() -> None:
    with pytest.raises(ConfigurationError, match="drop_oldest"):
        settings(Topic("t", max_bytes=1000))
    config, replicas = settings(
        Topic(
            "t", 2, retention=60.0, max_bytes=1000, full="drop_oldest",
            options={"kafka": {"replicas": 3, "config": {"min.insync.replicas": 2}}},
        )
    )  # fmt: skip
    assert replicas == 3
    assert config["retention.ms"] == "60000"
    assert config["retention.bytes"] == "500"
    assert config["min.insync.replicas"] == "2"


# -- the log of values -------------------------------------------------------------------------------------------------

_STEPS = strategies.lists(
    strategies.tuples(
        strategies.sampled_from("abc"),
        strategies.one_of(st_value := strategies.binary(max_size=4), strategies.none()),
        strategies.one_of(strategies.none(), strategies.integers(0, 12)),
        strategies.one_of(strategies.none(), strategies.just(0.005)),
    ),
    max_size=30,
)


def _log(steps: list[tuple[str, bytes | None, int | None, float | None]]) -> list[bytes]:
    return [attempt(*step)[1] for step in steps]


def _read(fold: Fold, log: list[tuple[int, bytes]]) -> Fold:
    for offset, body in log:
        fold.read(offset, 1000 + offset, body)
    return fold


def test_the_first_with_the_right_expectation_wins() -> None:
    fold = Fold()
    for offset, step in enumerate(
        [("k", b"1", 0, None), ("k", b"2", 1, None), ("k", b"3", 1, None), ("k", None, 2, None)]
    ):
        nonce, body = attempt(*step)
        fold.watched[nonce] = None
        fold.read(offset, 0, body)
        accepted, before, revision = fold.watched[nonce] or (None, 0, 0)
        assert (accepted, before, revision) == [(True, 0, 1), (True, 1, 2), (False, 2, 2), (True, 2, 0)][offset]
    assert fold.items(1.0) == {}


@given(_STEPS, strategies.integers(0, 30))
def test_a_cut_log_says_the_same(steps: list[tuple[str, bytes | None, int | None, float | None]], cut: int) -> None:
    """Whoever begins at the cut, with the snapshot somewhere behind it, ends where all others do."""
    log = list(enumerate(_log(steps)))
    cut = min(cut, len(log))
    whole = _read(Fold(), log[:cut])
    parts = whole.snapshot()
    rest = log[cut:]
    late = len(rest) // 2
    bodies = [body for _, body in rest[:late]] + parts + [body for _, body in rest[late:]]
    tail = [(cut + number, body) for number, body in enumerate(bodies)]

    whole = _read(whole, tail)
    again = _read(Fold(cut), tail)
    for now in (0.0, 1.02, 1e9):
        assert again.items(now) == whole.items(now)


def test_a_log_that_lost_its_beginning_is_refused() -> None:
    fold = _read(Fold(5), [(5, attempt("k", b"1", None, None)[1])])
    with pytest.raises(IntegrityError, match="begins at 5"):
        fold.get("k", 0)


@given(strategies.binary(max_size=40))
def test_what_is_no_record_is_refused(body: bytes) -> None:
    try:
        Fold().read(0, 0, body)
    except IntegrityError:
        pass


# -- in hand -----------------------------------------------------------------------------------------------------------


def _deliveries(*offsets: int, partition: int = 0) -> list[Delivery]:
    return [Delivery(b"", Position("t", partition, offset)) for offset in offsets]


def test_the_floor_waits_for_the_slowest() -> None:
    hand = Hand(60)
    hand.put(_deliveries(5, 6, 9, 10))
    found = hand.take(3)

    assert hand.news() == {}
    hand.ack(found[1:])
    assert hand.news() == {}
    assert hand.pending() == (1, 4)
    hand.ack(found[:1])
    assert hand.news() == {0: 9}
    hand.told({0: 9})
    assert hand.news() == {}


def test_what_is_given_back_comes_again_with_its_note() -> None:
    hand = Hand(60)
    hand.put(_deliveries(1, 2))
    found = hand.take(2)
    hand.nack(found, 0.0, b"note")
    (again,) = hand.take(1)

    assert (again.position.offset, again.attempt, again.note) == (1, 2, b"note")
    hand.nack([again], 30.0, b"")
    assert [each.position.offset for each in hand.take(9)] == [2]
    assert hand.take(9) == []
    assert 0 < hand.patience(99) <= 30


def test_what_goes_to_others_is_not_owed() -> None:
    hand = Hand(60)
    hand.put(_deliveries(1, 2) + _deliveries(1, partition=1))
    found = hand.take(3)
    hand.drop([0])
    hand.ack(found)

    assert hand.news() == {1: 1}
    assert hand.pending() == (0, 0)


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["frames", "site.*", "*"])
def test_rules_are_bindings(topic: str) -> None:
    """Confluent's own classes take each word, and give it back."""
    rules = kafka_rules(Grant("alice", topic, frozenset({"publish", "subscribe", "admin"})))

    assert [acls._rule(acls._binding(rule)) for rule in rules] == rules
    assert len({repr(acls._filter(rule)) for rule in rules}) == len(rules)


def test_without_an_administrator_there_are_no_rights() -> None:
    with KafkaBroker.from_url("kafka://b1?admin=0") as without, KafkaBroker.from_url("kafka://b1") as whole:
        assert Capability.ACL not in without.capabilities
        assert Capability.ACL in whole.capabilities


# -- what librdkafka's log says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuning", "shown"),
    [({}, ["crash"]), ({"log_level": "3"}, ["crash", "failure"]), ({"debug": "cgrp"}, ["crash", "failure", "feature"])],
)
def test_what_is_logged_goes_where_it_would_go_if_nobody_listened(
    tuning: dict[str, str], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ear = Ear(tuning)
    for level, text in ((50, "crash"), (40, "failure"), (10, "feature")):
        ear.log(level, "%s", text)
    assert capsys.readouterr().err.split() == shown
    assert not ear.unable
