"""Waiting for an object: told when it comes, back when the time is over."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.keys import Key
from proxyfab.testing import roles
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import content
from proxyfab.testing.processes import DEADLINE, Child, at_once

SLACK = 3.0
"""Seconds that a busy machine may take to wake somebody."""


class WaitTests(Suite):
    """`wait`, between threads and between processes."""

    def test_what_is_there_is_not_waited_for(self, one: Any) -> None:
        key = one.put(Frames([b"x"]))

        assert one.wait(key) is True
        assert one.wait(key, 0) is True
        assert one.wait(key, timeout=DEADLINE) is True

    def test_a_wait_ends_in_time(self, one: Any) -> None:
        for timeout in (0, 0.05, -1):
            started = time.monotonic()
            assert one.wait(one.reserve(), timeout) is False
            assert timeout <= time.monotonic() - started + 0.005
            assert time.monotonic() - started < SLACK

    def test_all_waiters_are_told(self, one: Any) -> None:
        keys = [Key("a"), one.reserve()]

        def put() -> float:
            threading.Event().wait(0.05)  # so that the others wait when it happens; nothing fails if they do not
            for key in keys:
                one.put(Frames([b"here"]), key=key)
            return time.monotonic()

        def wait(key: Key) -> float:
            assert one.wait(key, DEADLINE)
            assert content(one.get(key)) == b"here"
            return time.monotonic()

        put_at, *woken_at = at_once([put, *(lambda key=key: wait(key) for key in keys * 3)])

        assert [at for at in woken_at if not isinstance(at, float)] == []
        assert max(woken_at) - put_at < one.wait_bound + SLACK

    def test_other_objects_wake_nobody(self, one: Any) -> None:
        def put_others() -> None:
            for number in range(20):
                one.put(Frames([b"other"]), key=Key(f"other-{number}"))

        waited, _ = at_once([lambda: one.wait(Key("mine"), 0.2), put_others])

        assert waited is False

    def test_a_batch_wakes_too(self, one: Any) -> None:
        key = Key("a")
        waited, _ = at_once([lambda: one.wait(key, DEADLINE), lambda: one.put_many([Frames([b"x"])], keys=[key])])

        assert waited is True

    def test_one_connector_waits_for_another(self, connect: Open) -> None:
        one, other = connect("shared"), connect("shared")
        waited, _ = at_once([lambda: one.wait(Key("k"), DEADLINE), lambda: other.put(Frames([b"x"]), key=Key("k"))])

        assert waited is True

    def test_a_wait_for_another_process(self, one: Any) -> None:
        self.claim("crosses_processes")
        key = one.reserve()
        with Child(roles.race, one, key, 1) as child:
            child.receive()
            child.send("start")
            assert one.wait(key, DEADLINE) is True
            assert one.get(key) is not None
            assert child.result() is True

    def test_another_process_waits(self, one: Any) -> None:
        self.claim("crosses_processes")
        key = one.reserve()
        with Child(roles.wait_for, one, key, DEADLINE) as child:
            child.receive()
            one.put(Frames([b"for you"]), key=key)
            assert child.result() == b"for you"

    def test_another_process_waits_in_vain(self, one: Any) -> None:
        self.claim("crosses_processes")
        with Child(roles.wait_for, one, one.reserve(), 0.05) as child:
            child.receive()
            assert child.result() is None

    def test_of_several_those_that_are_there(self, one: Any) -> None:
        keys = [one.reserve(), Key("named"), one.put(Frames([b"x"])), one.reserve()]

        assert one.wait_any([], None) == []
        assert one.wait_any(keys) == [keys[2]]
        assert one.wait_any(keys, 0) == [keys[2]]
        one.put(Frames([b"x"]), key=keys[1])
        assert one.wait_any(keys, DEADLINE) == keys[1:3]

    def test_a_wait_for_several_ends_in_time(self, one: Any) -> None:
        for timeout in (0, 0.05, -1):
            started = time.monotonic()
            assert one.wait_any([one.reserve(), Key("a"), one.reserve()], timeout) == []
            assert timeout <= time.monotonic() - started + 0.005
            assert time.monotonic() - started < SLACK

    def test_the_first_of_many_wakes(self, one: Any) -> None:
        keys = [*(one.reserve() for _ in range(40)), *(Key(f"named-{number}") for number in range(40))]

        def put(key: Key) -> None:
            one.put(Frames([b"other"]), key=Key(f"other-{key.id}"))
            one.put(Frames([b"x"]), key=key)

        for key in (keys[17], keys[65]):
            waited, _ = at_once([lambda: one.wait_any(keys, DEADLINE), partial(put, key)])
            assert waited == [key]
            assert one.evict(key)

    def test_several_waiters_for_several(self, one: Any) -> None:
        keys = [one.reserve() for _ in range(6)]

        def wait_for_all() -> list[object]:
            left = list(keys)
            while left:
                found = one.wait_any(left, DEADLINE)
                assert found
                left = [key for key in left if key not in found]
            return [content(one.get(key)) for key in keys]

        def put() -> None:
            for number, key in enumerate(keys):
                one.put(Frames([str(number).encode()]), key=key)

        first, second, _ = at_once([wait_for_all, wait_for_all, put])

        assert first == second == [b"0", b"1", b"2", b"3", b"4", b"5"]

    def test_a_wait_for_several_of_another_process(self, one: Any) -> None:
        self.claim("crosses_processes")
        keys = [one.reserve() for _ in range(3)]
        with Child(roles.race, one, keys[1], 1) as child:
            child.receive()
            child.send("start")
            assert one.wait_any(keys, DEADLINE) == [keys[1]]
            assert child.result() is True
