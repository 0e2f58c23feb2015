"""Processes: others read and write, forks share, and any of them may be killed at any moment."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError, KeyExists
from proxyfab.keys import Key
from proxyfab.testing import roles
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import content, is_whole, plain, signed
from proxyfab.testing.processes import Child, in_fork, run

BIG = 3_000_000


class CrossingTests(Suite):
    """Rules 2 and 6, between processes."""

    @pytest.fixture
    def shared(self, one: Any) -> Any:
        """A fresh connector that other processes can open."""
        self.claim("crosses_processes")
        return one

    # -- fresh interpreters ------------------------------------------------------------------------------------------

    def test_a_fresh_process_reads(self, shared: Any) -> None:
        data = [plain(nbytes) for nbytes in (0, 1, 4097, BIG)]
        keys = shared.put_many([Frames([one]) for one in data])

        assert run(roles.read, shared, [*keys, Key("never")]) == [*data, None]

    def test_a_fresh_process_writes(self, shared: Any) -> None:
        data = [plain(nbytes) for nbytes in (0, 1, 4097, BIG)]
        keys = run(roles.write, shared, data)

        assert [content(found) for found in shared.get_many(keys)] == data
        assert shared.evict_many(keys) == [True] * 4

    def test_what_one_evicts_another_misses(self, shared: Any) -> None:
        key = shared.put(signed(100))
        with Child(roles.follow, shared) as child:
            assert child.ask("exists", key) is True
            shared.evict(key)
            assert child.ask("exists", key) is False
            shared.put(signed(100), key=key)
            assert child.ask("exists", key) is True
            assert child.ask("evict", key) is True
            assert shared.exists(key) is False
            assert shared.get(key) is None

    def test_what_one_replaces_another_reads(self, shared: Any) -> None:
        key = shared.put(Frames([b"old"]), key=Key("k"))
        with Child(roles.follow, shared) as child:
            assert child.ask("get", key) == b"old"
            shared.put(Frames([b"newer"]), key=key, replace=True)
            assert child.ask("get", key) == b"newer"
            child.ask("replace", key, b"newest")
            assert content(shared.get(key)) == b"newest"

    def test_of_many_processes_one_wins(self, shared: Any) -> None:
        key = Key("prize")
        with Child(roles.race, shared, key, 1) as one, Child(roles.race, shared, key, 2) as two:
            for child in (one, two):
                child.receive()
            for child in (one, two):
                child.send("start")
            results = [one.result(), two.result()]

        assert sorted(results) == [False, True]
        assert shared.get(key) == signed(200_000, 1 if results[0] else 2)
        with pytest.raises(KeyExists):
            shared.put(Frames([b"late"]), key=key)

    def test_an_object_held_elsewhere_stays_whole(self, shared: Any) -> None:
        """Evicting, and putting others of the same sizes, must not reach what a reader still looks at."""
        keys = [shared.put(signed(BIG, seed)) for seed in range(3)]
        with Child(roles.hold, shared, keys) as child:
            assert child.receive() == [True] * 3
            shared.evict_many(keys)
            for seed in range(6):
                shared.put(signed(BIG, 100 + seed))
            child.send("look again")
            assert child.result() == [True] * 3

    # -- forks -------------------------------------------------------------------------------------------------------

    def test_a_fork_reads_and_its_close_is_its_own(self, one: Any) -> None:
        key = one.put(signed(BIG))

        def work() -> bool:
            whole = is_whole(one.get(key))
            one.close()
            return whole

        assert in_fork(work) is True
        assert is_whole(one.get(key))
        assert one.evict(one.put(signed(100)))

    def test_a_fork_reads_with_views_of_its_parent(self, one: Any) -> None:
        views = one.get(one.put(signed(BIG)))

        assert in_fork(lambda: is_whole(views)) is True
        assert is_whole(views)

    def test_a_fork_writes(self, shared: Any) -> None:
        shared.put(signed(10))
        keys = in_fork(lambda: [shared.put(signed(nbytes)) for nbytes in (100, BIG)])

        assert [is_whole(shared.get(key)) for key in keys] == [True, True]

    def test_a_fork_before_the_first_operation(self, shared: Any) -> None:
        key = in_fork(lambda: shared.put(signed(100)))

        assert is_whole(shared.get(key))

    def test_a_fork_that_ends_takes_nothing_along(self, one: Any) -> None:
        key = one.put(signed(100))
        for _ in range(3):
            in_fork(lambda: one.exists(key))

        assert is_whole(one.get(key))

    def test_two_forks_draw_different_keys(self, shared: Any) -> None:
        shared.put(signed(10))
        keys = [in_fork(lambda: shared.put(signed(100))) for _ in range(2)]

        assert keys[0] != keys[1]

    def test_a_fork_while_threads_work(self, one: Any) -> None:
        """A lock that another thread holds at the moment of the fork must not be waited for in the child."""
        self.claim("forks_under_load")
        key = one.put(signed(1000))

        def fork_repeatedly() -> list[bool]:
            return [in_fork(lambda: is_whole(one.get(key)) and one.exists(key)) for _ in range(4)]

        def disturb(stop: list[bool]) -> None:
            while not stop:
                one.evict(one.put(signed(1000)))

        assert _beside(fork_repeatedly, disturb) == [True] * 4

    # -- sudden death ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_killed_writer_leaves_whole_objects_or_none(self, shared: Any, after: int) -> None:
        names = [f"job-{number}" for number in range(100)]
        with Child(roles.put_until_killed, shared, BIG, names) as child:
            acknowledged = [child.receive() for _ in range(after + 1)]
            child.kill()
            acknowledged += child.pending()
        found = shared.get_many([Key(name) for name in names])
        seen = [frames is not None for frames in found]

        assert all(is_whole(shared.get(key)) for key in acknowledged)
        assert all(is_whole(frames) for frames in found if frames is not None)
        assert sum(seen) - len(acknowledged) in (0, 1)
        if self.scans:
            assert all(is_whole(shared.get(stat.key)) for stat in shared.scan())
        next_one = Key(names[sum(seen)])
        assert is_whole(shared.get(shared.put(signed(BIG, 5), key=next_one)))

    def test_a_killed_replacer_leaves_the_old_or_the_new(self, shared: Any) -> None:
        key = shared.put(signed(BIG), key=Key("k"))
        for rounds in (1, 4):
            with Child(roles.replace_until_killed, shared, key, BIG) as child:
                for _ in range(rounds):
                    child.receive()
                child.kill()
            assert is_whole(shared.get(key))
            shared.put(signed(100), key=key, replace=True)
            assert shared.get(key) == signed(100)

    def test_a_killed_reader_blocks_nobody(self, shared: Any) -> None:
        keys = [shared.put(signed(BIG, seed)) for seed in range(3)]
        with Child(roles.hold, shared, keys) as child:
            child.receive()
            child.kill()

        assert [is_whole(frames) for frames in shared.get_many(keys)] == [True] * 3
        shared.put(signed(BIG, 9), key=keys[0], replace=True)
        assert shared.evict_many(keys) == [True] * 3
        assert all(is_whole(shared.get(shared.put(signed(BIG, seed)))) for seed in range(4))

    def test_a_child_that_ends_does_not_take_our_objects(self, shared: Any) -> None:
        """Only the process that made an unnamed place owns it; others attach and leave."""
        key = shared.put(signed(100))
        keys = run(roles.write, shared, [b"theirs"])
        with Child(roles.follow, shared) as child:
            child.ask("get", key)
            child.kill()
        if self.reaps:
            shared.reap()

        assert is_whole(shared.get(key))
        assert content(shared.get(keys[0])) == b"theirs"

    # -- owners ------------------------------------------------------------------------------------------------------

    def orphan(self, url: str, *, kill: bool) -> tuple[str, list[Key]]:
        """Spec and keys of an unnamed place whose process has just ended, with its objects read once meanwhile."""
        self.claim("reclaims")
        with Child(roles.own, self.connector, url, BIG) as owner:
            spec, keys = owner.receive()
            with self.open(spec) as ours:
                assert all(is_whole(frames) for frames in ours.get_many(keys))
            if kill:
                owner.kill()
            else:
                owner.send("end")
                owner.result()
        return spec, keys

    def is_gone(self, spec: str, keys: list[Key]) -> bool:
        """Whether a place and its objects are gone; an opener may be told that the place has ended."""
        with self.open(spec) as ours:
            try:
                return bool(ours.get_many(keys) == [None] * len(keys))
            except ConnectorError:
                return True

    def test_who_ends_takes_an_unnamed_place_along(self, url: str, connect: Open) -> None:
        spec, keys = self.orphan(url, kill=False)

        assert self.is_gone(spec, keys)
        if self.reaps:
            assert connect().reap() == []

    def test_reap_takes_back_what_a_killed_owner_left(self, url: str, connect: Open) -> None:
        self.claim("reaps")
        one = connect()
        kept = one.put(signed(100))
        spec, keys = self.orphan(url, kill=True)
        would, did = one.reap(dry_run=True), one.reap()

        assert would == did
        assert sum(taken.nbytes for taken in did) >= 2 * BIG
        assert all(taken.what and taken.reason for taken in did)
        assert self.is_gone(spec, keys)
        assert one.reap() == []
        assert is_whole(one.get(kept))

    def test_the_next_opener_takes_back_what_a_killed_owner_left(self, url: str, connect: Open) -> None:
        spec, keys = self.orphan(url, kill=True)
        assert run(roles.visit, self.connector, url) is True

        assert self.is_gone(spec, keys)
        if self.reaps:
            assert connect().reap(dry_run=True) == []

    def test_what_is_held_survives_its_owner(self, url: str, connect: Open) -> None:
        self.claim("reclaims")
        with Child(roles.own, self.connector, url, BIG) as owner:
            spec, keys = owner.receive()
            views = connect(url=spec).get_many(keys)
            owner.kill()
        run(roles.visit, self.connector, url)
        other = connect()
        for seed in range(3):
            other.put(signed(BIG, seed))

        assert all(is_whole(frames) for frames in views)

    def test_a_named_place_survives_the_process(self, url: str, connect: Open) -> None:
        self.claim("crosses_processes")
        keys = run(roles.write, connect("kept"), [b"one", b"two"])
        if self.reaps:
            connect().reap()

        assert [content(frames) for frames in connect("kept").get_many(keys)] == [b"one", b"two"]

    def test_a_fork_that_ends_does_not_end_its_parents_place(self, one: Any) -> None:
        """Nor does the parent's lock travel into a child that outlives it: see the owner's tests above."""
        key = one.put(signed(100))
        in_fork(lambda: one.put(signed(10)) and os.getpid())
        if self.reaps:
            one.reap()
        if self.crosses_processes:
            run(roles.visit, self.connector, one.spec)

        assert is_whole(one.get(key))


def _beside(work: Any, disturb: Any) -> Any:
    """What `work()` returns while `disturb(stop)` runs in three threads, until `stop` holds something."""
    stop: list[bool] = []
    threads = [threading.Thread(target=disturb, args=(stop,), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        return work()
    finally:
        stop.append(True)
        for thread in threads:
            thread.join(30)
