"""dumps and loads: one pass from an object to a Payload and back."""

from __future__ import annotations

import pickle
from typing import Any

from proxyfab.errors import SerializationError
from proxyfab.wire.payload import Payload


def dumps(obj: object, *, mode: str = "default") -> Payload:
    """An object as a Payload."""
    buffers: list[Any] = []

    def collect(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < 1024:
            return True
        buffers.append(view)
        return False

    try:
        stream = pickle.dumps(obj, 5, buffer_callback=collect)
        if b"__main__" in stream:
            raise pickle.PicklingError("names __main__")
    except Exception:
        import cloudpickle

        buffers.clear()
        try:
            stream = cloudpickle.dumps(obj, 5, buffer_callback=collect)
        except Exception as error:
            raise SerializationError(f"A {type(obj).__qualname__} cannot be pickled: {error}") from error
    kind = type(obj)
    return Payload("pickle", f"{kind.__module__}:{kind.__qualname__}", None, [stream, *buffers])


def loads(payload: Payload, *, mode: str = "default") -> Any:
    """The object in a Payload."""
    stream, *buffers = payload.buffers
    try:
        return pickle.loads(stream, buffers=[view.toreadonly() for view in buffers])
    except Exception as error:
        raise SerializationError(f"A {payload.type} cannot be unpickled here: {error}") from error


def register(type_name: str, codec: Any) -> None:
    """Register a codec for a type."""
