"""The values beside a topic in Redis, as the protocol has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from time import monotonic

from proxyfab.brokers.redis import values
from proxyfab.brokers.redis.desk import LOOK, Desk, Waiting, leaves_at
from proxyfab.brokers.redis.subscription import key
from proxyfab.errors import CapacityError
from proxyfab.events.broker import State
from proxyfab.events.model import Kept, check_name
from proxyfab.resp.errors import Late
from proxyfab.resp.parser import Reply

MAX_VALUE = 512 << 10


class RedisState(State):
    """Values.

    Args:
        desk: Asks the server.
        topic: Beside which they lie; "" for beside the broker.
    """

    def __init__(self, desk: Desk, topic: str) -> None:
        self._desk = desk
        self._key = key(topic, "v")
        self._waiting = Waiting(desk)

    def get(self, name: str) -> Kept | None:
        _, found, _ = self._look([check_name(name)])
        return found[name]

    def put(self, name: str, value: bytes, *, revision: int | None = None, ttl: float | None = None) -> int:
        if len(value) > MAX_VALUE:
            raise CapacityError(f"The value {name} has {len(value)} bytes, more than {MAX_VALUE}.")
        lives = b"" if ttl is None else b"%d" % max(int(ttl * 1e6), 1)
        words = [check_name(name).encode(), _expected(revision), value, lives]
        return int(self._desk.ask(values.PUT, self._key, words, "putting a value"))

    def delete(self, name: str, *, revision: int | None = None) -> bool:
        words = [check_name(name).encode(), _expected(revision)]
        return int(self._desk.ask(values.REMOVE, self._key, words, "deleting a value")) > 0

    def items(self, prefix: str = "") -> dict[str, Kept]:
        told: list[Reply] = self._desk.ask(values.ITEMS, self._key, [prefix.encode()], "listing values")
        found = {told[at].decode(): Kept(bytes(told[at + 2]), int(told[at + 1])) for at in range(0, len(told), 3)}
        return dict(sorted(found.items()))

    def wait(self, known: Mapping[str, int], timeout: float) -> dict[str, Kept | None]:
        until = monotonic() + timeout
        try:
            return self._wait(known, until, leaves_at(until, timeout))
        except Late as late:
            self._desk.fleet.tell(late, "waiting for values")
            return {}

    def _wait(self, known: Mapping[str, int], until: float, leaves: float) -> dict[str, Kept | None]:
        names = list(known)
        while True:
            rung, kept, ends = self._look(names, leaves)
            found = {name: each for name, each in kept.items() if (each.revision if each else 0) != known[name]}
            left = until - monotonic()
            if found or left <= 0:
                return found
            self._waiting.wait(self._key + b":b", rung, min(left, ends), leaves)

    def _look(self, names: Sequence[str], leaves: float = inf) -> tuple[bytes, dict[str, Kept | None], float]:
        """The bell, the values, and the seconds until one of them ends."""
        words = [name.encode() for name in names]
        rung, *told = self._desk.ask(values.GET, self._key, words, "getting a value", leaves=leaves)
        found: dict[str, Kept | None] = {}
        ends = LOOK
        for name, revision, lives, value in zip(names, told[::3], told[1::3], told[2::3], strict=True):
            found[name] = Kept(bytes(value), int(revision)) if int(revision) else None
            if lives:
                ends = min(ends, int(lives) / 1e6 + 0.001)
        return rung, found, ends


def _expected(revision: int | None) -> bytes:
    return b"" if revision is None else b"%d" % revision
