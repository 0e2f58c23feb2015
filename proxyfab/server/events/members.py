"""Members of groups at a server: who they are, by which connection, and what of theirs was done.

Promises: a member's token is drawn here and told to nobody else; what it held comes again when its connection ends.
"""

from __future__ import annotations

import itertools
import os

from proxyfab.errors import ConnectorError
from proxyfab.events.engine import Log

_TOKEN = 16


class Member:
    """A subscription of a group.

    Attributes:
        done: How many of its one-way messages were done.
        left: Whether it has gone.
    """

    __slots__ = ("ack_wait", "done", "group", "left", "log", "number", "partitions", "peer", "token")

    def __init__(
        self, token: bytes, number: int, peer: bytes, log: Log, group: str, partitions: frozenset[int], ack_wait: float
    ) -> None:
        self.token, self.number, self.peer = token, number, peer
        self.log, self.group, self.partitions, self.ack_wait = log, group, partitions, ack_wait
        self.done = 0
        self.left = False


class Members:
    """By their tokens. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self._by: dict[bytes, Member] = {}
        self._peers: dict[bytes, dict[bytes, Member]] = {}
        self._numbers = itertools.count(1)

    def add(self, peer: bytes, log: Log, group: str, partitions: frozenset[int], ack_wait: float) -> Member:
        """A new one."""
        token = os.urandom(_TOKEN)
        member = Member(token, next(self._numbers), peer, log, group, partitions, ack_wait)
        self._by[token] = self._peers.setdefault(peer, {})[token] = member
        return member

    def get(self, token: bytes) -> Member:
        """Whose token this is; raises ConnectorError where it has left."""
        member = self._by.get(token)
        if member is None:
            raise ConnectorError("This member has left its group: its connection has ended, or it was closed.")
        return member

    def count(self, peer: bytes) -> int:
        """How many came by a connection."""
        return len(self._peers.get(peer, ()))

    def leave(self, member: Member) -> None:
        """It goes; what it held comes again."""
        if not member.left:
            member.left = True
            self._by.pop(member.token, None)
            self._peers.get(member.peer, {}).pop(member.token, None)
            member.log.leave(member.group, member.number)

    def drop(self, peer: bytes) -> list[Member]:
        """All of a connection that has ended go; which they were."""
        gone = list(self._peers.get(peer, {}).values())
        for member in gone:
            self.leave(member)
        self._peers.pop(peer, None)
        return gone
