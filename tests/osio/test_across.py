"""Bytes out of another process's memory: what was lent, or an error."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.osio import across
from proxyfab.osio.across import Lender, Loan, Lost, Refused, Unreadable, borrow, horizon

pytestmark = pytest.mark.skipif(not horizon(), reason="the kernel does not allow one process to read another's memory")
LENDS = """
import json, sys
import numpy as np
from proxyfab.osio.across import Lender
lender = Lender()
arrays = [np.arange(size, dtype="u1") + 7 for size in json.loads(sys.argv[1])]
loan = lender.lend([memoryview(array) for array in arrays])
print(json.dumps(loan), flush=True)
for line in sys.stdin:
    if line == "end\\n":
        lender.end(loan)
    elif line == "change\\n":
        arrays[-1][:] = 0
    print("done", flush=True)
"""


SIZES = (100_000, 0, 3_000_001)


class Other:
    """A process that lends arrays."""

    def __init__(self, sizes: list[int]) -> None:
        import json

        command = [sys.executable, "-c", LENDS, json.dumps(sizes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.loan = Loan(*json.loads(self.process.stdout.readline()))

    def does(self, what: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def other() -> Iterator[Other]:
    made = Other(list(SIZES))
    with made.process as process:
        yield made
        process.kill()


def borrowed(loan: Loan, sizes: Sequence[int] = SIZES) -> list[Any]:
    """Arrays of what was borrowed."""
    arrays = [np.zeros(size, dtype="u1") for size in sizes]
    borrow(loan, [(array.ctypes.data, array.nbytes) for array in arrays])
    return arrays


def expected(size: int) -> Any:
    return np.arange(size, dtype="u1") + 7


def test_another_processs_bytes_are_what_it_lent(other: Other) -> None:
    arrays = borrowed(other.loan)
    assert [array.tobytes() for array in arrays] == [expected(array.size).tobytes() for array in arrays]


def test_bytes_that_need_several_calls(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "_AT_ONCE", 4097)
    assert borrowed(other.loan)[2].tobytes() == expected(3_000_001).tobytes()


def test_a_loan_that_has_ended_is_an_error(other: Other) -> None:
    other.does("end")
    with pytest.raises(Lost, match=f"process {other.process.pid} has ended the loan"):
        borrowed(other.loan)


def test_a_loan_that_ends_while_it_is_copied_is_an_error(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = across._copy

    def late(pid: int, start: int, nbytes: int, address: int) -> None:
        if start == other.loan.cell:
            other.does("end")
        copy(pid, start, nbytes, address)

    monkeypatch.setattr(across, "_copy", late)
    with pytest.raises(Lost):
        borrowed(other.loan)


def test_a_lender_that_was_killed_is_an_error(other: Other) -> None:
    other.process.send_signal(signal.SIGKILL)
    other.process.wait()
    with pytest.raises(Lost, match=f"process {other.process.pid} cannot be read: No such process"):
        borrowed(other.loan)


def test_another_process_with_the_lenders_pid_lends_nothing(other: Other) -> None:
    with pytest.raises(Lost, match="has ended the loan"):
        borrowed(other.loan._replace(number=other.loan.number + 1))


def test_memory_that_nobody_else_may_read_is_told_from_memory_that_has_gone(other: Other) -> None:
    """A loan that is over is asked for anew; one that stands would come to the same again."""
    unreadable = other.loan._replace(starts=[8, 8, 8])
    with pytest.raises(Unreadable, match="Bad address"):
        borrowed(unreadable)
    for gone in (unreadable._replace(number=other.loan.number + 1), unreadable._replace(cell=8)):
        with pytest.raises(Lost, match="has ended the loan"):
            borrowed(gone)


def test_what_the_kernel_refuses_says_so(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> int:
        ctypes.set_errno(1)
        return -1

    monkeypatch.setattr(across, "_read", refuses)
    with pytest.raises(Refused, match="cannot be read: Operation not permitted"):
        borrowed(other.loan)
    assert horizon() == ""
    monkeypatch.setattr(across, "_read", None)  # a C library that does not have it
    with pytest.raises(Refused, match="not implemented"):
        borrowed(other.loan)
    assert horizon() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_who_may_not_look_is_refused(other: Other) -> None:
    import json

    script = """
import json, os, sys
from proxyfab.osio.across import Loan, Refused, borrow
os.setuid(65534)
try:
    borrow(Loan(*json.loads(sys.argv[1]))._replace(starts=()), ())
except Refused as error:
    print(error)
"""
    asked = [sys.executable, "-c", script, json.dumps(other.loan)]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert "Operation not permitted" in found.stdout


@pytest.mark.parametrize(
    ("scope", "capabilities", "allowed"),
    [(0, 0, True), (1, 0, False), (1, 1 << 19, True), (2, 1 << 19, True), (3, 1 << 19, False), (2, 0, False)],
)
def test_yama_is_heard(
    scope: int, capabilities: int, allowed: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ptrace_scope"
    file.write_text(f"{scope}\n")
    monkeypatch.setattr(across, "_YAMA", str(file))
    monkeypatch.setattr(across, "_capabilities", lambda: capabilities)
    assert bool(horizon()) is allowed


def test_buffers_stay_while_they_are_lent_and_go_then() -> None:
    lender, block = Lender(), bytearray(100)
    loan = lender.lend([memoryview(block)])
    with pytest.raises(BufferError):
        block.append(1)
    assert len(lender) == 1
    lender.end(loan)
    lender.end(loan)
    block.append(1)
    assert len(lender) == 0


def test_what_cannot_be_lent_leaves_nothing_held() -> None:
    lender, block = Lender(), bytearray(100)
    with pytest.raises(BufferError):
        lender.lend([memoryview(block), memoryview(block)[::2]])
    block.append(1)
    assert len(lender) == 0


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_any_buffers(contents: list[bytes]) -> None:
    lender = Lender()
    loan = lender.lend(list(map(memoryview, contents)))
    sizes = list(map(len, contents))
    assert [array.tobytes() for array in borrowed(loan, sizes)] == contents
    lender.end(loan)
    with pytest.raises(Lost):
        borrowed(loan, sizes)


def test_many_threads_lend_and_borrow() -> None:
    """What one ends is never taken for another's: each borrows all that it lends, and nothing that is over."""
    lender, wrong = Lender(), []

    def lends(seed: int) -> None:
        drawn = np.random.default_rng(seed)
        for _ in range(200):
            content = drawn.bytes(5000)
            loan = lender.lend([memoryview(content)])
            (array,) = borrowed(loan, [len(content)])
            lender.end(loan)
            wrong.extend([seed] if array.tobytes() != content else [])
            try:
                borrowed(loan, [len(content)])
            except Lost:
                continue
            wrong.append(seed)

    threads = [threading.Thread(target=lends, args=(seed,)) for seed in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (wrong, len(lender)) == ([], 0)
