"""What owning costs, step by step, beside ProxyStore's OwnedProxy: time, and calls to the place where objects lie.

ProxyStore counts borrows in the memory of the owner's process, so they cost nothing there and end with it; it has no
step for taking what was sent, as unpickling makes another owner. All in one process: nothing but the calls differ.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row
from benchmarks.pairs import missing
from benchmarks.payloads import KB
from proxyfab import Store, patterns
from proxyfab.testing.servers import HOST, RedisServer, ServerMissing

BENCH = "ownership"
STEPS = ("own", "borrow", "borrow again", "release a borrow", "borrow_mut", "update", "send, take, read", "release")
CALLS = (
    *("put", "get", "exists", "evict", "put_many", "get_many", "exists_many", "evict_many"),
    *("compare_and_set", "renew", "renew_many", "set", "get_batch", "put_batch"),
)
Life = dict[str, Callable[[dict[str, Any]], object]]


class System(NamedTuple):
    """Who is measured: the steps of one object's life, and what is called for them."""

    life: Life
    count: list[int]


def run(settings: Settings) -> Outcome:
    """The life of a small object, in every system."""
    outcome = Outcome([], [])
    with contextlib.ExitStack() as stack:
        systems = _systems(stack, outcome)
        names = settings.wanted(systems)
        samples: dict[str, list[dict[str, tuple[float, int]]]] = {name: [] for name in names}
        count, rounds = (1, 1) if settings.tiny else (50, settings.rounds(KB))
        for name in names:
            _life(systems[name])  # the first opens connections, and a session
        for name in interleaved(names, rounds):
            samples[name].append(_median([_life(systems[name]) for _ in range(count)]))
        for name in names:
            _report(name, samples[name], outcome)
    return outcome


def _report(name: str, lives: list[dict[str, tuple[float, int]]], outcome: Outcome) -> None:
    for step in lives[0]:
        seconds = [life[step][0] for life in lives]
        calls = [float(life[step][1]) for life in lives]
        outcome.rows.append(row(BENCH, step, name, seconds, kind="ndarray", nbytes=KB))
        outcome.rows.append(row(BENCH, f"{step}: calls", name, calls, unit="n", kind="ndarray", nbytes=KB))


def _median(lives: list[dict[str, tuple[float, int]]]) -> dict[str, tuple[float, int]]:
    return {step: sorted(life[step] for life in lives)[len(lives) // 2] for step in lives[0]}


def _life(system: System) -> dict[str, tuple[float, int]]:
    """Seconds and calls of each step."""
    things: dict[str, Any] = {}
    steps = {}
    for step, call in system.life.items():
        before, start = system.count[0], perf_counter()
        call(things)
        steps[step] = perf_counter() - start, system.count[0] - before
    return steps


def _counted(connector: Any) -> list[int]:
    """Count the calls of a connector from here on; nested ones as one."""
    count, depth = [0], [0]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            count[0] += not depth[0]
            depth[0] += 1
            try:
                return call(*args, **options)
            finally:
                depth[0] -= 1

        return counted

    for name in CALLS:
        if hasattr(connector, name):
            setattr(connector, name, counting(getattr(connector, name)))
    return count


def _systems(stack: contextlib.ExitStack, outcome: Outcome) -> dict[str, System]:
    places = {"memory": "memory://", "shm": "shm://"}
    server = None
    try:
        server = stack.enter_context(RedisServer())
        places["redis"] = server.database()
    except ServerMissing as reason:
        outcome.skipped.append(Skipped(BENCH, "redis", str(reason)))
    systems = {}
    for name, url in places.items():
        store = stack.enter_context(Store(url, cache=0))
        systems[f"proxyfab-{name}"] = System(_ours(store), _counted(store.connector))
    reason = missing("proxystore")
    if reason:
        outcome.skipped.append(Skipped(BENCH, "proxystore", reason))
        return systems
    from proxystore.connectors.local import LocalConnector

    systems["proxystore-local"] = _peer("local", LocalConnector(), stack)
    if server is not None:
        from proxystore.connectors.redis import RedisConnector

        systems["proxystore-redis"] = _peer("redis", RedisConnector(HOST, server.port, clear=False), stack)
    return systems


def _ours(store: Store) -> Life:
    data = np.arange(KB // 8)

    def sent(things: dict[str, Any]) -> None:
        things["o"] = pickle.loads(pickle.dumps(things["o"]))
        assert things["o"][1] == 1

    return {
        "own": lambda things: things.update(o=patterns.own(store, data)),
        "borrow": lambda things: things.update(r=patterns.borrow(things["o"])),
        "borrow again": lambda things: things.update(s=patterns.borrow(things["o"])),
        "release a borrow": lambda things: (patterns.release(things["r"]), patterns.release(things["s"])),
        "borrow_mut": lambda things: things.update(m=patterns.borrow_mut(things["o"])),
        "update": lambda things: (things["m"].sum(), patterns.update(things["m"]), patterns.release(things["m"])),
        "send, take, read": sent,
        "release": lambda things: patterns.release(things["o"]),
    }


def _peer(name: str, connector: Any, stack: contextlib.ExitStack) -> System:
    from proxystore.store import Store as Peer
    from proxystore.store import ref, unregister_store

    store = Peer(f"ownership-{name}", connector, cache_size=0, register=True)
    stack.callback(store.close)
    stack.callback(unregister_store, store.name)
    data = np.arange(KB // 8)

    def sent(things: dict[str, Any]) -> None:
        message = pickle.dumps(things.pop("o"))
        things["o"] = pickle.loads(message)
        assert things["o"][1] == 1

    life: Life = {
        "own": lambda things: things.update(o=store.owned_proxy(data)),
        "borrow": lambda things: things.update(r=ref.borrow(things["o"])),
        "borrow again": lambda things: things.update(s=ref.borrow(things["o"])),
        "release a borrow": lambda things: [things.pop(name) is None for name in "rs"],
        "send, take, read": sent,
        "release": lambda things: things.pop("o") is None,
    }
    return System(life, _counted(connector))
