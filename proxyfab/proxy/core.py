"""Which core proxies have: the one in C where it was built, otherwise Python's own, as `PROXYFAB_PURE=1` also asks for.

Promises: both behave equally, since one suite tests both. Which one it is, is decided once, when this is imported.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

REVISION = 5
"""Of what the C core and the Python around it expect of one another; `_core.h` has the same number."""


def _load() -> tuple[Any, str]:
    if os.environ.get("PROXYFAB_PURE", "0") not in ("", "0"):
        return None, "PROXYFAB_PURE is set"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None, "it relies on the lock of the interpreter, which this one runs without (PYTHON_GIL=1 turns it on)"
    try:
        module: Any = import_module("proxyfab.proxy._core")
    except ModuleNotFoundError:
        return None, "it was not built: install proxyfab where a C compiler and Python's headers are"
    except ImportError as error:
        return None, f"it cannot be loaded: {error}"
    if module.REVISION != REVISION:
        return None, f"{module.__file__} was built from other sources: install proxyfab anew"
    for name in ("make", "resolve", "is_proxy", "is_resolved", "factory_of", "unsettle"):
        getattr(module, name).__module__ = "proxyfab.proxy"  # by which they pickle: the reader may be pure
    return module, ""


compiled, why_pure = _load()
"""The C core, or None and why proxies are pure Python."""
