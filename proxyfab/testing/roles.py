"""What child processes of the suites do. Each is `role(talk, ...)`; `talk` is the line to the test."""

from __future__ import annotations

import atexit
import importlib
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, KeyExists, ProxyfabError
from proxyfab.keys import Key
from proxyfab.testing.content import is_whole, signed


def give_back(talk: Connection, value: Any) -> Any:
    """What was sent, unpickled and pickled again."""
    return value


def imported_by(talk: Connection, module: str, scheme: str) -> list[str]:
    """Connector modules that are loaded when one scheme was asked for, besides its own."""
    importlib.import_module(module).load("connectors", scheme)
    loaded = [name for name in sys.modules if name.startswith("proxyfab.connectors.")]
    return [name for name in loaded if name != f"proxyfab.connectors.{scheme}"]


def read(talk: Connection, connector: Any, keys: list[Key]) -> list[bytes | None]:
    """The objects under `keys`, as bytes."""
    return [None if found is None else found.tobytes() for found in connector.get_many(keys)]


def write(talk: Connection, connector: Any, data: list[bytes]) -> list[Key]:
    """Put each; the keys."""
    return [connector.put(Frames([one])) for one in data]


def reopen(talk: Connection, kind: Any, spec: str) -> tuple[str, Key]:
    """Open a place by its URL; the URL again, and the key of an object put there."""
    connector = kind.from_url(spec)
    return connector.spec, connector.put(Frames([b"from elsewhere"]))


def refusal(talk: Connection, connector: Any, key: Key) -> tuple[str, str] | None:
    """Name and text of the error that a get raises; None if it raised none."""
    try:
        connector.get(key)
    except ProxyfabError as error:
        return type(error).__name__, str(error)
    return None


def put_until_killed(talk: Connection, connector: Any, nbytes: int, names: list[str]) -> None:
    """Put signed objects under the given names, then under drawn ones; report each key after it was acknowledged."""
    for seed, name in enumerate(names):
        talk.send(connector.put(signed(nbytes, seed), key=Key(name)))
    while True:
        talk.send(connector.put(signed(nbytes, 7)))


def replace_until_killed(talk: Connection, connector: Any, key: Key, nbytes: int) -> None:
    """Replace one object over and over; report each time."""
    objects = [signed(nbytes + 1000 * seed, seed) for seed in range(4)]
    while True:
        for frames in objects:
            connector.put(frames, key=key, replace=True)
            talk.send(True)


def hold(talk: Connection, connector: Any, keys: list[Key]) -> list[bool]:
    """Get the objects, say so, hold them until told to go on; whether each is whole then."""
    held = connector.get_many(keys)
    talk.send([frames is not None and is_whole(frames) for frames in held])
    talk.recv()
    return [frames is not None and is_whole(frames) for frames in held]


def own(talk: Connection, kind: Any, url: str, nbytes: int) -> None:
    """Open a fresh unnamed place, put two objects, send its spec and keys, and end when told to."""
    connector = kind.from_url(url)
    keys = [connector.put(signed(nbytes, seed)) for seed in range(2)]
    talk.send((connector.spec, keys))
    talk.recv()


def visit(talk: Connection, kind: Any, url: str) -> bool:
    """Open a place for the first time in a process, as anybody might, and use it."""
    connector = kind.from_url(url)
    key = connector.put(Frames([b"passing by"]))
    return bool(connector.evict(key))


def follow(talk: Connection, connector: Any) -> None:
    """Do single operations on command, until the line is cut."""
    while True:
        operation, key, *rest = talk.recv()
        if operation == "get":
            found = connector.get(key)
            talk.send(None if found is None else found.tobytes())
        elif operation == "churn":
            for seed in range(6):
                connector.evict(connector.put(signed(key, 500 + seed)))
            talk.send(connector.put(signed(key, 600)))
        elif operation == "replace":
            talk.send(connector.put(Frames(rest), key=key, replace=True))
        else:
            talk.send(getattr(connector, operation)(key))


def race(talk: Connection, connector: Any, key: Key, seed: int) -> bool:
    """Say ready, wait for the start, put under `key`; whether this process won."""
    frames = signed(200_000, seed)
    talk.send("ready")
    talk.recv()
    try:
        connector.put(frames, key=key)
    except KeyExists:
        return False
    return True


def wait_for(talk: Connection, connector: Any, key: Key, timeout: float) -> bytes | None:
    """Wait for an object; its bytes, or None when it did not come."""
    talk.send("waiting")
    found = connector.get(key) if connector.wait(key, timeout) else None
    return None if found is None else found.tobytes()


def fill(talk: Connection, connector: Any, nbytes: int, most: int, twice: bool) -> dict[str, Any]:
    """Put until there is no room, if wanted twice with an evict between; what happened."""
    first, error = _fill(connector, nbytes, most, "first")
    report = {
        "stored": len(first),
        "error": error,
        "whole": all(is_whole(connector.get(key)) for key in first),
        "partial": connector.exists(Key(f"first-{len(first)}")),
    }
    if not twice:
        return report
    evicted = all(connector.evict_many(first))
    again, _ = _fill(connector, nbytes, most, "again")
    whole = all(is_whole(connector.get(key)) for key in again)
    return {**report, "evicted": evicted, "stored_again": len(again), "whole_again": whole}


def _fill(connector: Any, nbytes: int, most: int, name: str) -> tuple[list[Key], str]:
    keys: list[Key] = []
    try:
        for number in range(most):
            keys.append(connector.put(signed(nbytes, number), key=Key(f"{name}-{number}")))
    except CapacityError as error:
        return keys, str(error)
    return keys, ""


def few_descriptors(talk: Connection, connector: Any, keys: list[Key], limit: int) -> tuple[int, bool]:
    """Hold as many objects as a low limit on open files allows; how many, and whether all is well afterwards."""
    connector.exists(keys[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    held = []
    try:
        for key in keys:
            held.append(connector.get(key))
    except ProxyfabError:
        pass
    count = len(held)
    held.clear()
    return count, is_whole(connector.get(keys[-1]))


def put_some(talk: Connection, connector: Any, nbytes: int, count: int) -> list[Key]:
    """Put as many objects; the keys."""
    talk.send("started")
    return [connector.put(signed(nbytes, number)) for number in range(count)]


def arrive(talk: Connection, kind: Any, url: str) -> bool:
    """Open a place at the same moment as others, and use it."""
    talk.send("ready")
    talk.recv()
    connector = kind.from_url(url)
    key = connector.put(signed(1000))
    return is_whole(connector.get(key)) and bool(connector.evict(key))


def own_and_fork(talk: Connection, kind: Any, url: str) -> None:
    """Own an unnamed place, fork a worker that outlives this process, and end when told to."""
    connector = kind.from_url(url)
    key = connector.put(signed(1000))
    worker = os.fork()
    if worker == 0:
        connector.exists(key)
        talk.close()
        signal.pause()
        os._exit(0)
    talk.send((connector.spec, key, worker))
    talk.recv()


def fork_and_exit(talk: Connection, kind: Any, url: str) -> bool:
    """Whether an unnamed place survives a fork that ends in the ordinary way, exit handlers and all."""
    connector = kind.from_url(url)
    key = connector.put(signed(1000))
    worker = os.fork()
    if worker == 0:
        connector.exists(key)
        atexit._run_exitfuncs()
        os._exit(0)
    os.waitpid(worker, 0)
    return is_whole(connector.get(key)) and is_whole(connector.get(connector.put(signed(10))))


def limited_file_size(talk: Connection, connector: Any, nbytes: int, limit: int) -> tuple[str, bool, bool]:
    """Put more than a limit on file sizes allows: the error, whether something is visible, whether less works."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        connector.put(signed(nbytes), key=Key("k"))
        said = ""
    except ProxyfabError as error:
        said = str(error)
    partial = connector.get(Key("k")) is not None
    return said, partial, is_whole(connector.get(connector.put(signed(1000), key=Key("k"))))


def count_up(connector: Any, key: Key, times: int) -> int:
    """Add one to the number under a key, as many times; how often that succeeded."""
    for _ in range(times):
        while True:
            found = connector.get(key)
            number = 0 if found is None else int(found.tobytes())
            if connector.compare_and_set(key, found, Frames([str(number + 1).encode()])):
                break
    return times


def count(talk: Connection, connector: Any, key: Key, times: int) -> int:
    """`count_up`, as soon as told to."""
    talk.send("ready")
    talk.recv()
    return count_up(connector, key, times)


def swap_until_killed(talk: Connection, connector: Any, key: Key, nbytes: int) -> None:
    """Compare and set one object over and over, each time to the next of four; report each time."""
    number = 0
    while True:
        number = (number + 1) % 4
        talk.send(connector.compare_and_set(key, connector.get(key), signed(nbytes + number, number)))
