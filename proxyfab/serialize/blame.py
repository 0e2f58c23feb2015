"""What to say when an object cannot be pickled or unpickled: which part, of which type, from where, and what to do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from proxyfab.errors import SerializationError
from proxyfab.wire.payload import Payload

_ATTEMPTS = 500
_DEPTH = 12
_SCANNED = 1 << 20


def not_picklable(obj: object, name: str, error: Exception) -> SerializationError:
    """The error for an object that neither pickle nor cloudpickle takes."""
    path, culprit = _culprit(obj)
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
    where = f"its part obj{path} is a {kind}, which cannot" if path else "it cannot"
    return SerializationError(
        f"A {name.replace(':', '.')} cannot be serialized: {where} be pickled ({error}). Leave that part out, give its "
        f"class a __reduce__ or __getstate__, or register() a codec."
    )


def _culprit(obj: object) -> tuple[str, object]:
    """The innermost part that does not pickle by itself, and the way to it."""
    path, attempts, seen = "", _ATTEMPTS, {id(obj)}
    for _ in range(_DEPTH):
        for step, part in _parts(obj):
            attempts -= 1
            if attempts < 0:
                return path, obj
            if id(part) not in seen and not _pickles(part):
                seen.add(id(part))
                path, obj = path + step, part
                break
        else:
            break
    return path, obj


def _pickles(obj: object) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(obj, 5, buffer_callback=lambda _: False)
    except Exception:  # noqa: BLE001  # any failure is an answer
        return False
    return True


def _parts(obj: object) -> Iterator[tuple[str, object]]:
    if isinstance(obj, dict):
        yield from ((f"[{key!r}]", value) for key, value in obj.items())
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{index}]", value) for index, value in enumerate(obj))
    elif isinstance(obj, (set, frozenset)):
        yield from ((f"{{{value!r}}}", value) for value in obj)
    elif hasattr(obj, "__code__"):
        cells = getattr(obj, "__closure__", None) or ()
        names = obj.__code__.co_freevars
        yield from ((f"<captured {name}>", cell.cell_contents) for name, cell in zip(names, cells, strict=False))
    elif not isinstance(obj, type):
        yield from ((f".{name}", value) for name, value in getattr(obj, "__dict__", {}).items())
        for kind in type(obj).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(obj, name):
                    yield f".{name}", getattr(obj, name)


def not_loadable(payload: Payload, error: Exception) -> SerializationError:
    """The error for a pickle that does not become an object here."""
    name = payload.type.replace(":", ".")
    host = f"host {payload.origin}" if payload.origin else "its writer"
    if isinstance(error, (ImportError, AttributeError)):
        for module, qualname in _names(payload):
            missing = _missing(module, qualname)
            if missing:
                return SerializationError(
                    f"A {name} cannot be loaded: {missing} is not here, though {host} has it. Install the same version "
                    f"of {module.partition('.')[0]!r} here, or move {qualname} where both can import it."
                )
    return SerializationError(
        f"A {name} written by {host} cannot be loaded here: {type(error).__name__}: {error}. "
        f"Its class may differ between the two, or its __setstate__ failed."
    )


def _missing(module: str, qualname: str) -> str:
    """What of `module.qualname` cannot be found, in words; `""` when all of it is here."""
    try:
        found: Any = import_module(module)
    except ImportError as error:
        return f"the module {error.name or module!r} of the class {module}.{qualname}"
    for part in qualname.split("."):
        if not hasattr(found, part):
            return f"the class or function {qualname} of the module {module!r}"
        found = getattr(found, part)
    return ""


def _names(payload: Payload) -> Iterator[tuple[str, str]]:
    """Every (module, qualified name) that the stream asks for; reads opcodes, and runs nothing."""
    import pickletools  # a millisecond that only errors should pay

    strings: list[str] = []
    memo: dict[int, str | None] = {}
    last: str | None = None
    try:
        for opcode, argument, _ in pickletools.genops(bytes(payload.buffers[0][:_SCANNED])):
            if opcode.name == "GLOBAL" and isinstance(argument, str):
                module, _, qualname = argument.partition(" ")
                yield module, qualname
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                yield strings[-2], strings[-1]
            elif opcode.name == "MEMOIZE":
                memo[len(memo)] = last
                continue
            known = memo.get(argument) if isinstance(argument, int) and "BINGET" in opcode.name else argument
            last = known if isinstance(known, str) else None
            if last is not None:
                strings.append(last)
    except (ValueError, IndexError, pickle.UnpicklingError):  # cut at a megabyte, or damaged: what was found will do
        return
