"""Ownership's rules, on every kind of place: who may do what, and what becomes of the object."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import time
from typing import Any

import numpy as np
import pytest

from proxyfab import Key, Store, is_proxy, is_resolved, open_store, prefetch, unwrap
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import BorrowError, CapabilityError, ConfigurationError, KeyNotFound, ProxyfabError
from proxyfab.patterns import adopt, borrow, borrow_mut, clone, own, reclaim, release, scope, update
from proxyfab.patterns.ownership.verbs import held
from proxyfab.testing import FaultyConnector, until
from proxyfab.wire.owned import LARGEST, Claim, decode, encode


def lies(store: Store, owned: Any) -> bool:
    """Whether record and data of what is owned are in the store."""
    account = held(owned).account
    return all(store.exists_many([account.key, account.data]))


def data_of(owned: Any) -> str:
    return str(held(owned).account.data)


class TestAnywhere:
    """The promises in short, on every kind of place."""

    def test_one_owner_many_readers_or_one_writer(self, anywhere: Store) -> None:
        o = own(anywhere, list(range(1000)))
        assert o == list(range(1000))
        assert is_proxy(o)

        readers = [borrow(o) for _ in range(3)]
        assert [each[7] for each in readers] == [7, 7, 7]
        with pytest.raises(BorrowError, match="borrowed by"):
            borrow_mut(o, timeout=0)
        with pytest.raises(BorrowError, match="borrowed by"):
            release(o, timeout=0)
        for each in readers:
            release(each)

        m = borrow_mut(o)
        m.append("new")
        with pytest.raises(BorrowError, match="mutably borrowed by"):
            borrow(o, timeout=0)
        with pytest.raises(BorrowError, match="mutably borrowed by"):
            len(o)
        update(m)
        release(m)

        assert o[-1] == "new"
        assert borrow(o)[-1] == "new"
        data = data_of(o)
        assert lies(anywhere, o)
        gc.collect()
        release(o)
        assert not anywhere.exists(data)

    def test_an_object_is_adopted_once(self, anywhere: Store) -> None:
        ref = anywhere.ref_from_key(anywhere.put(list(range(5000)), ttl=20))
        o = adopt(ref)
        with pytest.raises(BorrowError, match="owned already by"):
            adopt(ref)
        assert o[7] == 7
        release(o)
        assert not ref.exists()

    def test_an_owner_moves_once(self, anywhere: Store) -> None:
        o = own(anywhere, np.arange(5000))
        data = data_of(o)
        message = pickle.dumps(o)
        with pytest.raises(BorrowError, match="was sent"):
            o.sum()

        first, second = pickle.loads(message), pickle.loads(message)
        assert first.sum() == 5000 * 4999 // 2
        with pytest.raises(BorrowError, match="already used by"):
            second.sum()
        with pytest.raises(BorrowError, match="already used"):
            reclaim(o)
        assert anywhere.exists(data)
        release(first)
        assert not anywhere.exists(data)

    def test_it_goes_with_its_owner(self, anywhere: Store) -> None:
        o = own(anywhere, {"some": "thing"})
        data, record = data_of(o), held(o).key
        del o
        assert until(lambda: not anywhere.exists(data) and not anywhere.exists(record))


@pytest.fixture
def store() -> Any:
    with Store("memory://") as made:
        yield made


class TestOwning:
    def test_an_owner_is_a_proxy_and_typed_as_its_target(self, store: Store) -> None:
        o = own(store, "text")
        assert isinstance(o, str)
        assert not is_resolved(o)
        assert o.upper() == "TEXT"
        assert "owner of the object" in repr(held(o))

    def test_what_cannot_be_owned(self, store: Store) -> None:
        with pytest.raises(ConfigurationError, match="compared with `is`"):
            own(store, None)
        for lease in (0, -1, 1e9, float("inf"), float("nan")):
            with pytest.raises(ConfigurationError, match="positive number of seconds"):
                own(store, [], lease=lease)
        with pytest.raises(ConfigurationError, match="in a Store"):
            own("memory://", [])  # type: ignore[arg-type]
        o = own(store, [1])
        for owned in (o, borrow(o)):
            with pytest.raises(BorrowError, match="clone"):
                own(store, owned)
            with pytest.raises(BorrowError, match="clone"):
                adopt(owned)

    def test_of_a_plain_proxy_its_target_is_stored_anew(self, store: Store) -> None:
        p = store.proxy([1] * 10_000)
        o = own(store, p)
        release(o)
        assert o is not p
        assert p == [1] * 10_000

    def test_a_place_without_the_means_is_refused(self) -> None:
        class Poor(BaseConnector):
            scheme = "poor"
            spec = "poor://"

        with pytest.raises(CapabilityError, match="redis://"):
            own(Store(Poor()), [1])

    def test_plain_objects_have_no_owner(self, store: Store) -> None:
        for verb in (borrow, borrow_mut, update, clone, release, reclaim):
            with pytest.raises(BorrowError, match="neither an owner nor a borrow"):
                verb([1])
        with pytest.raises(BorrowError, match="neither"):
            release(store.proxy([1]))

    def test_release_ends_it_for_all_and_may_be_said_twice(self, store: Store) -> None:
        o = own(store, [1])
        release(o)
        release(o)
        with pytest.raises(BorrowError, match="was released"):
            o.append(2)
        with pytest.raises(BorrowError, match="was released"):
            borrow(o)
        with pytest.raises(BorrowError, match="was released"):
            pickle.dumps(o)

    def test_an_owner_who_is_collected_leaves_it_to_those_who_borrowed(self, store: Store) -> None:
        o = own(store, [1, 2])
        r, data, record = borrow(o), data_of(o), held(o).key
        del o
        assert until(lambda: decode(store.connector.get(Key.parse(record)).tobytes()).owner.holder is None)
        assert r == [1, 2]
        del r
        assert until(lambda: not store.exists(data) and not store.exists(record))

    def test_adopting(self, store: Store) -> None:
        key = store.put([1] * 5000, ttl=5)
        o = adopt(store.ref_from_key(key))
        assert o[0] == 1
        assert store.connector.stat(key).expires > 0  # type: ignore[union-attr]  # it is there
        release(o)
        assert not store.exists(key)
        with pytest.raises(KeyNotFound, match="adopted"):
            adopt(store.ref_from_key(key))
        with pytest.raises(ConfigurationError, match="reference"):
            adopt([1])

    def test_what_was_adopted_is_adopted_once(self, store: Store) -> None:
        key = store.put([1] * 5000, ttl=5)
        o = adopt(store.ref_from_key(key))
        for _ in range(2):
            with pytest.raises(BorrowError, match=r"Adopting .* it is owned already by this process \(\d+@.*\) since"):
                adopt(store.ref_from_key(key))
        r = borrow(o)
        assert r[0] == 1
        with pytest.raises(BorrowError, match="owned already"):
            adopt(store.ref_from_key(key.id), lease=0.01)
        assert store.connector.stat(key).expires > time.time() + 20, "who is refused does not shorten its life"
        del o, r
        gc.collect()
        assert until(lambda: not store.exists(key))
        with pytest.raises(KeyNotFound, match="adopted"):
            adopt(store.ref_from_key(key))

    def test_adopting_what_travels_inside(self, store: Store) -> None:
        o = adopt(store.proxy("small"))
        assert o == "small"
        assert lies(store, o)


class TestBorrowing:
    def test_one_borrower_too_many_is_refused_and_spoils_nothing(self, store: Store) -> None:
        o = own(store, [1])
        key = Key.parse(held(o).account.key)
        alone = store.connector.get(key)
        session = store.connector.put(Frames([b"of another machine"]), ttl=60)
        claim = Claim(str(session), 1 << 20, "1@elsewhere", 1e9)
        record = decode(alone.tobytes())
        size = len(encode(record._replace(shared=(claim, claim)))) - len(encode(record._replace(shared=(claim,))))
        room = (LARGEST - len(alone.tobytes())) // size - 1
        crowd = [claim._replace(number=(1 << 20) + number) for number in range(room)]
        rest = LARGEST - len(encode(record._replace(shared=tuple(crowd))))
        crowd[-1] = claim._replace(who=claim.who + "x" * (rest - 1))  # to the last byte: claims differ in length
        full = Frames([encode(record._replace(shared=tuple(crowd)))])
        assert LARGEST - 1 <= full.nbytes <= LARGEST
        assert store.connector.compare_and_set(key, alone, full, ttl=60)

        with pytest.raises(BorrowError, match="no room for more"):
            borrow(o, timeout=0)
        assert o == [1]
        assert store.evict(session)
        assert borrow(o) == [1]
        release(o)

    def test_a_borrow_of_a_borrow(self, store: Store) -> None:
        o = own(store, [1])
        r = borrow(borrow(o))
        assert r == [1]
        with pytest.raises(BorrowError, match=rf"is borrowed by this process \({os.getpid()}@"):
            borrow_mut(o, timeout=0)

    def test_only_the_owner_lends_mutably_and_only_seats_are_updated(self, store: Store) -> None:
        o = own(store, [1])
        r = borrow(o)
        with pytest.raises(BorrowError, match="only the owner"):
            borrow_mut(r)
        with pytest.raises(BorrowError, match="borrow_mut"):
            update(r)
        with pytest.raises(BorrowError, match="nothing to take back"):
            reclaim(r)
        release(r)
        m = borrow_mut(o)
        with pytest.raises(BorrowError, match="from the owner"):
            borrow(m)

    def test_borrows_of_one_process_share_a_claim(self, store: Store) -> None:
        o = own(store, [1])
        before = store.connector.stat(store.ref_from_key(held(o).key).key).nbytes  # type: ignore[arg-type, union-attr]
        readers = [borrow(o) for _ in range(100)]
        after = store.connector.stat(store.ref_from_key(held(o).key).key).nbytes  # type: ignore[arg-type, union-attr]
        assert after - before < 200
        for each in readers[1:]:
            release(each)
        with pytest.raises(BorrowError, match="borrowed"):
            borrow_mut(o, timeout=0)
        del each
        readers.clear()
        borrow_mut(o)

    def test_what_was_let_go_a_moment_ago_is_not_in_the_way(self, store: Store) -> None:
        o = own(store, [1])
        for _ in range(20):
            r = borrow(o)
            assert r == [1]
            del r
            m = borrow_mut(o, timeout=0)
            del m

    def test_a_mutable_borrow_is_a_private_copy_until_it_is_updated(self, store: Store) -> None:
        o = own(store, np.zeros(1000))
        m = borrow_mut(o)
        m[0] = 1.0
        release(m)
        assert o[0] == 0.0
        m = borrow_mut(o)
        m[0] = 2.0
        update(m)
        m[1] = 3.0
        update(m)
        release(m)
        assert list(o[:2]) == [2.0, 3.0]

    def test_an_owner_updates_what_nobody_borrows(self, store: Store) -> None:
        o = own(store, [1])
        old = data_of(o)
        o.append(2)
        update(o)
        assert borrow(o) == [1, 2]
        assert not store.exists(old)
        gc.collect()
        r = borrow(o)
        with pytest.raises(BorrowError, match="borrowed"):
            update(o)
        assert r == [1, 2]

    def test_waiting_for_a_borrow_to_end(self, store: Store) -> None:
        from threading import Timer

        o = own(store, [1])
        r = borrow(o)
        timer = Timer(0.1, release, [r])
        timer.start()
        m = borrow_mut(o, timeout=10)
        timer.join()
        assert m == [1]

    def test_a_borrow_that_arrives_after_an_update_is_stale(self, store: Store) -> None:
        o = own(store, [1])
        r = borrow(o)
        message = pickle.dumps(r)
        release(r)
        m = borrow_mut(o)
        m.append(2)
        update(m)
        release(m)
        with pytest.raises(BorrowError, match="updated since"):
            len(pickle.loads(message))

    def test_a_borrow_in_a_message_is_one_of_its_own(self, store: Store) -> None:
        o = own(store, [1])
        r = borrow(o)
        arrived = pickle.loads(pickle.dumps(r))
        release(r)
        assert arrived == [1]
        with pytest.raises(BorrowError, match="borrowed"):
            borrow_mut(o, timeout=0)
        release(arrived)
        borrow_mut(o)

    def test_prefetching(self) -> None:
        with Store("shm://") as store:
            o = own(store, list(range(10_000)))
            r = borrow(o)
            prefetch(r)
            assert r[9] == 9


class TestSending:
    def test_what_was_sent_is_taken_back_if_nobody_used_it(self, store: Store) -> None:
        o = own(store, [1])
        message = pickle.dumps(o)
        assert pickle.dumps(o) == message  # once more, as some pickle to try: the same message
        reclaim(o)
        assert o == [1]
        with pytest.raises(BorrowError, match="void"):
            len(pickle.loads(message))
        assert pickle.loads(pickle.dumps(o)) == [1]

    def test_who_only_passes_it_on_takes_nothing(self, store: Store) -> None:
        o = own(store, [1])
        courier = pickle.loads(pickle.dumps(o))
        again = pickle.dumps(courier)
        del courier
        gc.collect()
        assert pickle.loads(again) == [1]

    def test_what_is_borrowed_cannot_be_sent(self, store: Store) -> None:
        o = own(store, [1])
        m = borrow_mut(o)
        with pytest.raises(BorrowError, match="mutably borrowed"):
            pickle.dumps(o)
        assert m == [1]

    def test_a_mutable_borrow_moves_once_too(self, store: Store) -> None:
        o = own(store, [1])
        m = borrow_mut(o)
        message = pickle.dumps(m)
        with pytest.raises(BorrowError, match="was sent"):
            m.append(2)
        there = pickle.loads(message)
        there.append(3)
        update(there)
        with pytest.raises(BorrowError, match="already used"):
            len(pickle.loads(message))
        release(there)
        assert o == [1, 3]

    def test_inside_other_objects(self, store: Store) -> None:
        o = own(store, [1])
        twice = pickle.loads(pickle.dumps({"a": o, "b": [o]}))
        assert twice["a"] is twice["b"][0]
        assert twice["a"] == [1]

    def test_the_sender_keeps_it_alive(self) -> None:
        with Store("memory://") as store:
            o = own(store, [1], lease=1.5)
            message = pickle.dumps(o)
            data = data_of(o)
            del o
            gc.collect()
            assert not until(lambda: not store.exists(data), timeout=3.5)
            taken = pickle.loads(message)
            assert taken == [1]
            release(taken)


class TestCopies:
    def test_of_an_owner(self, store: Store) -> None:
        for touched in (False, True):
            o = own(store, np.arange(1000))
            if touched:
                o.sum()
            shallow, deep = copy.copy(o), copy.deepcopy(o)
            assert type(held(shallow)).__name__ == "Shared"
            assert type(held(deep)).__name__ == "Owner"
            assert held(shallow).key == held(o).key != held(deep).key
            assert shallow.sum() == deep.sum() == o.sum()
            del shallow
            release(o)
            assert deep.sum() == 499_500

    def test_of_a_borrow(self, store: Store) -> None:
        o = own(store, np.arange(1000))
        r = borrow(o)
        for made in (copy.copy(r), copy.deepcopy([r])[0]):
            assert type(held(made)).__name__ == "Shared"
            assert held(made).key == held(o).key
        release(r)
        assert made.sum() == 499_500

    def test_of_a_mutable_borrow(self, store: Store) -> None:
        o = own(store, [1])
        m = borrow_mut(o)
        with pytest.raises(BorrowError, match="one mutable borrow"):
            copy.copy(m)
        deep = copy.deepcopy(m)
        assert type(held(deep)).__name__ == "Owner"
        release(m)
        assert deep == o

    def test_of_a_scoped_borrow(self, store: Store) -> None:
        o = own(store, [1])
        r = borrow(o, scoped=True)
        arrived = pickle.loads(pickle.dumps(r))
        made = copy.deepcopy({"argument": arrived})["argument"]
        assert held(made).scoped
        assert made == [1]

    def test_clone_is_another_object(self, store: Store) -> None:
        o = own(store, [1])
        c, d = clone(o), clone(borrow(o))
        m = borrow_mut(c)
        m.append(2)
        update(m)
        release(m)
        assert (o, c, d) == ([1], [1, 2], [1])
        assert unwrap(c) == [1, 2]


class Future:
    """What `scope` needs of one."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []

    def add_done_callback(self, fn: Any) -> None:
        self.callbacks.append(fn)

    def end(self) -> None:
        for callback in self.callbacks:
            callback(self)


class TestScopes:
    def test_a_claim_lasts_until_the_future_is_done(self, store: Store) -> None:
        o = own(store, [1])
        data, future = data_of(o), Future()
        r = borrow(o, scoped=True)
        message = pickle.dumps(r)
        scope(future, r, o)
        del r, o
        gc.collect()
        for _ in range(3):  # a task, and its retries
            assert pickle.loads(message) == [1]
        future.end()
        assert until(lambda: not store.exists(data))
        with pytest.raises(BorrowError, match="task it was made for is done"):
            len(pickle.loads(message))

    def test_the_worker_claims_nothing(self, store: Store) -> None:
        o = own(store, [1])
        r = borrow(o, scoped=True)
        arrived = pickle.loads(pickle.dumps(r))
        assert arrived == [1]
        assert borrow(arrived) == [1]
        release(r)
        borrow_mut(o, timeout=0)
        assert arrived == [1]  # it was here already

    def test_what_was_sent_or_released_meanwhile_is_left_alone(self, store: Store) -> None:
        future, sent, released = Future(), own(store, [1]), own(store, [2])
        scope(future, sent, released)
        message = pickle.dumps(sent)
        release(released)
        future.end()
        assert pickle.loads(message) == [1]


class TestCost:
    def test_in_calls_to_the_place(self) -> None:
        place = FaultyConnector(MemoryConnector("ownership-cost"))
        store = Store(place, cache=0)
        first = own(store, [0])  # the first makes the session

        def calls(work: Any) -> tuple[int, Any]:
            before = sum(place.calls.values())
            result = work()
            return sum(place.calls.values()) - before - (place.calls["reserve"] - reserved.pop()), result

        def cost(work: Any) -> int:
            reserved.append(place.calls["reserve"])  # which is no round trip
            number, result = calls(work)
            kept.append(result)
            return number

        reserved: list[int] = []
        kept: list[Any] = []
        assert cost(lambda: own(store, [1])) == 2
        o = kept[-1]
        assert cost(lambda: list(o)) == 1
        assert cost(lambda: borrow(o)) == 1
        r = kept[-1]
        assert cost(lambda: borrow(o)) == 0
        assert cost(lambda: release(kept[-1])) == 0
        assert cost(lambda: release(r)) == 1
        assert cost(lambda: borrow_mut(o)) == 1
        m = kept[-1]
        assert cost(lambda: m.append(2)) == 1
        assert cost(lambda: update(m)) == 3
        assert cost(lambda: release(m)) == 1
        assert cost(lambda: release(o)) == 2
        release(first)
        store.close()
        place.close()


class TestMessages:
    def test_they_say_who_since_when_until_when_and_what_to_do(self, store: Store) -> None:
        import os
        import re

        o = own(store, [1])
        r = borrow(o)
        with pytest.raises(BorrowError) as caught:
            borrow_mut(o, timeout=0)
        said = str(caught.value)
        assert held(o).key in said
        assert store.url in said
        clock = r"\d\d:\d\d:\d\d UTC"
        who = rf"this process \({os.getpid()}@\S+\)"
        assert re.search(rf"borrowed by {who} since {clock} \(until {clock} unless it is renewed\)", said)
        assert "timeout=" in said
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
        assert r == [1]


class TestKeeping:
    def test_what_is_held_outlives_many_leases(self) -> None:
        with Store("memory://") as store:
            o = own(store, [1], lease=1.5)
            r = borrow(o)
            m = own(store, [2], lease=2.0)
            data = [data_of(o), data_of(m)]
            assert not until(lambda: not all(store.exists_many(data)), timeout=4.0)
            assert (o, r, m) == ([1], [1], [2])

    def test_a_damaged_record_harms_no_other(self) -> None:
        with Store("memory://") as store:
            broken, whole = own(store, [1], lease=1.5), own(store, [2], lease=1.5)
            key = Key.parse(held(broken).key)
            store.connector.put(Frames([b"PFO1 is not enough"]), key=key, replace=True)
            store.evict(data_of(broken))
            data = data_of(whole)
            assert not until(lambda: not store.exists(data), timeout=3.5)
            with pytest.raises(ProxyfabError):
                release(broken)
            assert whole == [2]

    def test_a_closed_store_is_opened_for_who_asks_and_visited_for_what_is_owed(self) -> None:
        with Store("shm://") as store:
            o, p = own(store, [1]), own(store, [2])
            url, keys = store.url, [data_of(o), data_of(p)]
        assert o == [1]
        release(o)
        del p
        with open_store(url) as again:
            assert until(lambda: not any(again.exists_many(keys)))

    def test_idle_sessions_end(self) -> None:
        with Store("memory://") as store:
            release(own(store, [1], lease=0.3))
            assert until(lambda: list(store.connector.scan()) == [], timeout=10)  # type: ignore[attr-defined]
            assert own(store, [1], lease=0.3) == [1]
