"""Who may use a topic, in the words of Redis's ACL: a grant is a selector of the principal's, who is a user there.

Promises: what an administrator has given a user otherwise stays as it is. A user who does not exist yet is made without
a password and disabled, until somebody enables it. What is granted holds at once, on all masters of a cluster; it is
saved where the server has a file for it (`aclfile`). Needs Redis 7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from redis.exceptions import ResponseError

from proxyfab.errors import ConfigurationError
from proxyfab.events.model import Grant, check_topic
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import Link, pack
from proxyfab.resp.parser import Reply

_READING = (
    "ping select time multi exec evalsha_ro eval_ro exists hget hmget hgetall hkeys lindex lrange smembers xlen "
    "xrange xrevrange xread zcard zrange zrangebyscore"
)
_WRITING = (
    "evalsha eval hdel hincrby hset incr ltrim pexpire rpush sadd srem unlink xadd xdel xgroup|create "
    "xgroup|destroy xsetid xtrim zadd zrem"
)
_KEYS = {
    "publish": ("~{pf:%}:s*", "~{pf:%}:b", "~{pf:%}:v*"),
    "subscribe": ("~{pf:%}:g*", "~{pf:%}:b", "~{pf:%}:v*"),
    "admin": ("~{pf:%}:*", "~{pf:}:topics"),
}
_SIGNS = {"publish": "~{pf:%}:s*", "subscribe": "~{pf:%}:g*", "admin": "~{pf:%}:*"}
Change: TypeAlias = "Callable[[list[str]], list[str]]"
_OURS = re.compile(r"%R~\{pf:([^}]*)\}:\*( |$)")


def grant(fleet: Fleet, principal: str, topic: str, actions: Iterable[str]) -> None:
    """Let a user do something with topics; replaces what was granted to it for them."""
    wanted = frozenset(actions)
    if not wanted or wanted - _KEYS.keys():
        raise ConfigurationError(f"Actions are {', '.join(_KEYS)}, not {', '.join(sorted(wanted)) or 'none'}.")
    mine = _selector(_pattern(topic), wanted)
    _change(fleet, _name(principal), lambda others: [*(each for each in others if _topic(each) != topic), mine])


def revoke(fleet: Fleet, principal: str, topic: str) -> bool:
    """Take back what was granted; whether there was something."""
    found = [each for each in grants(fleet) if each.principal == _name(principal) and each.topic == _pattern(topic)]
    if found:
        _change(fleet, principal, lambda others: [each for each in others if _topic(each) != topic])
    return bool(found)


def grants(fleet: Fleet) -> list[Grant]:
    """What was granted, as the first server tells."""

    def work(link: Link) -> list[Grant]:
        names = sorted(link.call(b"ACL", b"USERS"))
        replies = link.calls([pack(b"ACL", b"GETUSER", name) for name in names])
        return [
            Grant(name.decode(), topic, _actions(selector, topic))
            for name, reply in zip(names, replies, strict=True)
            for selector in _selectors(reply)
            if (topic := _topic(selector)) is not None
        ]

    return fleet.run_at(fleet.masters()[0], work, "asking who may what")


def _change(fleet: Fleet, principal: str, change: Change) -> None:
    """Give a user other selectors, on every server."""
    name = principal.encode()

    def work(link: Link) -> None:
        selectors = change(_selectors(link.call(b"ACL", b"GETUSER", name)))
        link.call(b"ACL", b"SETUSER", name, b"clearselectors", *[f"({each})".encode() for each in selectors])
        try:
            link.call(b"ACL", b"SAVE")
        except ResponseError:  # it has no file for them; its configuration is somebody else's
            pass

    for address in fleet.masters():
        fleet.run_at(address, work, "changing who may what")


def _selectors(user: Reply) -> list[str]:
    """A user's selectors, as they are written."""
    told = dict(zip(user[::2], user[1::2], strict=True)) if user else {}
    found = []
    for each in told.get(b"selectors", []):
        parts = dict(zip(each[::2], each[1::2], strict=True))
        found.append(" ".join([bytes(parts[part]).decode() for part in (b"commands", b"keys", b"channels")]).strip())
    return found


def _selector(topic: str, actions: frozenset[str]) -> str:
    keys = dict.fromkeys(pattern.replace("%", topic) for action in sorted(actions) for pattern in _KEYS[action])
    commands = " ".join(f"+{each}" for each in f"{_READING} {_WRITING}".split())
    return f"{commands} %R~{{pf:{topic}}}:* %R~{{pf:}}:topics {' '.join(keys)}"


def _topic(selector: str) -> str | None:
    """The topics that a selector of ours is about; None for others'."""
    found = _OURS.search(selector)
    return None if found is None else found[1]


def _actions(selector: str, topic: str) -> frozenset[str]:
    words = selector.split()
    return frozenset(action for action, sign in _SIGNS.items() if sign.replace("%", topic) in words)


def _pattern(topic: str) -> str:
    if topic != "*":
        check_topic(topic.removesuffix(".*"))
    return topic


def _name(principal: str) -> str:
    if not re.fullmatch(r"[^\s()\0]{1,200}", principal):
        raise ConfigurationError(f"{principal!r} cannot name a user of Redis: a word without blanks and parentheses.")
    return principal
