"""Classes of the running script: processes of one script use their own, all others get a copy of the class.

A class of `__main__` pickles by name, and the reader's `__main__` may be another script; so cloudpickle sends it by
value. But a copy of a class is another class: `isinstance(obj, Scan)` would be false in every worker of a pool that the
script starts. So the script's path and the class's name travel along, and a process of that script (forked, spawned or
run again) takes its own class. Without a file, in a notebook, where a class is soon defined anew, the copy is right.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def by_name_here(obj: Any, by_value: Any) -> Any:
    """What a pickler's `reducer_override` answers, from what cloudpickle's own answered."""
    if by_value is NotImplemented or not isinstance(obj, type) or obj.__module__ != "__main__":
        return by_value
    name = _path(), obj.__qualname__
    if _own(*name) is not obj:
        return by_value
    make, arguments, state, _, _, fill = by_value
    return made, (*name, make, arguments), (*name, fill, state), None, None, filled


def made(path: str, qualname: str, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """This process's own class if it runs the script at `path`, else a new one. Its name is in stored objects."""
    return _own(path, qualname) or make(*arguments)


def filled(cls: type, state: tuple[str, str, Callable[[type, Any], None], Any]) -> None:
    """Give a new class its methods. Its name is in stored objects."""
    path, qualname, fill, its = state
    if _own(path, qualname) is not cls:
        fill(cls, its)


def _path() -> str:
    return getattr(sys.modules.get("__main__"), "__file__", None) or ""


def _own(path: str, qualname: str) -> type | None:
    if not path or path != _path():
        return None
    found: Any = sys.modules["__main__"]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
