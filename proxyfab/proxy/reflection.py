"""Reflected operators where the left operand may be mutable: `numbers += proxy` must change `numbers`, not replace it.

Rule: for `list += proxy` and `set |= proxy` CPython finds no in-place form (its C code wants a real list or set), and
asks the proxy's `__radd__` or `__ror__` next, as if for `list + proxy`. Only the instruction being executed tells the
two apart; it is looked at when the left operand has an in-place form at all. Calls by `operator.iadd` have no such
instruction, so they return a new object; the page on proxies says so.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from proxyfab.proxy.layout import target_of
from proxyfab.proxy.operators import TABLE

_NAMES = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "lshift", "rshift", "and", "or", "xor")
_SIGNS = dict(zip(_NAMES, ("+", "-", "*", "@", "/", "//", "%", "<<", ">>", "&", "|", "^"), strict=True))


def _careful(name: str) -> Callable[[Any, Any], Any]:
    plain, in_place = TABLE[f"__r{name}__"], getattr(operator, f"__i{name}__")
    method, sign = f"__i{name}__", _SIGNS[name] + "="

    def reflected(proxy: Any, x: Any) -> Any:
        if hasattr(type(x), method) and _instruction() == _in_place()[sign]:
            return in_place(x, target_of(proxy))
        return plain(proxy, x)

    reflected.__name__ = reflected.__qualname__ = f"__r{name}__"
    return reflected


@lru_cache(maxsize=1)
def _in_place() -> dict[str, tuple[int, int]]:
    """Operation and argument by sign."""
    import opcode  # half a millisecond, for what is seldom asked

    binary = opcode.opmap["BINARY_OP"]
    return {sign: (binary, code) for code, (_, sign) in enumerate(opcode._nb_ops)}  # type: ignore[attr-defined]  # no public table


def _instruction() -> tuple[int, int]:
    """Operation and argument of what runs in the nearest frame outside this package."""
    frame: Any = sys._getframe(2)
    while frame.f_globals.get("__name__", "").startswith("proxyfab.proxy"):
        frame = frame.f_back
    code: bytes = frame.f_code.co_code
    return code[frame.f_lasti], code[frame.f_lasti + 1]


CAREFUL = {f"__r{name}__": _careful(name) for name in _NAMES}
"""For targets that are no numbers."""

_ATOMS = frozenset((int, float, bool, complex, str, bytes, tuple))


def _multiplied(proxy: Any, x: Any) -> Any:
    return x * target_of(proxy) if type(x) in _ATOMS else CAREFUL["__rmul__"](proxy, x)


CAREFUL_NUMBER = {"__rmul__": _multiplied}
"""For numbers: `[0] *= proxy` is the only one that concerns them."""
