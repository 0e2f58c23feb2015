"""An exception from outside at a chosen instruction: what Ctrl-C or a signal handler does to whatever runs just then.

The interpreter raises such an exception only where it looks for one: behind a call of a C function, at the start of a
Python function, at a jump backwards. It does not look between a lock's own `__enter__` and the block of its `with`,
nor between a Python function's return and the next instruction of its caller. So nothing is raised by a tracer here,
which could do that anywhere: the tracer only has the exception made pending, and the interpreter raises it by itself.
"""

from __future__ import annotations

import ctypes
import dis
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any

_LOOKS = frozenset(
    number for name, number in dis.opmap.items() if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "SEND"))
)
_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)


class Interrupted(BaseException):
    """What comes from outside."""


class _Doomed:
    __slots__ = ("__weakref__",)


class _Told(weakref.ref[_Doomed]):
    _as_parameter_ = 0  # it is handed to the C function as well, which does not look at it


class Interrupt:
    """Traces what this thread runs and makes one exception pending at the `number`-th instruction that looks for any.

    Attributes:
        seen: How many there were.
        came: Whether there were as many as `number`.
        where: The stack at that instruction, as text.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.seen = 0
        self.came = False
        self.where = ""
        self._codes: dict[CodeType, bytes] = {}
        # A weak reference's callback runs behind the last instruction of the tracer, and this one is a C function: so
        # the first to look is the code that is traced.
        self._fire = partial(_set_exception, ctypes.c_ulong(threading.get_ident()), ctypes.py_object(Interrupted))
        self._told: _Told | None = None

    def run(self, work: Callable[[], Any]) -> bool:
        """Call `work`; whether the exception came out of it. What else it raises comes out here."""
        sys._getframe().f_trace_opcodes = True  # before settrace, which asks since 3.12 whether any frame wants them
        try:
            try:
                sys.settrace(self._trace)
                work()
            finally:
                sys.settrace(None)
                for _ in range(2):  # what is still pending is raised here at the latest
                    pass
        except Interrupted:
            return True
        return False

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace = self._trace  # 3.13 heeds the next line only on a frame that has a tracer
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and self._looks(frame):
            self.seen += 1
            if self.seen == self._number:
                self.came = True
                self.where = "".join(traceback.format_stack(frame, 6))
                sys.settrace(None)
                frame.f_trace = None
                doomed = _Doomed()
                self._told = _Told(doomed, self._fire)
                return None
        return self._trace

    def _looks(self, frame: FrameType) -> bool:
        code = frame.f_code
        codes = self._codes.get(code)
        if codes is None:
            codes = self._codes[code] = code.co_code
        return codes[frame.f_lasti] in _LOOKS
