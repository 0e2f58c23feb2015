"""Outcomes: what a future ends with, as the one object under its key. A value lies there as any object would.

An exception is told as plain data: its type, message and traceback as text, and itself as a pickle where that can be,
so that a reader who lacks its class, or unpickles nothing, still learns what happened. The type in the object's head
says which it is, so that a look at the first bytes tells a large value from a failure.

Promises: every exception crosses, also one that does not pickle or only looks as if it did; nothing is unpickled where
the store is read as safe.
"""

from __future__ import annotations

import enum
import os
import traceback
from concurrent.futures import CancelledError
from typing import Any

from proxyfab import errors
from proxyfab.errors import ProxyfabError, RemoteError
from proxyfab.proxy import is_proxy, unwrap
from proxyfab.serialize import dumps, loads
from proxyfab.trace import here
from proxyfab.wire.payload import Payload


class Verdict(enum.Enum):
    """How a future ended."""

    VALUE = ""
    FAILED = "proxyfab.patterns:Failed"
    CANCELLED = "proxyfab.patterns:Cancelled"


_BY_TYPE = {verdict.value: verdict for verdict in Verdict}


def verdict_of(type: str) -> Verdict:
    """What an object of this type (of a payload's head) is as an outcome."""
    return _BY_TYPE.get(type, Verdict.VALUE)


def of_value(value: object, mode: str) -> Payload:
    """A value over its own memory. An unresolved proxy goes as the reference that it is; in safe mode, its target."""
    return dumps(unwrap(value) if mode == "safe" and is_proxy(value) else value, mode=mode)


def of_cancelling() -> Payload:
    """That somebody cancelled it."""
    return _marked(Verdict.CANCELLED, {"who": _me()})


def of_error(error: BaseException, mode: str) -> Payload:
    """An exception with its traceback."""
    told: dict[str, object] = {
        "who": _me(),
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _text_of(error),
        "traceback": _traceback_of(error),
        "pickled": None if mode == "safe" else _pickled(error),
    }
    return _marked(Verdict.FAILED, told)


def open_outcome(payload: Payload, mode: str) -> Any:
    """The value; or raises what was set, with the traceback of the process where it happened as its cause."""
    verdict = verdict_of(payload.type)
    if verdict is Verdict.VALUE:
        return loads(payload, mode=mode)
    if verdict is Verdict.CANCELLED:
        raise CancelledError(f"It was cancelled by {_told(payload)['who']}.")
    raise error_in(payload, mode)


def error_in(payload: Payload, mode: str) -> BaseException:
    """The exception that a payload of FAILED tells of."""
    told = _told(payload)
    where = f"It was raised in process {told['who']}:\n\n{told['traceback']}"
    if mode != "safe" and told["pickled"] is not None:
        error = _unpickled(told["pickled"])
        if error is not None:
            error.__cause__ = RemoteError(where)
            return error
    ours = getattr(errors, told["type"].removeprefix("proxyfab.errors."), None)
    if isinstance(ours, type) and issubclass(ours, ProxyfabError):  # a sentence is all that they are made of
        error = ours(told["message"])
        error.__cause__ = RemoteError(where)
        return error
    return RemoteError(f"{told['type']}: {told['message']}\n{where}")


def _me() -> str:
    return f"{os.getpid()}@{here()}"


def _marked(verdict: Verdict, told: dict[str, object]) -> Payload:
    plain = dumps(told, mode="safe")
    return Payload(plain.codec, verdict.value, plain.meta, plain.buffers)


def _told(payload: Payload) -> dict[str, Any]:
    return loads(payload, mode="safe")  # type: ignore[no-any-return]  # as `_marked` wrote it


def _text_of(error: BaseException) -> str:
    try:
        return str(error).encode(errors="backslashreplace").decode()
    except Exception as trouble:  # noqa: BLE001 - whatever its __str__ raises must not hide that it happened
        return f"(its text cannot be had: {type(trouble).__name__})"


def _traceback_of(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as trouble:  # noqa: BLE001 - as above
        text = f"(its traceback cannot be told: {type(trouble).__name__})"
    return text.encode(errors="backslashreplace").decode()


def _pickled(error: BaseException) -> tuple[Any, ...] | None:
    try:
        return dumps(error).pack()
    except Exception:  # noqa: BLE001 - what does not pickle is told in text
        return None


def _unpickled(packed: object) -> BaseException | None:
    """None where it cannot be made here: its class is missing, or its constructor wants what a pickle lacks."""
    try:
        error = loads(Payload.unpack(packed))
    except ProxyfabError:
        return None
    return error if isinstance(error, BaseException) else None
