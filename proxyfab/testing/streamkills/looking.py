"""What is to be seen where a process does not come to the end of its stream: in it, in its broker, and between them.

Every process of a run listens for `ASK`: it writes the stacks of its threads, its asyncio tasks and what its
subscriptions know of themselves into a file. `look` asks all of them, and then the broker about its groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from proxyfab.brokers.opening import open_broker
from proxyfab.events.broker import Subscription
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.testing.processes import until
from proxyfab.testing.streamkills.places import Place

ASK = signal.SIGUSR1
_ANSWERED, _WRITES = 5.0, 0.5
"""Seconds in which a process begins to write what it sees, and in which it has done so."""
_DEEP = 3
_LONG = 20
"""Things of a collection that are shown."""
_OURS = "proxyfab."
_STATES = {"01": "established", "02": "connecting", "04": "closing", "05": "closing", "06": "over", "08": "half closed"}


def be_seen(where: Path) -> Callable[[], None]:
    """Write what is to be seen here into a file whenever asked by a signal; main thread only.

    Returns:
        What ends it.
    """
    before = signal.signal(ASK, signal.SIG_IGN)
    file = where.open("a")  # who has none is not asked: it would end

    def tell(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):  # whatever it meets, the process goes on as it was
            _tell(file)

    signal.signal(ASK, tell)
    faulthandler.register(ASK, file=file, all_threads=True, chain=True)  # the stacks, be the interpreter as it may

    def end() -> None:
        faulthandler.unregister(ASK)
        signal.signal(ASK, before)
        file.close()

    return end


def _tell(file: TextIO) -> None:
    things = gc.get_objects()
    loops = {id(thing): thing for thing in things if isinstance(thing, asyncio.AbstractEventLoop)}
    for loop in loops.values():
        print(f"\nat {time.monotonic():.3f}: loop {loop!r}", file=file)
        for task in asyncio.all_tasks(loop):
            print(repr(task), file=file)
            task.print_stack(file=file)
    for thing in things:
        if isinstance(thing, Consumer | Subscription):
            print("\n".join(["", *_shown("here", thing, _DEEP, set())]), file=file)
    file.flush()


def _shown(name: str, thing: Any, deep: int, met: set[int]) -> Iterable[str]:
    """What an object of ours has, and what that has."""
    ours = type(thing).__module__.startswith(_OURS) and not isinstance(thing, tuple)
    if not ours or not deep or id(thing) in met:
        for number, (key, value) in enumerate(thing.items() if isinstance(thing, Mapping) else ()):
            if number < _LONG and type(value).__module__.startswith(_OURS):
                yield from _shown(f"{name}[{key!r}]", value, deep, met)
        yield f"{name} = {_text(thing)}"
        return
    met.add(id(thing))
    yield f"{name}: {type(thing).__name__}"
    fields = dict(getattr(thing, "__dict__", {}))
    fields.update({slot: getattr(thing, slot, None) for slot in getattr(type(thing), "__slots__", ())})
    for field, value in fields.items():
        yield from _shown(f"{name}.{field}", value, deep - 1, met)


def _text(thing: Any) -> str:
    size = f"{len(thing)} of " if hasattr(thing, "__len__") and not isinstance(thing, str | bytes) else ""
    with contextlib.suppress(Exception):
        return size + repr(thing)[:400]
    return size + object.__repr__(thing)


def look(where: Path, pids: Mapping[str, int], place: Place, topics: Iterable[str]) -> None:
    """Ask every process, and write into `where/broker` who is connected to whom and what the broker says.

    Args:
        where: The directory in which the processes' own files are, by their names.
        pids: The processes.
        place: Where the broker is.
        topics: Which ones to ask for.
    """
    asked = {who: _size(where / who) for who in pids if (where / who).exists()}
    for who in asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[who], ASK)
    with (where / "broker").open("a") as file:
        print(f"\nat {time.monotonic():.3f}", *_connections(pids), sep="\n", file=file)
        try:
            with closing(open_broker(place.url)) as broker:
                for topic in topics:
                    print(broker.describe(topic), *broker.groups(topic).items(), sep="\n", file=file)
                    print(*broker.state(topic).items().items(), *place.inside(topic), sep="\n", file=file)
        except Exception as error:  # noqa: BLE001 - it may be what is wrong
            print(f"{type(error).__name__}: {error}", file=file)
    until(lambda: all(_size(where / who) > size for who, size in asked.items()), _ANSWERED)
    time.sleep(_WRITES)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _connections(pids: Mapping[str, int]) -> Iterable[str]:
    """The connections of these processes, and what waits in them."""
    owners: dict[str, str] = {}
    for who, pid in pids.items():
        with contextlib.suppress(OSError):  # it has ended
            for each in Path(f"/proc/{pid}/fd").iterdir():
                owners[os.readlink(each)] = who
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, waits, _, _, _, _, inode, *_ = line.split()
        owner = owners.get(f"socket:[{inode}]")
        if owner is not None:
            ports = [int(each.partition(":")[2], 16) for each in (here, there)]
            out, into = (int(each, 16) for each in waits.split(":"))
            yield f"{owner}: {ports[0]} to {ports[1]} {_STATES.get(state, state)}, {out} B to send, {into} B to read"
