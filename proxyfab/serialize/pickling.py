"""Pickle protocol 5 with large buffers out of band; cloudpickle only where pickle cannot, or would name `__main__`.

A class or function of `__main__` pickles by name, and the reader's `__main__` is another script: cloudpickle sends such
objects by value. It is imported when the first of them is met.
"""

from __future__ import annotations

import copyreg
import gc
import importlib
import io
import os
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from threading import get_ident
from typing import Any

from proxyfab.buffers import Buffer
from proxyfab.errors import ProxyfabError
from proxyfab.serialize import blame
from proxyfab.serialize.script import by_name_here
from proxyfab.wire.payload import MAX_BUFFERS, Payload

CODECS = frozenset({"pickle", "cloudpickle"})
OUT_OF_BAND = 1024
"""Bytes from which a buffer travels beside the stream; below, aligning it costs more than copying it."""
_LARGE = 1 << 16
_PROTOCOL = 5


def dump(obj: object, name: str) -> tuple[str, str, None, list[Buffer]]:
    """The arguments of a Payload: a stream, and the large buffers in it as views.

    Raises:
        SerializationError: Neither pickle nor cloudpickle takes it.
    """
    try:
        stream, views = _pickled(obj, by_value=False)
        if b"__main__" not in stream:
            return "pickle", name, None, [stream, *views]
    except (ProxyfabError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  # whatever a reducer raises, cloudpickle may know better; if not, its error is told
        pass
    try:
        stream, views = _pickled(obj, by_value=True)
        return "cloudpickle", name, None, [stream, *views]
    except (ProxyfabError, MemoryError):
        raise
    except Exception as error:
        raise blame.not_picklable(obj, name, error) from error


def _pickled(obj: object, *, by_value: bool) -> tuple[bytes, list[memoryview]]:
    """The stream, and its large buffers as views; functions and classes by value with cloudpickle."""
    views: list[memoryview] = []

    def collect(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND or len(views) == MAX_BUFFERS - 1:
            return True
        views.append(view)
        return False

    if "torch" in sys.modules or by_value:
        return _with_reducers(obj, collect, by_value), views
    return pickle.dumps(obj, _PROTOCOL, buffer_callback=collect), views


def _with_reducers(obj: object, collect: Callable[[pickle.PickleBuffer], bool], by_value: bool) -> bytes:
    """Pickle with reducers of our own, wherever their types are met.

    torch by itself writes tensors into the stream, twice copied; cloudpickle sends an open file as a buffer of its
    text, and who gets it takes that for the file.
    """
    reducers: dict[Any, Any] = {}
    if "torch" in sys.modules:
        reducers |= importlib.import_module("proxyfab.serialize.codecs.torch").REDUCERS
    out = io.BytesIO()
    base: Any = pickle.Pickler
    known: Any = copyreg.dispatch_table
    if by_value:
        import cloudpickle

        base, known = cloudpickle.Pickler, cloudpickle.Pickler.dispatch_table
        reducers[io.TextIOWrapper] = _refuse_file
    # A class, not an attribute of the instance: cloudpickle's pickler reads its table while it is made.
    own: dict[str, Any] = {"dispatch_table": ChainMap(reducers, known)}
    if by_value:
        own["reducer_override"] = lambda self, obj: by_name_here(obj, base.reducer_override(self, obj))
    pickler = type("Pickler", (base,), own)
    pickler(out, _PROTOCOL, buffer_callback=collect).dump(obj)
    return out.getvalue()


def _refuse_file(file: io.TextIOWrapper) -> Any:
    raise pickle.PicklingError(f"the open file {file.name!r} stays in its process; send its path or its content")


def load(payload: Payload) -> Any:
    """The object that was pickled.

    Raises:
        SerializationError: It cannot be made here; says which class is missing, and which host wrote it.
    """
    if not payload.buffers:
        raise blame.not_loadable(payload, ValueError("the pickle stream is missing"))
    stream, *views = payload.buffers
    buffers = [view.toreadonly() for view in views]
    try:
        if stream.nbytes < _LARGE:
            return pickle.loads(stream, buffers=buffers)
        return _load_large(stream, buffers)
    except (ProxyfabError, MemoryError):
        raise
    except Exception as error:
        raise blame.not_loadable(payload, error) from error


def _load_large(stream: memoryview, buffers: list[memoryview]) -> Any:
    """Unpickle with the garbage collector off, which would walk the same new objects over and over.

    Of several threads the first that is done turns it on again. The `finally` begins with the call that does, so that
    no interrupt leaves it off (`osio.leases` says where one can come).
    """
    off, me = gc.isenabled(), get_ident()
    try:
        if off:
            _collector_off[me] = True
            gc.disable()
        return pickle.loads(stream, buffers=buffers)
    finally:
        if off:
            gc.enable()
            _collector_off.pop(me, None)


_collector_off: dict[int, bool] = {}
"""The threads that turned it off."""


def _in_child() -> None:
    if _collector_off:
        gc.enable()  # the threads that would have done so stayed in the parent
        _collector_off.clear()


os.register_at_fork(after_in_child=_in_child)
