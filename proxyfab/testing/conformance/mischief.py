"""Mischief: memory that is used again under a reader, sweeps beside living writers, owners that fork, interrupts."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxyfab.abc import SupportsLease
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key
from proxyfab.testing import roles
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.interrupts import Interrupt
from proxyfab.testing.processes import Child, ChildFailed, at_once, in_fork, run

BIG = 2_000_000


def live(one: Any, key: Key, frames: Frames, done: list[str]) -> None:
    """One object's life, and another's under a drawn key; `done` says how far it got."""
    one.put(frames, key=key)
    done.append("put")
    found = one.get(key)
    done.append("got" if is_whole(found) else "torn")
    del found
    done.append("evicting")
    one.evict(key)
    drawn = one.put(frames)
    if isinstance(one, SupportsLease):
        one.renew(drawn, 60)
    done.append("held" if one.get(drawn) else "")
    one.evict(drawn)


def aftermath(one: Any, key: Key, frames: Frames, done: list[str]) -> list[str]:
    """What is wrong behind an interrupted `live`, seen from another thread, which a lock left taken would stop."""
    wrong = ["a get was torn"] if "torn" in done else []
    found = one.get(key)
    if found is not None and not is_whole(found):
        wrong.append("torn")
    if found is None and "put" in done and "evicting" not in done:
        wrong.append("acknowledged and lost")
    if found is None:
        one.put(frames, key=key)
    drawn = one.put(frames)
    if not (is_whole(one.get(key)) and is_whole(one.get(drawn)) and one.evict(key) and one.evict(drawn)):
        wrong.append("what was put afterwards")
    if one.wait(key, 0) or one.exists(drawn):
        wrong.append("stays")
    return wrong


def interrupted(one: Any, frames: Frames, number: int) -> list[str]:
    """Interrupt `live` at the `number`-th instruction that lets one in; what was wrong afterwards."""
    key, done, interrupt = Key(f"k{frames.nbytes}.{number}"), list[str](), Interrupt(number)
    interrupt.run(lambda: live(one, key, frames, done))
    try:
        (wrong,) = at_once([lambda: aftermath(one, key, frames, done)], timeout=15)
        one.clear()  # what was put under a drawn key and not yet handed out
    except ChildFailed as error:
        wrong = error
    faults = wrong if isinstance(wrong, list) else [repr(wrong)]
    return [f"{fault} (instruction {number}, {frames.nbytes} bytes)\n{interrupt.where}" for fault in faults]


def interrupted_everywhere(one: Any, nbytes: int, seed: int, seconds: float) -> list[str]:
    """Interrupt `live` at each instruction, in a random order and for at most `seconds`; the first fault."""
    sys.unraisablehook = lambda _: None  # an interrupt inside a __del__ is told to the log and goes on
    frames, whole = signed(nbytes, nbytes), Interrupt(1 << 60)
    for _ in range(2):  # the first opens what the others find open
        whole.seen = 0
        whole.run(lambda: live(one, Key("k"), frames, []))
    ends = time.monotonic() + seconds
    for number in random.Random(seed).sample(range(1, whole.seen), whole.seen - 1):
        wrong = interrupted(one, frames, number)
        if wrong or time.monotonic() > ends:
            return wrong
    return [] if whole.seen > 20 else [f"only {whole.seen} instructions"]


def interrupted_first(one: Any, numbers: list[int], seconds: float) -> list[str]:
    """Interrupt the first operations of a process, each in a fork of its own; the first fault."""
    ends = time.monotonic() + seconds
    for number in numbers:
        wrong: list[str] = in_fork(partial(_in_child, one, number))
        if wrong or time.monotonic() > ends:
            return wrong
    return []


def _in_child(one: Any, number: int) -> list[str]:
    sys.unraisablehook = lambda _: None
    return interrupted(one, signed(300_000, 5), number)


class MischiefTests(Suite):
    """What goes wrong only in production."""

    # -- memory that is used again -----------------------------------------------------------------------------------

    def churn(self, connector: Any, nbytes: int = BIG, times: int = 5) -> None:
        """Puts and evicts objects of one size, so that whatever recycles memory does."""
        for seed in range(times):
            connector.evict(connector.put(signed(nbytes, 1000 + seed)))
        connector.put(signed(nbytes, 2000))

    def test_a_part_of_a_view_is_enough_to_keep_it(self, one: Any) -> None:
        key = one.put(signed(BIG, 1))
        part = one.get(key).join()[1000:500_000]
        expected = bytes(signed(BIG, 1).join()[1000:500_000])
        one.evict(key)
        gc.collect()
        self.churn(one)

        assert part == expected

    def test_an_array_over_a_view_is_enough_to_keep_it(self, one: Any) -> None:
        numpy = pytest.importorskip("numpy")
        key = one.put(signed(BIG, 1))
        array = numpy.frombuffer(one.get(key).join(), "u1")[1000:][::7].reshape(1, -1).view("i1").T
        expected = numpy.frombuffer(signed(BIG, 1).join(), "i1")[1000:][::7]
        one.evict(key)
        gc.collect()
        self.churn(one)

        assert (array[:, 0] == expected).all()

    def test_a_view_in_a_fork_keeps_it(self, one: Any) -> None:
        """The parent lets go, evicts and puts others; its child still looks at the old bytes."""
        self.claim("crosses_processes")
        key = one.put(signed(BIG, 1))
        views = [one.get(key)]
        with Child(roles.follow, one) as other:

            def work() -> bool:
                kept = views.pop()
                other.ask("evict", key)
                other.ask("churn", BIG)
                return is_whole(kept)

            assert in_fork(work) is True

    def test_a_view_of_a_killed_process_frees_its_memory(self, one: Any) -> None:
        self.claim("crosses_processes")
        for _ in range(3):
            keys = [one.put(signed(BIG, seed)) for seed in range(3)]
            with Child(roles.hold, one, keys) as child:
                child.receive()
                child.kill()
            one.evict_many(keys)
        self.churn(one)

        assert is_whole(one.get(one.put(signed(BIG, 5))))

    # -- beside others -----------------------------------------------------------------------------------------------

    def test_sweeping_leaves_living_writers_alone(self, connect: Open) -> None:
        self.claim("crosses_processes")
        self.claim("reaps")
        one = connect("swept")
        with Child(roles.put_some, one, BIG, 40) as child:
            child.receive()
            while not child.talk.poll(0):
                one.reap()
            keys = child.result()

        assert [is_whole(one.get(key)) for key in keys] == [True] * 40

    def test_clearing_beside_a_writer_breaks_neither(self, connect: Open) -> None:
        self.claim("crosses_processes")
        one = connect("cleared")
        with Child(roles.put_some, one, 50_000, 150) as child:
            child.receive()
            while not child.talk.poll(0):
                one.clear()
            keys = child.result()

        assert all(frames is None or is_whole(frames) for frames in one.get_many(keys))
        assert is_whole(one.get(one.put(signed(100))))

    def test_many_processes_open_a_fresh_place_at_once(self, url: str, connect: Open) -> None:
        self.claim("crosses_processes")
        children = [Child(roles.arrive, self.connector, url) for _ in range(4)]
        try:
            for child in children:
                child.receive()
            for child in children:
                child.send("go")
            assert [child.result() for child in children] == [True] * 4
        finally:
            for child in children:
                child.__exit__(None, None, None)

        writer = connect()
        reader = connect() if self.reads_neighbours else writer
        assert is_whole(reader.get(writer.put(signed(10))))

    # -- owners that fork --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("then", ["kill", "end"])
    def test_a_worker_that_outlives_the_owner_does_not_keep_its_place(self, url: str, connect: Open, then: str) -> None:
        """A forked worker inherits descriptors; the owner's lock must not live on in it."""
        self.claim("reclaims")
        with Child(roles.own_and_fork, self.connector, url) as owner:
            spec, key, worker = owner.receive()
            try:
                with self.open(spec) as other:
                    assert is_whole(other.get(key))
                if then == "kill":
                    owner.kill()
                else:
                    owner.send("end")
                    owner.result()
                if self.reaps:
                    connect().reap()
                run(roles.visit, self.connector, url)
                with self.open(spec) as other:
                    assert self.missing(other, key)
            finally:
                os.kill(worker, signal.SIGKILL)

    def missing(self, connector: Any, key: Key) -> bool:
        """Whether an object is gone; its place may say that it has ended."""
        try:
            return connector.get(key) is None
        except ProxyfabError:
            return True

    def test_a_fork_that_runs_exit_handlers_leaves_its_parents_place(self, url: str) -> None:
        self.claim("crosses_processes")

        assert run(roles.fork_and_exit, self.connector, url) is True

    # -- limits and interrupts ---------------------------------------------------------------------------------------

    def test_a_limit_on_the_size_of_files(self, one: Any) -> None:
        self.claim("crosses_processes")
        self.claim("on_disk")
        error, partial, small = run(roles.limited_file_size, one, 5 * BIG, BIG)

        assert error
        assert not partial
        assert small

    @pytest.mark.parametrize("nbytes", [70_000, 300_000])
    def test_an_interrupt_at_each_instruction(self, one: Any, nbytes: int) -> None:
        """Nothing torn, nothing locked for ever; a key whose put was interrupted is whole or free."""
        self.claim("interruptible")
        one.put(signed(100))

        seed = random.randrange(10_000)
        seconds = self.interrupt_seconds

        assert in_fork(lambda: interrupted_everywhere(one, nbytes, seed, seconds), timeout=60) == [], f"seed {seed}"

    def test_an_interrupt_in_a_process_that_has_just_begun(self, one: Any) -> None:
        """What is opened at first use is opened by the second then; a sample of the instructions, told by its seed."""
        self.claim("interruptible")
        self.claim("crosses_processes")
        one.put(signed(100))
        seed = random.randrange(10_000)
        numbers = sorted(random.Random(seed).sample(range(1, 600), 60))

        assert interrupted_first(one, numbers, self.interrupt_seconds) == [], f"seed {seed}"

    def test_what_killed_writers_left_is_taken_back(self, place: Path, connect: Open) -> None:
        self.claim("on_disk")
        self.claim("reaps")
        one = connect("wreck")
        for _ in range(4):
            with Child(roles.put_until_killed, one, 5 * BIG, []) as child:
                child.receive()
                child.kill()
        one.clear()
        one.reap()
        one.close()
        run(roles.visit, self.connector, one.spec)
        left = {path: path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file()}

        assert sum(left.values()) < 5 * BIG, f"left behind: {left}"

    def test_frames_that_fail_while_they_are_read_leave_nothing(self, one: Any) -> None:
        """A buffer may be released between its view and its copy; the put fails, and the key stays free."""
        view = memoryview(bytearray(b"x" * 100_000))
        frames = Frames([b"head", view])
        for part in frames:
            part.release()
        with pytest.raises((ProxyfabError, ValueError, TypeError)):  # the caller's mistake, in its own words
            one.put(frames, key=Key("k"))

        assert one.get(Key("k")) is None
        assert one.exists(Key("k")) is False
        one.put(Frames([b"now"]), key=Key("k"))
        assert one.get(Key("k")) == Frames([b"now"])
