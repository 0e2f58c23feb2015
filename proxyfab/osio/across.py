"""Across: bytes straight out of the memory of another process of this host. One copy, and no room in between.

Who lends tells where the bytes lie, and a number that stands in a *cell* of his memory for as long as they do. Who
borrows copies them and looks at the cell then: if the number still stands there they were lent all the while.

Promises: what was borrowed is what was lent, or an error; never bytes that somebody else's memory came to hold
meanwhile, also where the lender has ended and its pid is another's. Whether the kernel allows it is asked before
(`horizon`); where it refuses nevertheless, the error says so (`Refused`), and some other way has to do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.osio.owner import Writer, this_process
from proxyfab.pointers import PyBuffer, get_buffer, release_buffer

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_TRACE = 1 << 19
"""CAP_SYS_PTRACE."""
_AT_ONCE = 1 << 30
"""Bytes for one call; the kernel takes at most twice as many."""


class _Span(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("nbytes", ctypes.c_size_t))


_read = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
if _read is not None:
    _spans = ctypes.POINTER(_Span)
    _read.argtypes = (ctypes.c_int, _spans, ctypes.c_ulong, _spans, ctypes.c_ulong, ctypes.c_ulong)
    _read.restype = ctypes.c_ssize_t


class Lost(OSError):
    """What was lent is not lent any more."""


class Refused(OSError):
    """The kernel does not let this process look into that one."""


class Unreadable(Refused):
    """It does not for this memory, which has gone, or is a driver's or of `memfd_secret`."""


_KINDS = {errno.ESRCH: Lost, errno.EFAULT: Unreadable}


class Loan(NamedTuple):
    """Bytes that can be borrowed; made of JSON-like types.

    Attributes:
        lender: The process (`Writer.pack`).
        cell: Address of the cell.
        number: What stands in it while the loan lasts.
        starts: Address of each of the buffers.
    """

    lender: str
    cell: int
    number: int
    starts: Sequence[int]


class Lender:
    """What this process has lent. Thread-safe: each loan is one entry of a dict."""

    def __init__(self) -> None:
        self._lent: dict[int, tuple[ctypes.c_uint64, list[PyBuffer]]] = {}

    def lend(self, buffers: Sequence[memoryview]) -> Loan:
        """Have these bytes stay where they are until `end`.

        Raises:
            BufferError: One is not contiguous.
        """
        held: list[PyBuffer] = []
        try:
            for each in buffers:
                buffer = PyBuffer()
                get_buffer(each, buffer, 0)
                held.append(buffer)
        except BaseException:
            _let_go(held)
            raise
        number = secrets.randbits(63) + 1
        cell = ctypes.c_uint64(number)
        self._lent[number] = cell, held
        starts = [buffer.buf or 0 for buffer in held]
        return Loan(this_process().writer.pack(0), ctypes.addressof(cell), number, starts)

    def end(self, loan: Loan) -> None:
        """The bytes may go, or change; nothing happens to a loan that has ended."""
        cell, held = self._lent.pop(loan.number, (None, []))
        if cell is not None:
            cell.value = 0  # first: who is still copying finds out
        _let_go(held)

    def __len__(self) -> int:
        return len(self._lent)


def _let_go(held: list[PyBuffer]) -> None:
    for each in held:
        release_buffer(each)


def borrow(loan: Loan, targets: Sequence[tuple[int, int]]) -> None:
    """Copy what was lent; other threads run meanwhile.

    Args:
        loan: What the lender has said.
        targets: For each buffer the address to copy it to, and its bytes.

    Raises:
        Lost: The loan is over, or its lender.
        Refused: The kernel does not allow it; `Unreadable` if for this memory alone.
    """
    pid = Writer.unpack(loan.lender).pid
    unreadable: Unreadable | None = None
    try:
        for start, (address, nbytes) in zip(loan.starts, targets, strict=True):
            _copy(pid, start, nbytes, address)
    except Unreadable as error:
        unreadable = error
    if not _stands(loan, pid):
        raise Lost(errno.ESTALE, f"process {pid} has ended the loan") from unreadable
    if unreadable:
        raise unreadable


def _stands(loan: Loan, pid: int) -> bool:
    found = ctypes.c_uint64()
    try:
        _copy(pid, loan.cell, ctypes.sizeof(found), ctypes.addressof(found))
    except Unreadable:  # the cell has gone
        return False
    return found.value == loan.number


def _copy(pid: int, start: int, nbytes: int, address: int) -> None:
    done = 0
    while done < nbytes:
        length = min(nbytes - done, _AT_ONCE)
        here, there = _Span(address + done, length), _Span(start + done, length)
        count = -1 if _read is None else _read(pid, here, 1, there, 1, 0)
        if count > 0:
            done += count
            continue
        number = ctypes.get_errno() if _read is not None and count < 0 else errno.ENOSYS
        kind = _KINDS.get(number, Refused)
        raise kind(number, f"the memory of process {pid} cannot be read: {os.strerror(number)}")


def horizon() -> str:
    """What two processes must both say for one to borrow of the other; `""` where the kernel does not allow it.

    Same boot and pid namespace, same user namespace, and no rule that only a parent may look (Yama).
    """
    cell = ctypes.c_uint64(1)
    try:
        borrow(Loan(this_process().writer.pack(0), ctypes.addressof(cell), 1, ()), ())
        return f"{this_process().writer.machine} {os.readlink('/proc/self/ns/user')}" if _may_look() else ""
    except OSError:
        return ""


def _may_look() -> bool:
    try:
        with open(_YAMA, "rb") as file:
            scope = int(file.read())
    except FileNotFoundError:
        return True
    return scope == 0 or (scope in (1, 2) and bool(_capabilities() & _TRACE))


def _capabilities() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
