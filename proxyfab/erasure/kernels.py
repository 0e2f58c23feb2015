"""Kernels: what adds up shards times coefficients, byte by byte. Three, in order of speed, with the same result.

`isal` calls Intel's ISA-L, where it is installed (extra `isal`, or the system's), without the interpreter's lock;
`numpy` looks up two bytes at a time; `python` is the standard library alone.

Promises: a kernel keeps no reference to what it was given, and other threads run meanwhile: the last two go in pieces
of some hundred kilobytes. Leaves the matrices to `field`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from proxyfab.erasure.field import Kernel
from proxyfab.errors import ConfigurationError, MissingDependency

_MODULES = {
    "isal": "proxyfab.erasure.isal",
    "numpy": "proxyfab.erasure.vector",
    "python": "proxyfab.erasure.plain",
}
NAMES = tuple(_MODULES)


def available() -> list[str]:
    """The kernels that can be used here, the fastest first."""
    return [name for name in NAMES if _found(name) is not None]


def kernel_named(name: str) -> Kernel:
    """A kernel by its name; `""` for the fastest that is installed.

    Raises:
        ConfigurationError: There is no such kernel.
        MissingDependency: What it needs is not installed.
    """
    if not name:
        return _fastest()
    if name not in NAMES:
        raise ConfigurationError(f"{name!r} is no kernel of erasure codes; there are {', '.join(NAMES)}.")
    return _loaded(name)


@cache
def _fastest() -> Kernel:
    return next(kernel for kernel in map(_found, NAMES) if kernel is not None)


def _found(name: str) -> Kernel | None:
    try:
        return _loaded(name)
    except MissingDependency:
        return None


@cache
def _loaded(name: str) -> Kernel:
    kernel: Kernel = import_module(_MODULES[name]).load()
    return kernel
