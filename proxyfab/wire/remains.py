"""What an object was that has expired, told from its first bytes: for who reports what he takes back, and why.

Promises: says something of any bytes, and believes nothing that does not verify.
"""

from __future__ import annotations

from proxyfab.buffers import Buffer, Frames
from proxyfab.errors import IntegrityError
from proxyfab.wire.owned import MAGIC
from proxyfab.wire.payload import announced

SIGN = b"PFS1"
"""How the sign of life of a process that owns or borrows begins."""
HEAD = 1024
"""Bytes that are enough."""
PASSED = "its time to live passed"
_OUTCOMES = {"proxyfab.patterns:Failed": "failure", "proxyfab.patterns:Cancelled": "cancelling"}


def reason(head: Buffer) -> str:
    """Why an expired object that begins so may go."""
    first = bytes(memoryview(head)[:4])
    if first == MAGIC:
        return "it is the record of an owned object, which nobody has renewed for its lease and grace"
    if first == SIGN:
        return "it is the sign of life of a process that has given none for its lease"
    try:
        outcome = _OUTCOMES.get(announced(Frames([head]))[1])
    except (IntegrityError, ValueError):
        return PASSED
    return PASSED if outcome is None else f"it is a future's {outcome}, and {PASSED}"
