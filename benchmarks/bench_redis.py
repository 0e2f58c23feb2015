"""One Redis server on this machine and four who speak to it: proxyfab, ProxyStore, redis-py, and a bare socket.

All at the level of bytes by key, in one process, so that nothing but the connection differs. The bare socket receives
into memory that is touched already, which nobody who returns an object can do; it is the limit of a plain GET.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from benchmarks.baselines.redis_raw import RawRedis
from benchmarks.batches import batched
from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row, timed
from benchmarks.pairs import missing
from benchmarks.payloads import MB
from benchmarks.waking import woken
from proxyfab.buffers import Frames
from proxyfab.keys import Key
from proxyfab.testing.servers import HOST, RedisServer, ServerMissing

BENCH = "redis"
OURS, PEER, PLAIN, BARE = "proxyfab-redis", "proxystore-redis", "redis-py", "raw-socket"
LARGEST = 100 * MB
Calls = dict[str, Callable[[], object]]


def run(settings: Settings) -> Outcome:
    """Sizes to 100 MB, batches of a thousand, and how late a waiter wakes."""
    outcome = Outcome([], [])
    try:
        with RedisServer() as server:
            for nbytes in [size for size in settings.sizes if size <= LARGEST]:
                _size(server, nbytes, settings, outcome)
            _batches(server, settings, outcome)
            _waking(server, settings, outcome)
    except ServerMissing as reason:
        outcome.skipped.append(Skipped(BENCH, "all", str(reason)))
    return outcome


def _size(server: RedisServer, nbytes: int, settings: Settings, outcome: Outcome) -> None:
    data = os.urandom(nbytes)
    with contextlib.ExitStack() as stack:
        gets, puts = _speakers(server, data, stack, outcome)
        calls = 1 if settings.tiny else max(1, min(200, MB // max(nbytes, 1)))
        for what, speakers in (("get", gets), ("put", puts)):
            names = settings.wanted(list(speakers))
            samples: dict[str, list[float]] = {name: [] for name in names}
            for name in names:
                speakers[name]()
            for name in interleaved(names, settings.rounds(nbytes)):
                samples[name].append(timed(speakers[name], calls))
            for name in names:
                outcome.rows.append(row(BENCH, what, name, samples[name], kind="bytes", nbytes=nbytes))


def _speakers(server: RedisServer, data: bytes, stack: contextlib.ExitStack, outcome: Outcome) -> tuple[Calls, Calls]:
    """What gets and what puts `data`, by system; each has looked at what it gets once."""
    import redis

    from proxyfab.connectors.redis import RedisConnector

    ours = stack.enter_context(RedisConnector.from_url(f"{server.url}/0", name="bench"))
    stack.callback(ours.clear)
    client = stack.enter_context(contextlib.closing(redis.Redis(host=HOST, port=server.port)))
    bare = stack.enter_context(contextlib.closing(RawRedis(HOST, server.port, len(data))))
    frames, key = Frames([data]), Key("object")
    ours.put(frames, key=key, replace=True)
    client.set("object", data)
    gets: Calls = {OURS: lambda: ours.get(key), PLAIN: lambda: client.get("object"), BARE: lambda: bare.get(b"object")}
    puts: Calls = {
        OURS: lambda: ours.put(frames, key=key, replace=True),
        PLAIN: lambda: client.set("object", data),
        BARE: lambda: bare.put(b"object", data),
    }
    if (ours.get(key) or Frames()).tobytes() != data or bytes(bare.get(b"object")) != data:
        raise ValueError("what came back is not what was put")
    reason = missing("proxystore")
    if reason:
        outcome.skipped.append(Skipped(BENCH, PEER, reason))
    else:
        _peer(server, data, stack, gets, puts)
    return gets, puts


def _peer(server: RedisServer, data: bytes, stack: contextlib.ExitStack, gets: Calls, puts: Calls) -> None:
    from proxystore.connectors.redis import RedisConnector as Peer

    peer = stack.enter_context(contextlib.closing(Peer(HOST, server.port)))
    theirs = peer.new_key()
    peer.set(theirs, data)
    gets[PEER] = lambda: peer.get(theirs)
    puts[PEER] = lambda: peer.set(theirs, data)


def _batches(server: RedisServer, settings: Settings, outcome: Outcome) -> None:
    """Objects of 1 KB a second, one by one and a thousand at once, as seconds an object."""
    from proxyfab.connectors.redis import RedisConnector

    with RedisConnector.from_url(f"{server.url}/1", name="bench") as ours:
        outcome.rows.extend(batched(BENCH, OURS, ours, settings))


def _waking(server: RedisServer, settings: Settings, outcome: Outcome) -> None:
    """From the start of a put to a waiter in another process."""
    from proxyfab.connectors.redis import RedisConnector

    with RedisConnector.from_url(f"{server.url}/2", name="bench") as ours:
        keys = [ours.reserve() for _ in range(3 if settings.tiny else 100)]
        outcome.rows.append(row(BENCH, "a waiter in another process wakes", OURS, list(woken(ours, keys))))
        ours.clear()
