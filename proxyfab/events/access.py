"""Who may do what with which topics: one vocabulary, and what it is in Redis, NATS and Kafka. Pure.

    Grant("alice", "site.frames", frozenset({"publish", "subscribe"}))
    Grant("bob", "site.*", frozenset({"subscribe"}))

A grant names a principal, a topic or a pattern that ends in `.*` (or is `*`: all), and actions. `publish` appends
records and registers producers among the values beside the topic; `subscribe` fetches, acknowledges and keeps a
group's place and values; `admin` makes, describes and deletes topics and all that lies beside them. Whoever publishes
or subscribes may describe. A grant of a topic is none of the objects that its events refer to: their store has rights
of its own.

Promises: pure functions from grants to an engine's rules, the same for the same grants in any order. What an engine
cannot tell apart is granted more narrowly, never more widely, unless the function's docstring says so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from proxyfab.errors import ConfigurationError
from proxyfab.events.model import Grant, check_topic

PUBLISH, SUBSCRIBE, ADMIN = "publish", "subscribe", "admin"
ACTIONS = (PUBLISH, SUBSCRIBE, ADMIN)


def check_grant(grant: Grant) -> Grant:
    """A grant that makes sense.

    Raises:
        ConfigurationError: It has no principal, no such action, or no such topic.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.@=,:/+-]{1,256}", grant.principal):
        raise ConfigurationError(f"{grant.principal!r} cannot be granted anything: it names nobody.")
    unknown = sorted(grant.actions - set(ACTIONS))
    if unknown or not grant.actions:
        raise ConfigurationError(f"{unknown or 'Nothing'} cannot be granted; actions are {', '.join(ACTIONS)}.")
    if grant.topic != "*":
        check_topic(grant.topic.removesuffix(".*"))
    return grant


def covers(grant: Grant, topic: str) -> bool:
    """Whether a grant concerns a topic."""
    if grant.topic.endswith("*"):
        return topic.startswith(grant.topic[:-1])
    return topic == grant.topic


# -- Redis -------------------------------------------------------------------------------------------------------------

_REDIS_READING = (
    "ping select time multi exec evalsha_ro eval_ro exists hget hmget hgetall hkeys lindex lrange smembers xlen "
    "xrange xrevrange xread zcard zrange zrangebyscore"
)
_REDIS_WRITING = (
    "evalsha eval hdel hincrby hset incr ltrim pexpire rpush sadd srem unlink xadd xdel xgroup|create "
    "xgroup|destroy xsetid xtrim zadd zrem"
)
_REDIS_KEYS = {
    PUBLISH: ("~{pf:%}:s*", "~{pf:%}:b", "~{pf:%}:v*"),
    SUBSCRIBE: ("~{pf:%}:g*", "~{pf:%}:b", "~{pf:%}:v*"),
    ADMIN: ("~{pf:%}:*", "~{pf:}:topics"),
}
_REDIS_ENTRY = ("hello", "auth", "client|setname", "client|id", "info")


def redis_rules(grants: Iterable[Grant]) -> dict[str, list[str]]:
    """By principal, the words of an `ACL SETUSER` (Redis 7.0 or later, for `%R~` and selectors), without a password.

    For a site that keeps its users in a file: a selector for each grant, and nothing else but a way in.
    """
    return {
        principal: [
            *("reset", "on", "-@all"),
            *(f"+{name}" for name in _REDIS_ENTRY),
            *(f"({redis_selector(grant)})" for grant in mine),
        ]
        for principal, mine in _by_principal(grants).items()
    }


def redis_selector(grant: Grant) -> str:
    """One grant as a selector: reading of all of a topic's keys, writing of those that the actions concern."""
    actions = sorted(check_grant(grant).actions)
    keys = dict.fromkeys([key.replace("%", grant.topic) for action in actions for key in _REDIS_KEYS[action]])
    commands = " ".join([f"+{each}" for each in f"{_REDIS_READING} {_REDIS_WRITING}".split()])
    return f"{commands} %R~{{pf:{grant.topic}}}:* %R~{{pf:}}:topics {' '.join(keys)}"


# -- NATS --------------------------------------------------------------------------------------------------------------


class NatsTopic(NamedTuple):
    """What a topic, or a pattern of topics, is called in NATS; `*` and `>` are NATS's own wildcards.

    Attributes:
        subjects: Where its records are published.
        stream: The stream that keeps them.
        values: The key-value bucket of the values beside it, whose stream is `KV_<values>`.
    """

    subjects: str
    stream: str
    values: str


def nats_topic(topic: str, namespace: str = "pf") -> NatsTopic:
    """A topic as the NATS broker calls it: names of streams have no dots."""
    if topic.endswith("*"):
        return NatsTopic(f"{namespace}.{topic[:-1]}>", "*", "*")
    plain = topic.replace("_", "__").replace(".", "_-")
    return NatsTopic(f"{namespace}.{topic}.>", f"{namespace}_{plain}", f"{namespace}_{plain}")


def nats_permissions(
    grants: Iterable[Grant], inbox: str = "_INBOX", *, namespace: str = "pf", reach: bool = False
) -> dict[str, dict[str, Any]]:
    """By principal, the `permissions` of a user in an account, as NATS's configuration and a JWT have them.

    Rights in JetStream are rights to publish to its API's subjects, and each user has an inbox of its own: connect
    with `inbox_prefix` `<inbox>.<principal>`. A stream's name is one token, and there are no wildcards in a token: a
    grant of a pattern is one of all streams of the account, so give each namespace an account of its own.

    Args:
        grants: All grants of the principals concerned.
        inbox: What inboxes begin with.
        namespace: What the topics' subjects and streams begin with.
        reach: Whether administrators may do so on servers of other domains, too, that are reached through this one.
    """
    found: dict[str, dict[str, Any]] = {}
    for principal, mine in _by_principal(grants).items():
        publish: list[str] = ["$JS.API.INFO"]
        subscribe = [f"{inbox}.{nats_token(principal)}.>"]
        for grant in mine:
            topic = nats_topic(grant.topic, namespace)
            publish += [subject for action in ACTIONS if action in grant.actions for subject in _nats(action, topic)]
            subscribe.append(f"$KV.{topic.values}.>")  # who waits for a value is told
        if reach and any(ADMIN in grant.actions for grant in mine):
            there = [subject.replace("$JS.API.", "$JS.*.API.", 1) for subject in publish]
            publish += [subject for subject in there if subject.startswith("$JS.*")]
        found[principal] = {
            "publish": {"allow": _unique(publish)},
            "subscribe": {"allow": _unique(subscribe)},
            "allow_responses": True,
        }
    return found


def nats_token(principal: str) -> str:
    """A principal as one token of a subject."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", principal)


def _nats(action: str, topic: NatsTopic) -> list[str]:
    values = f"KV_{topic.values}" if topic.values != "*" else "*"
    shared = [
        f"$JS.API.STREAM.INFO.{topic.stream}",
        f"$JS.API.STREAM.INFO.{values}",
        f"$JS.API.STREAM.MSG.GET.{values}",
        f"$JS.API.DIRECT.GET.{values}",
        f"$JS.API.DIRECT.GET.{values}.>",
        f"$KV.{topic.values}.>",
        f"$JS.API.CONSUMER.*.{values}",
        f"$JS.API.CONSUMER.*.{values}.>",
    ]
    if action == PUBLISH:
        return [topic.subjects, *shared]
    if action == SUBSCRIBE:
        kinds = ("CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT", "NAMES", "LIST", "DELETE")
        return [
            *shared,
            f"$JS.API.STREAM.MSG.GET.{topic.stream}",
            f"$JS.API.DIRECT.GET.{topic.stream}",
            *(
                f"$JS.API.CONSUMER.{kind}.{topic.stream}{rest}"
                for kind in kinds
                for rest in (("",) if kind in ("NAMES", "LIST") else (".>",))
            ),
            f"$JS.API.CONSUMER.CREATE.{topic.stream}",
            f"$JS.ACK.{topic.stream}.>",
            f"$JS.ACK.*.*.{topic.stream}.>",
        ]
    return [
        *shared,
        *(
            f"$JS.API.STREAM.{kind}.{stream}"
            for kind in ("CREATE", "UPDATE", "DELETE", "PURGE")
            for stream in (topic.stream, values)
        ),
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
    ]


# -- Kafka -------------------------------------------------------------------------------------------------------------


class KafkaRule(NamedTuple):
    """One ACL binding that allows, in the words of Kafka's protocol.

    Attributes:
        principal: With its kind: `User:alice`.
        resource: TOPIC, GROUP, CLUSTER or TRANSACTIONAL_ID.
        pattern: LITERAL or PREFIXED.
        name: The resource, or what its name begins with.
        operation: READ, WRITE, CREATE, DELETE, DESCRIBE or ALTER.
    """

    principal: str
    resource: str
    pattern: str
    name: str
    operation: str


_TOPIC_OPERATIONS = {
    PUBLISH: ("WRITE", "DESCRIBE"),
    SUBSCRIBE: ("READ", "DESCRIBE"),
    ADMIN: ("CREATE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS"),
}


def kafka_rules(grant: Grant, values: str = "_pf") -> list[KafkaRule]:
    """The ACL bindings of a grant: the topic, the topic of the values beside it, and its groups.

    Everybody who may do anything reads and writes the values, as producers, groups and checkpoints are registered
    there; who may publish or subscribe may have that topic made.

    Args:
        grant: Who, what and which topics.
        values: What the names of topics of values begin with.
    """
    who = grant.principal if ":" in grant.principal else f"User:{grant.principal}"
    literal = not grant.topic.endswith("*")
    stem = grant.topic if literal else grant.topic[:-1]
    kind = "LITERAL" if literal else "PREFIXED"
    beside = f"{values}.{stem}.state" if literal else f"{values}.{stem}"
    beside_kind, group, group_kind = kind, f"{stem}~" if literal else stem, "PREFIXED"
    if not stem:  # all topics and groups: a literal star is Kafka's wildcard
        kind, stem, group, group_kind = "LITERAL", "*", "*", "LITERAL"
    rules = [
        KafkaRule(who, "TOPIC", kind, stem, operation)
        for action in ACTIONS
        if action in grant.actions
        for operation in _TOPIC_OPERATIONS[action]
    ]
    rules += [KafkaRule(who, "TOPIC", beside_kind, beside, name) for name in ("READ", "WRITE", "CREATE", "DESCRIBE")]
    if ADMIN in grant.actions:
        rules.append(KafkaRule(who, "TOPIC", beside_kind, beside, "DELETE"))
    if grant.actions & {SUBSCRIBE, ADMIN}:
        operations = ("READ", "DESCRIBE", "DELETE") if ADMIN in grant.actions else ("READ", "DESCRIBE")
        rules += [KafkaRule(who, "GROUP", group_kind, group, operation) for operation in operations]
    return list(dict.fromkeys(rules))


def kafka_grants(rules: Sequence[KafkaRule], values: str = "_pf") -> list[Grant]:
    """The grants that some rules amount to: the inverse of `kafka_rules`, for topics of ours.

    Rules of somebody else's making count when they allow the same.
    """
    held = set(rules)
    subjects = {
        (rule.principal, rule.pattern, rule.name)
        for rule in rules
        if rule.resource == "TOPIC" and not rule.name.startswith(f"{values}.")
    }
    found = []
    for principal, pattern, name in sorted(subjects):
        topic = name if pattern == "LITERAL" else f"{name}*"
        who = principal.removeprefix("User:")
        try:
            actions = {
                action
                for action in ACTIONS
                if set(kafka_rules(check_grant(Grant(who, topic, frozenset({action}))), values)) <= held
            }
        except ConfigurationError:
            continue  # a topic or a principal that no grant can name
        if actions:
            found.append(Grant(who, topic, frozenset(actions)))
    return found


# -- all ---------------------------------------------------------------------------------------------------------------


def _by_principal(grants: Iterable[Grant]) -> dict[str, list[Grant]]:
    by: dict[str, list[Grant]] = defaultdict(list)
    for grant in grants:
        by[check_grant(grant).principal].append(grant)
    return {
        principal: sorted(by[principal], key=lambda each: (each.topic, sorted(each.actions)))
        for principal in sorted(by)
    }


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
