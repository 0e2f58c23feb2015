"""How long one thread keeps another from running: what an event loop or a heartbeat beside it would notice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import thread_time
from types import FrameType
from typing import Any


def longest_instruction(work: Callable[[], object]) -> float:
    """The longest single instruction of Python in `work`, in seconds of this thread's processor time.

    The interpreter hands its lock over between instructions, so another thread is kept waiting no longer than that and
    the interval at which it asks (`sys.getswitchinterval()`, 5 ms). Calls that give the lock away count as if they
    kept it. Unlike what a clock shows, this does not depend on who else uses the machine.
    """
    longest = ran = 0.0

    def look(frame: FrameType, _what: str, _argument: Any) -> Callable[..., Any]:
        nonlocal longest, ran
        longest = max(longest, thread_time() - ran)
        frame.f_trace_opcodes = True
        ran = thread_time()
        return look

    traced, ran = sys.gettrace(), thread_time()
    sys.settrace(look)
    try:
        work()
    finally:
        sys.settrace(traced)
    return longest
