"""One node server on this machine, and those who speak to it, beside others that move bytes between two processes.

proxyfab goes over shared memory and by each way of bytes; beside it are pyzmq's own fastest way, ProxyStore's connector
and bare streams, each with its server in another process.

All at the level of bytes by key, so that nothing but the connection differs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from importlib.util import find_spec

from benchmarks.batches import batched
from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row, timed
from benchmarks.payloads import MB
from benchmarks.waking import woken
from proxyfab.buffers import Frames
from proxyfab.keys import Key

BENCH = "zmq"
WIRE, SHARED, WHOLE, STREAM = "proxyfab-zmq-wire", "proxyfab-zmq", "pyzmq", "raw-tcp"
PEER = "proxystore-zmq"
WAYS = {
    SHARED: "?ns=shared",
    "proxyfab-zmq-unix": "?shared=0&ns=unix",
    WIRE: "?shared=0&side=tcp&ns=wire",
    "proxyfab-zmq-router": "?shared=0&side=0&ns=router",
}
"""Shared memory; all bytes through a Unix socket, TCP, ZeroMQ."""
LARGEST = 100 * MB
Calls = dict[str, Callable[[], object]]


def run(settings: Settings) -> Outcome:
    """Sizes to 100 MB, batches of a thousand, and how late a waiter wakes."""
    outcome = Outcome([], [])
    if not find_spec("zmq"):
        outcome.skipped.append(Skipped(BENCH, "all", "the package zmq is not installed"))
        return outcome
    from proxyfab.testing.nodes import NodeServer

    if not find_spec("proxystore_ex"):
        outcome.skipped.append(Skipped(BENCH, PEER, "the package proxystore_ex is not installed"))
    with NodeServer() as server:
        for nbytes in [size for size in settings.sizes if size <= LARGEST]:
            _size(server.url, nbytes, settings, outcome)
        _batches(server.url, settings, outcome)
        _waking(server.url, settings, outcome)
    return outcome


def _size(url: str, nbytes: int, settings: Settings, outcome: Outcome) -> None:
    with contextlib.ExitStack() as stack:
        peers = bool(find_spec("proxystore_ex") and settings.wanted([PEER]))
        gets, puts = _speakers(url, os.urandom(nbytes), peers, stack)
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


def _speakers(url: str, data: bytes, peers: bool, stack: contextlib.ExitStack) -> tuple[Calls, Calls]:
    """What gets and what puts `data`, by system; ours has looked at what it gets once."""
    from benchmarks.baselines.zmq_raw import Stream, WholeZmq
    from proxyfab.connectors.zmq.connector import ZMQConnector

    frames, key = Frames([data]), Key("object")
    gets: Calls = {}
    puts: Calls = {}
    for name, options in WAYS.items():
        one = stack.enter_context(ZMQConnector.from_url(url + options))
        stack.callback(one.clear)
        one.put(frames, key=key, replace=True)
        if (one.get(key) or Frames()).tobytes() != data:
            raise ValueError("what came back is not what was put")
        gets[name] = lambda one=one: one.get(key)  # type: ignore[misc]  # a default binds the loop's value
        puts[name] = lambda one=one: one.put(frames, key=key, replace=True)  # type: ignore[misc]  # as above
    whole = stack.enter_context(contextlib.closing(WholeZmq(len(data))))
    stream = stack.enter_context(contextlib.closing(Stream(len(data))))
    unix = stack.enter_context(contextlib.closing(Stream(len(data), unix=True)))
    gets |= {WHOLE: whole.get, STREAM: stream.get, "raw-unix": unix.get}
    puts[WHOLE] = lambda: whole.put(data)
    if peers:
        from benchmarks.baselines.proxystore_zmq import ProxyStoreZmq

        peer = stack.enter_context(contextlib.closing(ProxyStoreZmq(data)))
        if bytes(peer.get()) != data:
            raise ValueError("what came back from ProxyStore is not what was put")
        gets[PEER] = peer.get
        puts[PEER] = lambda: peer.put(data)
    return gets, puts


def _batches(url: str, settings: Settings, outcome: Outcome) -> None:
    """Objects of 1 KB, one by one and a thousand at once, as seconds an object."""
    from proxyfab.connectors.zmq.connector import ZMQConnector

    with ZMQConnector.from_url(url + "?shared=0&side=tcp") as one:
        outcome.rows.extend(batched(BENCH, WIRE, one, settings))


def _waking(url: str, settings: Settings, outcome: Outcome) -> None:
    """From the start of a put to a waiter in another process."""
    from proxyfab.connectors.zmq.connector import ZMQConnector

    with ZMQConnector.from_url(url) as one:
        keys = [one.reserve() for _ in range(3 if settings.tiny else 100)]
        outcome.rows.append(row(BENCH, "a waiter in another process wakes", SHARED, list(woken(one, keys))))
        one.clear()
