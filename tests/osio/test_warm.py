"""Memory that is used again, and never while anybody looks at it."""

from __future__ import annotations

import gc
import pickle
import threading

import numpy as np
import pytest

from proxyfab.osio.memory import HUGE
from proxyfab.osio.warm import Warm
from proxyfab.testing import in_fork
from proxyfab.testing.interrupts import Interrupt

SIZE = 8 << 20


def address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0]


def test_a_block_is_used_again_when_nobody_looks_at_it():
    """The same address, for sizes that are alike."""
    warm = Warm()
    first = address(warm.take(SIZE))
    assert address(warm.take(SIZE)) == first
    assert address(warm.take(SIZE - 100_000)) == first
    assert len(warm.take(SIZE - 100_000)) == SIZE - 100_000
    assert address(warm.take(HUGE)) == first
    assert address(warm.take(SIZE * 4)) != first


@pytest.mark.parametrize(
    "hold",
    [
        lambda view: view,
        lambda view: view[100:200],
        lambda view: view.toreadonly()[5:],
        lambda view: view[:800].cast("d"),
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: np.frombuffer(view, np.uint8)[10:20].view(np.uint16),
        lambda view: pickle.PickleBuffer(view),
        lambda view: memoryview(np.frombuffer(view[64:128], np.uint8).reshape(8, 8)[2:4]),
        lambda view: iter(view),
        lambda view: [{"deep": view[1:2]}],
    ],
)
def test_never_while_anybody_looks_at_it(hold):
    """However indirectly; and again after that."""
    warm = Warm()
    view = warm.take(SIZE)
    view[:256] = bytes(256)
    first = address(view)
    held = hold(view)
    del view
    other = warm.take(SIZE)
    assert address(other) != first
    other[:] = b"\xff" * SIZE
    del held
    gc.collect()
    assert address(warm.take(SIZE)) == first


def test_threads_never_share_a_block():
    """Each writes its own mark and finds it."""
    warm, wrong = Warm(), []

    def work(mark: int) -> None:
        for _ in range(200):
            view = warm.take(HUGE)
            view[:1000] = bytes([mark]) * 1000
            if bytes(view[:1000]) != bytes([mark]) * 1000:
                wrong.append(mark)
            del view

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_only_so_much_is_kept(monkeypatch):
    """The oldest goes first, what idles goes, and `forget` keeps nothing."""
    warm = Warm(most=2 * SIZE)
    views = [warm.take(SIZE) for _ in range(4)]
    assert len(warm._blocks) == 2
    del views
    assert address(warm.take(SIZE))
    monkeypatch.setattr("proxyfab.osio.warm.time.monotonic", lambda: 1e12)
    warm.take(SIZE)
    assert len(warm._blocks) == 1
    warm.forget()
    assert not warm._blocks
    assert not warm._taken


def test_a_fork_does_not_share_what_it_fills():
    """The parent's bytes stay as they are."""
    warm = Warm()
    view = warm.take(SIZE)
    view[:4] = b"mine"
    held = view[:4]
    del view

    def child() -> bytes:
        other = warm.take(SIZE)
        other[:4] = b"his!"
        return bytes(held)

    assert in_fork(child) == bytes(held) == b"mine"


def test_an_interrupt_at_any_instruction_spoils_nothing():
    """The next one who asks gets a block; what is counted is what is kept."""
    whole = Interrupt(1 << 60)
    whole.run(lambda: _use(Warm(most=2 * SIZE)))
    for number in range(1, whole.seen):
        warm = Warm(most=2 * SIZE)
        Interrupt(number).run(lambda warm=warm: _use(warm))
        for _ in range(3):
            _use(warm)
        assert sum(map(len, warm._blocks)) <= 2 * SIZE
        assert len(warm._taken) <= len(warm._blocks)


def _use(warm: Warm) -> None:
    views = [warm.take(HUGE), warm.take(2 * HUGE), warm.take(HUGE)]
    del views
    warm.take(SIZE)
