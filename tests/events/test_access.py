"""One vocabulary of who may do what, and what it is in each engine."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies

from proxyfab.errors import ConfigurationError
from proxyfab.events.access import (
    ACTIONS,
    check_grant,
    covers,
    kafka_grants,
    kafka_rules,
    nats_permissions,
    redis_rules,
)
from proxyfab.events.model import Grant
from proxyfab.testing.servers import RedisServer

ACTION_SETS = strategies.frozensets(strategies.sampled_from(ACTIONS), min_size=1)
TOPICS = strategies.sampled_from(["frames", "site.frames", "site.*", "*", "site.deep.*"])
GRANTS = strategies.builds(Grant, strategies.sampled_from(["alice", "bob", "User:carol"]), TOPICS, ACTION_SETS)


def _grant(topic: str, *actions: str, who: str = "alice") -> Grant:
    return Grant(who, topic, frozenset(actions))


@pytest.mark.parametrize(
    "grant",
    [
        _grant("frames"),
        _grant("frames", "read"),
        _grant("fra*", "publish"),
        _grant("a b", "publish"),
        _grant("frames", "publish", who=""),
        _grant("frames", "publish", who="a b"),
        _grant("frames", "publish", who="a>b"),
    ],
)
def test_what_makes_no_sense(grant: Grant) -> None:
    with pytest.raises(ConfigurationError):
        check_grant(grant)


def test_what_a_grant_concerns() -> None:
    assert covers(_grant("site.*", "publish"), "site.frames")
    assert not covers(_grant("site.*", "publish"), "siter")
    assert covers(_grant("*", "publish"), "anything")
    assert not covers(_grant("site", "publish"), "site.frames")


# -- Redis -------------------------------------------------------------------------------------------------------------


def test_redis_takes_the_rules(redis_server: RedisServer) -> None:
    """A real server understands each word, and keeps to it."""
    rules = redis_rules([_grant("mine", "publish"), _grant("other.*", "subscribe")])["alice"]
    with contextlib.closing(redis_server.client(decode_responses=True)) as client:
        try:
            client.execute_command("ACL", "SETUSER", "alice", *rules, "nopass")
            allowed = [
                client.execute_command("ACL", "DRYRUN", "alice", "XADD", key, "*", "f", "v") == "OK"
                for key in ("{pf:mine}:s:0", "{pf:minefield}:s:0", "{pf:other.x}:s:0", "{pf:other.x}:g:a", "else")
            ]
        finally:
            client.execute_command("ACL", "DELUSER", "alice")
    assert allowed == [True, False, False, True, False]


# -- NATS --------------------------------------------------------------------------------------------------------------


def test_nats_allows_what_its_api_needs_and_an_inbox_of_one_s_own() -> None:
    found = nats_permissions([_grant("site.frames", "subscribe"), _grant("logs", "publish", who="bob@x")])
    alice, bob = found["alice"], found["bob@x"]

    assert alice["subscribe"] == {"allow": ["_INBOX.alice.>", "$KV.pf_site_-frames.>"]}
    assert bob["subscribe"] == {"allow": ["_INBOX.bob_x.>", "$KV.pf_logs.>"]}
    assert "pf.site.frames.>" not in alice["publish"]["allow"]
    assert "$JS.API.CONSUMER.MSG.NEXT.pf_site_-frames.>" in alice["publish"]["allow"]
    assert "pf.logs.>" in bob["publish"]["allow"]
    assert not any(subject.startswith("$JS.API.CONSUMER.MSG.NEXT.pf_logs") for subject in bob["publish"]["allow"])
    assert not any("STREAM.DELETE" in subject for subject in alice["publish"]["allow"] + bob["publish"]["allow"])


@given(strategies.lists(GRANTS, max_size=4))
def test_nats_subjects_are_sound(grants: list[Grant]) -> None:
    for permissions in nats_permissions(grants).values():
        for way in ("publish", "subscribe"):
            subjects = permissions[way]["allow"]
            assert len(set(subjects)) == len(subjects)
            for subject in subjects:
                tokens = subject.split(".")
                assert all(tokens)
                assert all(token in ("*", ">") or not set("*> ") & set(token) for token in tokens)
                assert ">" not in tokens[:-1]


# -- Kafka -------------------------------------------------------------------------------------------------------------


def test_kafka_binds_the_topic_its_values_and_its_groups() -> None:
    rules = kafka_rules(_grant("site.frames", "subscribe"))

    assert {(rule.resource, rule.pattern, rule.name) for rule in rules} == {
        ("TOPIC", "LITERAL", "site.frames"),
        ("TOPIC", "LITERAL", "_pf.site.frames.state"),
        ("GROUP", "PREFIXED", "site.frames~"),
    }
    assert {rule.principal for rule in rules} == {"User:alice"}
    assert {rule.operation for rule in rules if rule.name == "site.frames"} == {"READ", "DESCRIBE"}


def test_kafka_prefixes() -> None:
    names = {(rule.resource, rule.pattern, rule.name) for rule in kafka_rules(_grant("site.*", *ACTIONS), "ns.pf")}

    assert names == {
        ("TOPIC", "PREFIXED", "site."),
        ("TOPIC", "PREFIXED", "ns.pf.site."),
        ("GROUP", "PREFIXED", "site."),
    }
    assert {rule.name for rule in kafka_rules(_grant("*", "admin"))} == {"*", "_pf."}
    assert ("*", "WRITE") not in {(rule.name, rule.operation) for rule in kafka_rules(_grant("*", "subscribe"))}


@given(GRANTS)
def test_kafka_s_rules_say_what_was_granted(grant: Grant) -> None:
    found = kafka_grants(kafka_rules(grant))

    assert found == [grant._replace(principal=grant.principal.removeprefix("User:"))]


@given(strategies.lists(GRANTS, max_size=4))
def test_order_does_not_matter(grants: list[Grant]) -> None:
    for rules in (redis_rules, nats_permissions):
        assert rules(grants) == rules(grants[::-1])
