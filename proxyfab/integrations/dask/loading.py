"""From a reference to the real object: exact type, private to who asks, writable; from the store, or by the scheduler.

Who does not see the store's shared memory, a worker on another host, asks the scheduler, which does: at most twice for
each object and process, as far as a bounded cache goes, into which goes what was asked for before. It is the executing
thread that waits, and never the worker's event loop; a task that is a coroutine, and so runs there, waits for a thread
with a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ctypes
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.cache import ByteLRU
from proxyfab.errors import KeyNotFound, ProxyfabError
from proxyfab.integrations.dask.habits import Habits
from proxyfab.integrations.dask.home import READ
from proxyfab.keys import Key
from proxyfab.osio.mapping import copy as copy_to
from proxyfab.osio.private import private_view
from proxyfab.osio.warm import received
from proxyfab.ref import Ref, mode_of
from proxyfab.serialize import loads
from proxyfab.serialize.pickling import CODECS
from proxyfab.serialize.table import named
from proxyfab.wire.payload import Payload, decode

CACHED = 256 << 20
TIMEOUT = 300.0
_KEYS = 10_000
_SHARED = "shm://~"
_ATOMIC = frozenset(("bytes", "bytearray", "str", "arrow", "arrow.sliced", "numpy.scalar", "plain", "polars"))
"""Codecs whose objects nobody can change, or that are made anew each time."""
_WORTH_IT = 256 * 1024
"""Bytes from which on a mapping costs less than a copy."""
habits = Habits()
_far: ByteLRU[Key, Payload] = ByteLRU(CACHED, lambda payload: payload.nbytes)
_once: ByteLRU[Key, Key] = ByteLRU(_KEYS, lambda _: 1)


def own(view: memoryview) -> memoryview:
    """The same bytes in writable memory of this process alone; other threads run meanwhile."""
    if not view.nbytes:
        return received.take(0)
    block, address = room(view.nbytes)
    copy_to(view, address)
    return block


def room(nbytes: int) -> tuple[memoryview, int]:
    """Writable memory of this process alone, at least a byte, with any content; and where it lies."""
    block = received.take(nbytes)
    return block, ctypes.addressof(ctypes.c_char.from_buffer(block))


def loaded(ref: Ref[Any]) -> Any:
    """The object.

    Raises:
        KeyNotFound: It lies nowhere any more.
        ProxyfabError: What a fetch may raise.
    """
    mode = mode_of(ref.url)
    payload, mine = _payload(ref)
    make = _as_it_came if mine else own
    if not mine and ref.key is not None and habits.may_map(ref.key):
        make = partial(_mapped, ref.key)
    return private(payload, mode, make)


def is_seen(ref: Ref[Any]) -> bool:
    """Whether this process finds the object in its store; else only the scheduler has it, or nobody."""
    with contextlib.suppress(ProxyfabError):
        return not ref.url.startswith(_SHARED) or ref.exists()
    return False


def private(payload: Payload, mode: str = "default", make: Callable[[memoryview], memoryview] = own) -> Any:
    """The object in a payload, with memory of its own, as `make` makes it, wherever it can be written to."""
    with contextlib.suppress(Exception):  # told by `loads`, which knows what is missing, or damaged
        if payload.codec == "numpy":
            return named("numpy").load(payload.meta, tuple(map(make, payload.buffers)))
        if payload.codec in CODECS and mode == "default":
            stream, *views = payload.buffers
            return pickle.loads(stream, buffers=list(map(make, views)))
    found = loads(payload, mode=mode)
    return found if payload.codec in _ATOMIC else copy.deepcopy(found)


def _as_it_came(view: memoryview) -> memoryview:
    return own(view) if view.readonly else view


def _mapped(key: Key, view: memoryview) -> memoryview:
    """The same bytes in memory of this process alone, of which only what is used is copied."""
    if view.nbytes < _WORTH_IT:
        return own(view)
    found = private_view(view, partial(habits.told, key) if habits.asks(key) else None)
    return own(view) if found is None else found


def _payload(ref: Ref[Any]) -> tuple[Payload, bool]:
    """The object as bytes, and whether nobody else has these."""
    if ref.key is not None and (far := _far.get(ref.key)) is not None:
        return far, False
    try:
        return ref.payload(), False
    except ProxyfabError as error:
        if not ref.url.startswith(_SHARED) or ref.key is None:
            raise
        found = _from_scheduler(ref.url, ref.key)
        if found is None:
            raise
        if not isinstance(error, KeyNotFound):
            return found, True
        if _once.get(ref.key) is None:  # most are for one task alone, which then needs no copy
            _once.put(ref.key, ref.key)
            return found, True
        _far.put(ref.key, found)
        return found, False


def _from_scheduler(url: str, key: Key) -> Payload | None:
    """What the scheduler has under a key; None if nothing, or where there is no scheduler."""
    from distributed.worker import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return None
    answer = _on_its_own(worker, url, key) if _is_in(worker) else _on_its_loop(worker, url, key)
    return None if answer is None else decode(Frames([memoryview(answer).cast("B")]))


def _is_in(worker: Any) -> bool:
    """Whether this is the worker's loop, where tasks that are coroutines run, and which must not wait for itself."""
    return asyncio._get_running_loop() is worker.loop.asyncio_loop


def _on_its_loop(worker: Any, url: str, key: Key) -> Any:
    """As Dask asks its scheduler: no connection has to be made, and memory of earlier messages is used again."""
    asked = getattr(worker.scheduler, READ)(url=url, key=str(key))
    try:
        return asyncio.run_coroutine_threadsafe(asked, worker.loop.asyncio_loop).result(TIMEOUT)
    except Exception:  # noqa: BLE001 - whatever it is, the caller says what he looked for
        return None


def _on_its_own(worker: Any, url: str, key: Key) -> Any:
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(asyncio.run(_asked(worker, url, key))), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answer[0] if answer else None


async def _asked(worker: Any, url: str, key: Key) -> Any:
    from distributed.core import connect

    comm = await connect(worker.scheduler.address, **worker.security.get_connection_args("worker"))
    try:
        await comm.write({"op": READ, "url": url, "key": str(key), "reply": True})
        answer = await asyncio.wait_for(comm.read(), TIMEOUT)
    finally:
        comm.abort()
    return None if isinstance(answer, dict) and answer.get("status") == "uncaught-error" else answer
