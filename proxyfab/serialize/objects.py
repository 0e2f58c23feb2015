"""dumps and loads: one pass from an object to a Payload, and back.

Rules:
1. The exact type decides: a codec where there is one, otherwise pickle. What comes back has the type that was put in.
2. No large buffer is copied on the way out; the payload shows the object's own memory, so it must be written or
   detached before the object changes. On the way in arrays lie over the received bytes and are read-only.
3. In safe mode nothing is pickled and nothing is unpickled.
"""

from __future__ import annotations

from typing import Any

from proxyfab.errors import ConfigurationError, IntegrityError, ProxyfabError, SerializationError
from proxyfab.serialize import pickling
from proxyfab.serialize.codec import Codec
from proxyfab.serialize.table import MODES, find, named
from proxyfab.wire.payload import Payload

_NOTHING: dict[type, tuple[Codec | None, str]] = {}


def dumps(obj: object, *, mode: str = "default") -> Payload:
    """An object as a Payload over its own memory.

    Args:
        obj: Anything that a codec knows or that pickles.
        mode: `"default"`, or `"safe"` for codecs only.

    Raises:
        SerializationError: It cannot become bytes; the message names the part that is to blame.
    """
    kind = type(obj)
    codec, name = MODES.get(mode, _NOTHING).get(kind) or find(kind, mode)
    if codec is not None:
        try:
            parts = codec.dump(obj)
            if parts is not None:
                return Payload(codec.name, name, *parts)
        except (ProxyfabError, MemoryError):
            raise
        except Exception as error:
            raise SerializationError(f"The codec {codec.name!r} cannot serialize this {name}: {error}") from error
    if mode == "safe":
        raise SerializationError(
            f"Safe mode cannot serialize a {name}: it takes None, numbers, text, bytes, dates, containers of them, "
            f"NumPy arrays without objects, Arrow, pandas, polars and torch. Convert it, register() a safe codec, or "
            f"use the default mode."
        )
    return Payload(*pickling.dump(obj, name))


def loads(payload: Payload, *, mode: str = "default") -> Any:
    """The object in a Payload. Arrays come back read-only, over the payload's memory.

    Args:
        payload: What `dumps` made, or `wire.payload.decode` found in received bytes.
        mode: `"default"`, or `"safe"` to refuse pickles and codecs that may run code.

    Raises:
        SerializationError: It cannot become an object here: a class or a codec is missing, or safe mode refuses it.
        MissingDependency: The package of its type is not installed.
        IntegrityError: Its metadata and buffers do not fit together.
    """
    if mode not in MODES:
        raise ConfigurationError(f"There is no serializer {mode!r}; choose one of {', '.join(MODES)}.")
    if payload.codec in pickling.CODECS:
        if mode == "safe":
            raise SerializationError(f"Safe mode does not unpickle, and this {payload.type} was written as a pickle.")
        return pickling.load(payload)
    codec = named(payload.codec)
    if mode == "safe" and not codec.safe:
        raise SerializationError(f"Safe mode does not trust the codec {codec.name!r}, which wrote this {payload.type}.")
    try:
        buffers = payload.buffers
        if len(buffers) == 1:
            return codec.load(payload.meta, (buffers[0].toreadonly(),))
        return codec.load(payload.meta, tuple([view.toreadonly() for view in buffers]))
    except (ProxyfabError, MemoryError):
        raise
    except Exception as error:
        raise IntegrityError(
            f"The bytes of this {payload.type} do not fit its description (codec {codec.name!r}): {error}"
        ) from error
