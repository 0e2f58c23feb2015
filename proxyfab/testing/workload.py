"""What the processes do that are killed: put, replace, read and evict objects that know what they should be, for ever.

Every call goes through a `Log`. An object begins with its id, version, length and digest, so that a torn, mixed or
wrong one shows; one of no bytes has an id that says so.
"""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from proxyfab.buffers import Frames
from proxyfab.errors import ObjectLost
from proxyfab.keys import Key
from proxyfab.opening import open_connector
from proxyfab.testing.history import ROSTER, Log, recent

_HEAD = 128
_NOISE = 1 << 20
_BREATH = 0.003
SIZES = (0, 100, 3000, 60_000, 200_000, 1_500_000)
KEEP = 8
"""Objects that a writer leaves standing."""


class Task(NamedTuple):
    """What a worker needs to know.

    Args:
        directory: Where its log goes, and where those of others lie.
        who: Its name, unique in a run.
        url: The place.
        seed: Of its choices.
        sizes: Bytes of the objects, drawn evenly.
        keep: Objects that a writer leaves standing.
    """

    directory: Path
    who: str
    url: str
    seed: str
    sizes: Sequence[int] = SIZES
    keep: int = KEEP


@cache
def _noise() -> memoryview:
    return memoryview(random.Random(1).randbytes(_NOISE))


def marked(id: str, version: int, nbytes: int) -> Frames:
    """Frames that say whose they are: about `nbytes` bytes, none at all for an id that ends with `~0`."""
    if id.endswith("~0"):
        return Frames()
    left = max(nbytes - _HEAD, 0)
    body = []
    start = xxhash.xxh3_64_intdigest(f"{id} {version}".encode()) % (_NOISE // 2)
    while left > 0:
        body.append(_noise()[start : start + left])
        left -= len(body[-1])
        start = 0
    state = xxhash.xxh3_64()
    for view in body:
        state.update(view)
    head = f"{id} {version} {sum(map(len, body))} {state.hexdigest()}".encode()
    return Frames([head.ljust(_HEAD), *body])


def verdict_on(id: str, frames: Frames | None) -> str:
    """`v<version>` of a whole object, `missing` or `torn`."""
    if frames is None:
        return "missing"
    if id.endswith("~0"):
        return "torn" if frames.nbytes else "v1"
    head = frames.slice(0, _HEAD).tobytes().decode(errors="replace").split()
    state = xxhash.xxh3_64()
    for view in frames.slice(_HEAD, frames.nbytes).views:
        state.update(view)
    whole = len(head) == 4 and head[0] == id and re.fullmatch("[1-9][0-9]*", head[1])
    if whole and head[2:] == [str(frames.nbytes - _HEAD), state.hexdigest()]:
        return f"v{head[1]}"
    return "torn"


class Actor:
    """Calls a connector and writes it down; after an error it takes a short breath."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.log = Log(task.directory, task.who)
        self.dice = random.Random(task.seed)
        self.connector: Any = open_connector(task.url)

    def put(
        self, keys: Sequence[Key], version: int = 1, *, ttl: float | None = None, sizes: Sequence[int] = ()
    ) -> list[Key]:
        """Put one object under each key; full keys, or nothing when it went wrong."""
        many = [marked(key.id, version, self.dice.choice(sizes or self.task.sizes)) for key in keys]
        replace = version > 1

        def act() -> list[str]:
            if len(keys) == 1:
                return [str(self.connector.put(many[0], key=keys[0], ttl=ttl, replace=replace))]
            return [str(key) for key in self.connector.put_many(many, keys=keys, ttl=ttl, replace=replace)]

        op = "put" if len(keys) == 1 else "put_many"
        done = self._call(op, keys, act, version=version, ttl=ttl)
        return [Key.parse(text) for text in done or ()]

    def get(self, keys: Sequence[Key]) -> list[Frames | None]:
        """Get and judge them; what was found, nothing when it went wrong."""
        found: list[Frames | None] = []

        def act() -> list[str]:
            found.extend([self.connector.get(keys[0])] if len(keys) == 1 else self.connector.get_many(keys))
            return [verdict_on(key.id, frames) for key, frames in zip(keys, found, strict=True)]

        self._call("get" if len(keys) == 1 else "get_many", keys, act)
        return found

    def held(self, key: Key, frames: Frames) -> None:
        """Judge again what was got before."""
        self.log.call("held", [key.id], lambda: [verdict_on(key.id, frames)])

    def evict(self, key: Key) -> bool:
        """Evict an object; whether that was answered, be it that its server has lost it."""
        lost = False

        def act() -> list[str]:
            nonlocal lost
            try:
                return [str(self.connector.evict(key)).lower()]
            except ObjectLost:
                lost = True
                raise

        return self._call("evict", [key], act) is not None or lost

    def wait(self, key: Key, timeout: float) -> None:
        """Wait for an object."""
        self._call("wait", [key], lambda: [str(self.connector.wait(key, timeout)).lower()])

    def _call(
        self,
        op: str,
        keys: Sequence[Key],
        act: Callable[[], Sequence[str]],
        *,
        version: int = 0,
        ttl: float | None = None,
    ) -> Sequence[str] | None:
        results = self.log.call(op, [key.id for key in keys], act, version=version, ttl=ttl)
        if results is None:
            time.sleep(_BREATH)
        return results


class Mine(NamedTuple):
    """An object of a writer's own."""

    key: Key
    version: int


def write(task: Task) -> None:
    """Put, replace, read back and evict objects of one's own until killed; what may be there is evicted, too."""
    actor = Actor(task)
    mine: deque[Mine] = deque()
    doubtful: deque[Key] = deque()
    number = 0
    while True:
        choice = actor.dice.random()
        if doubtful and choice < 0.2:
            if actor.evict(doubtful[0]):
                doubtful.popleft()
        elif len(mine) >= task.keep or (mine and choice < 0.2):
            if actor.evict(mine[0].key):
                mine.popleft()
        elif mine and choice < 0.3 and not mine[-1].key.id.endswith("~0"):
            key, version = mine.pop()
            done = actor.put([key], version + 1)
            mine.extend(Mine(full, version + 1) for full in done)
            doubtful.extend([] if done else [key])
        elif mine and choice < 0.55:
            actor.get([actor.dice.choice(mine).key])
        else:
            keys = [_fresh(actor, number + index) for index in range(3 if choice > 0.9 else 1)]
            number += len(keys)
            done = actor.put(keys)
            mine.extend(Mine(full, 1) for full in done)
            if not done and len(doubtful) < task.keep:  # of many that were refused one after the other, only the first
                doubtful.extend(keys)  # may have come to a server that died over it


def _fresh(actor: Actor, number: int) -> Key:
    zero = "~0" if 0 in actor.task.sizes and actor.dice.random() < 0.1 else ""
    return Key(f"{actor.task.who}.{number}{zero}")


def read(task: Task) -> None:
    """Read what others have put, hold some of it and look again, until killed."""
    actor = Actor(task)
    holding: deque[tuple[Key, Frames]] = deque()
    while True:
        keys = [Key.parse(text) for text in known(task, actor.dice)]
        if not keys:
            actor.get([Key(f"{task.who}.nothing")])
            continue
        chosen = actor.dice.sample(keys, min(len(keys), actor.dice.choice((1, 1, 1, 4))))
        for key, frames in zip(chosen, actor.get(chosen), strict=False):
            if frames is not None:
                holding.append((key, frames))
        while len(holding) > 4:
            actor.held(*holding.popleft())


def known(task: Task, dice: random.Random) -> list[str]:
    """Keys that one of the writers of the moment has put lately."""
    try:
        writers = (task.directory / ROSTER).read_text().split()
    except FileNotFoundError:
        return []
    return recent(task.directory / dice.choice(writers)) if writers else []
