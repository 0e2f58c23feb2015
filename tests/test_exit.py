"""What ended objects leave to do: not done by the collector, not by a child for its parent, not beyond two seconds."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from proxyfab.errors import ConnectorError
from proxyfab.exit import AT_EXIT, Drain, left
from proxyfab.testing import in_fork, until
from proxyfab.testing.interrupts import Interrupt
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import RedisServer


class Owner:
    """In a cycle if it is asked to be: then only the collector ends it."""

    def __init__(self, cyclic: bool = False) -> None:
        self.me = self if cyclic else None

    def __hash__(self) -> int:
        raise AssertionError("nobody may ask: an owner may be a proxy")


class Book:
    """What was settled, in batches; fails as often as it is told to."""

    def __init__(self, failing: int = 0) -> None:
        self.batches: list[list[int]] = []
        self.failing = failing
        self.threads: set[int] = set()

    def settle(self, items: list[int]) -> None:
        self.threads.add(threading.get_ident())
        if self.failing:
            self.failing -= 1
            raise ConnectorError("The place cannot be reached.")
        self.batches.append(items)

    @property
    def items(self) -> list[int]:
        return sorted(item for batch in self.batches for item in batch)


def test_items_are_settled_in_the_background_when_their_owners_end() -> None:
    book = Book()
    drain = Drain(book.settle, "test")
    owners = [Owner() for _ in range(2500)]
    holds = [drain.hold(owner, number) for number, owner in enumerate(owners)]
    assert drain.flush(5)
    assert not book.batches
    assert all(hold.held for hold in holds)
    del owners[1000:]
    assert drain.flush(5)
    assert book.items == list(range(1000, 2500))
    assert len(book.batches) <= 1500
    assert threading.get_ident() not in book.threads
    owners.clear()
    assert drain.flush(5)
    assert book.items == list(range(2500))
    assert not any(hold.held for hold in holds)


def test_who_takes_a_hold_first_has_it() -> None:
    book = Book()
    drain = Drain(book.settle, "test")
    owner, other = Owner(), Owner()
    one, two, three = drain.hold(owner, 1), drain.hold(owner, 2), drain.hold(other, 3)
    assert one.cancel()
    assert not one.cancel()
    two.drop()
    two.drop()
    assert drain.flush(5)
    assert not two.cancel()
    del owner
    assert drain.flush(5)
    assert book.items == [2]
    assert three.held
    assert three != one
    assert three.cancel()


def test_a_place_that_cannot_be_reached_is_asked_again() -> None:
    book = Book(failing=3)
    drain = Drain(book.settle, "test")
    drain.add([1, 2])
    drain.add([3])
    assert until(lambda: book.items == [1, 2, 3], 10)
    assert drain.flush(5)


def test_what_a_batch_raises_is_nobody_elses_business() -> None:
    done: list[int] = []

    def settle(items: list[int]) -> None:
        done.extend(items)
        raise ZeroDivisionError

    drain = Drain(settle, "test")
    drain.add([1])
    assert drain.flush(5)
    drain.add([2])
    assert drain.flush(5)
    assert done == [1, 2]


def test_the_thread_ends_when_there_is_nothing_left_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyfab.exit._IDLE", 0.05)
    book = Book()
    drain = Drain(book.settle, "brief")

    def threads() -> int:
        return sum(thread.name == "proxyfab-background-brief" for thread in threading.enumerate())

    for round in range(3):
        owner = Owner()
        hold = drain.hold(owner, round)
        assert drain.flush(5)
        assert threads() == 1
        if round:
            del owner
        else:
            hold.cancel()
        assert until(lambda: threads() == 0)
    assert book.items == [1, 2]


def test_a_child_owes_nothing_of_its_parents() -> None:
    book = Book()
    drain = Drain(book.settle, "test")
    owners = [Owner(cyclic=True) for _ in range(100)]
    holds = [drain.hold(owner, number) for number, owner in enumerate(owners)]

    def child() -> tuple[list[int], bool, list[int]]:
        owners.clear()
        gc.collect()
        inherited = any(hold.held or hold.cancel() for hold in holds)
        holds[0].drop()
        mine = Owner()
        drain.hold(mine, 1000)
        first = drain.flush(5) and book.items
        del mine
        return first or [], inherited, (drain.flush(5) and book.items) or []

    assert in_fork(child) == ([], False, [1000])
    assert drain.flush(5)
    assert not book.batches
    assert all(hold.held for hold in holds)


def collected_everywhere() -> tuple[int, int]:
    """Owners in cycles end at any place, also inside the drain and the threads' own locks."""
    book = Book()
    drain = Drain(book.settle, "test")
    made, begun = 0, time.monotonic()
    gc.freeze()
    while time.monotonic() < begun + 1.5:
        gc.set_threshold(random.randrange(1, 50), 1, 1)
        drain.hold(Owner(cyclic=True), made).drop() if made % 7 == 0 else drain.hold(Owner(cyclic=True), made)
        if made % 11 == 0:
            drain.flush(0)
        made += 1
    gc.set_threshold(700, 10, 10)
    gc.collect()
    assert drain.flush(10)
    return made, len(book.items)


def test_owners_may_end_in_the_midst_of_the_drain() -> None:
    made, settled = in_fork(collected_everywhere, timeout=20)
    assert made == settled > 100


_LEAVE = """
import sys, os, time
from proxyfab import Store
from proxyfab.exit import Drain
url, name, number, pid, blow = sys.argv[1], sys.argv[2] or None, *map(int, sys.argv[3:])
class Owner: pass
store = Store(url, name=name, inline_below=0)
drain = Drain(store.evict_many, "evicting")
owners = [Owner() for _ in range(number)]
holds = [drain.hold(*pair) for pair in zip(owners, store.put_many([b"x"] * number, ttl=60))]
if blow:
    os.kill(pid, blow)
print(time.monotonic(), flush=True)
"""


def seconds_to_exit(url: str, name: str = "", number: int = 10_000, pid: int = 0, blow: int = 0) -> float:
    """From the last line of a program that holds `number` items to its end; it must print nothing."""
    command = [sys.executable, "-W", "error", "-c", _LEAVE, url, name, str(number), str(pid), str(blow)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    took = time.monotonic() - float(done.stdout)
    assert done.stderr == b""
    return took


def test_what_is_held_at_exit_is_settled(tmp_path: Path) -> None:
    seconds_to_exit(f"file://{tmp_path}", "kept", 50)
    assert sum(path.is_file() for path in (tmp_path / "kept").rglob("[0-9a-f][0-9a-f]/*")) == 0


@pytest.mark.parametrize(("blow", "name"), [("SIGSTOP", ""), ("SIGSTOP", "kept"), ("SIGKILL", "kept")])
@pytest.mark.parametrize("place", [RedisServer, NodeServer])
def test_a_dead_server_does_not_hold_up_the_end(
    place: type[RedisServer | NodeServer], blow: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds of waiting, and the end of an interpreter: three, for which a busy machine may need some tries."""
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path))  # a killed node server leaves its own behind
    took: list[float] = []
    while len(took) < 5 and (not took or min(took) > 3):
        with place() as server:
            took.append(seconds_to_exit(server.url, name, pid=server.pid, blow=signal.Signals[blow]))
            if blow == "SIGSTOP":
                os.kill(server.pid, signal.SIGCONT)
            else:
                server.kill()
    assert min(took) < 3


def test_all_who_speak_at_exit_share_two_seconds() -> None:
    def shares() -> tuple[float, float]:
        first = left()
        threading.Event().wait(0.05)
        return first, left()

    first, second = in_fork(shares)
    assert second < first <= AT_EXIT


@pytest.mark.parametrize("warm", [True, False])
def test_an_interrupt_loses_nothing_that_was_promised(warm: bool) -> None:
    """At whichever instruction of `hold` it comes, up to the start of the thread: what is held later is settled."""
    book, number, interrupt = Book(), 1, None
    while interrupt is None or (interrupt.came and "thread.start()" not in interrupt.where):
        drain, first, owner = Drain(book.settle, "test"), Owner(), Owner()
        if warm:
            drain.hold(first, -number)
        interrupt = Interrupt(number)
        interrupt.run(lambda drain=drain, owner=owner, number=number: drain.hold(owner, number))
        drain.hold(owner, number + 1000)
        del owner
        assert drain.flush(5)
        assert number + 1000 in book.items
        number += 1
    assert number > (5 if warm else 15)
