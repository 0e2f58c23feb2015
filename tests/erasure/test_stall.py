"""Encoding 64 MiB keeps the interpreter's lock from no other thread for more than 20 ms."""

from __future__ import annotations

import ctypes
import sys
from time import thread_time
from typing import Any

import pytest

from benchmarks.stalls import longest_instruction
from proxyfab.erasure import Code, isal, plain

SIZE = 64 << 20


def test_what_is_measured_is_the_longest_instruction() -> None:
    took: list[float] = []

    def work() -> None:
        began = thread_time()
        sum(range(3_000_000))
        took.append(thread_time() - began)

    assert longest_instruction(lambda: [number + 1 for number in range(1000)]) < 0.01
    longest = longest_instruction(work)
    assert longest > took[0] / 2, (longest, took)


@pytest.mark.parametrize("kernel", ["numpy", "python"])
def test_another_thread_is_not_stalled(kernel: str) -> None:
    data, code = bytes(SIZE), Code(4, 2, kernel=kernel)
    code.encode(data[:4096])  # tables are made once

    assert longest_instruction(lambda: code.encode(data)) + sys.getswitchinterval() < 0.020


def test_large_pieces_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_PIECE", 1 << 24)
    data, code = bytes(SIZE), Code(4, 2, kernel="python")

    assert longest_instruction(lambda: code.encode(data)) + sys.getswitchinterval() > 0.010


def test_isal_works_without_the_lock() -> None:
    kernel: Any = isal.load()
    without, within = (
        type(function)._flags_ for function in (ctypes.CDLL(None).abs, ctypes.pythonapi.Py_IsInitialized)
    )

    assert type(kernel._encode)._flags_ == without != within
