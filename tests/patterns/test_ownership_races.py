"""Ownership where threads, lost answers and damage meet: what each can break is set up by hand, at the worst moment."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from proxyfab import Key, Store
from proxyfab.buffers import Frames
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import BorrowError, ConnectorError
from proxyfab.patterns import borrow, own, reclaim, release, update
from proxyfab.patterns.ownership.book import Account, Book, Session
from proxyfab.patterns.ownership.protocol import ReadMany, Renew
from proxyfab.patterns.ownership.verbs import held
from proxyfab.testing import FaultyConnector, until
from proxyfab.wire.owned import Record, Seat, encode, keep, silence


@pytest.fixture
def place() -> Iterator[FaultyConnector]:
    made = FaultyConnector(MemoryConnector("ownership-races"))
    yield made
    made.mend()
    made.close()


@pytest.fixture
def store(place: FaultyConnector) -> Iterator[Store]:
    with Store(place, cache=0) as made:
        yield made


def together(*work: Callable[[], Any]) -> list[Any]:
    """What threads that begin at once answer, or raise."""
    answers: list[Any] = [None] * len(work)
    gate = threading.Barrier(len(work))

    def run(number: int) -> None:
        gate.wait(30)
        try:
            answers[number] = work[number]()
        except Exception as error:
            answers[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_threads_that_use_an_owner_first_take_it_once(store: Store, place: FaultyConnector) -> None:
    o = own(store, [1])
    data = held(o).account.data
    taken = pickle.loads(pickle.dumps(o))
    gate = place.hold("compare_and_set")
    work = [threading.Thread(target=held(taken).here, args=("Reading",)) for _ in range(4)]
    before = place.calls["compare_and_set"]
    for thread in work:
        thread.start()
    assert until(lambda: place.calls["compare_and_set"] > before)
    gate.set()
    for thread in work:
        thread.join(60)
    assert place.calls["compare_and_set"] == before + 1
    assert taken == [1]
    release(taken)
    assert not store.exists(data)


class Stall:
    """Something owed that takes as long as a test wants."""

    def __init__(self, keeper: Any) -> None:
        self.keeper = self
        self.begun, self.gate = threading.Event(), threading.Event()
        self._whose = keeper

    @contextmanager
    def visit(self) -> Iterator[Any]:
        self.begun.set()
        assert self.gate.wait(60)
        with self._whose.visit() as place:
            yield place


def test_a_claim_that_is_about_to_be_given_back_is_shared_no_more(store: Store) -> None:
    o = own(store, [1])
    keeper = held(o).account.keeper
    r = borrow(o)
    lent = held(r)._lent  # as another thread has it, that is about to join
    stall = Stall(keeper)
    keeper.drain.add([stall])
    assert stall.begun.wait(60)
    try:
        held(r).release_later()
        again = borrow(o)
    finally:
        stall.gate.set()
    assert keeper.drain.flush(60)
    assert not lent.live
    assert again == [1]


def test_a_damaged_record_keeps_nothing_else_from_being_released(store: Store, place: FaultyConnector) -> None:
    owners = [own(store, [number]) for number in range(10)]
    broken = held(owners[-1]).key  # a list lets go from its end
    data = [held(each).account.data for each in owners[:-1]]
    place.put(Frames([b"PFO1 is not enough"]), key=Key.parse(broken), replace=True)
    keeper = held(owners[0]).account.keeper
    stall = Stall(keeper)
    keeper.drain.add([stall])
    assert stall.begun.wait(60)
    owners.clear()  # all of them in one batch
    gc.collect()
    stall.gate.set()
    assert until(lambda: not any(store.exists_many(data)))
    assert until(lambda: not keeper.book.kept)


def test_what_many_owners_owe_is_done_in_few_calls(store: Store, place: FaultyConnector) -> None:
    """So the end of a process has time for ten thousand of them, although a server answers only so often."""
    owners = [own(store, [number]) for number in range(500)]
    lent = [borrow(each) for each in owners[:100]]  # given back with the rest, in whatever order
    keys = [key for each in owners for key in (held(each).key, held(each).account.data)]
    keeper = held(owners[0]).account.keeper
    stall = Stall(keeper)
    keeper.drain.add([stall])
    assert stall.begun.wait(60)
    before = place.calls.total()
    del owners, lent
    gc.collect()
    stall.gate.set()

    assert keeper.drain.flush(60)
    assert place.calls.total() - before <= 12
    assert not any(store.connector.exists_many([Key.parse(str(key)) for key in keys]))


class Slow(FaultyConnector):
    """Answers one thread late."""

    def __init__(self, child: Any) -> None:
        super().__init__(child)
        self.asked, self.gate = threading.Event(), threading.Event()

    def get(self, key: Key) -> Frames | None:
        if threading.current_thread().name == "late":
            self.asked.set()
            assert self.gate.wait(60)
        return super().get(key)


def test_an_update_whose_answer_is_lost_is_not_repeated_over_a_later_one() -> None:
    place = Slow(MemoryConnector("ownership-updates"))
    with Store(place, cache=0) as store:
        o = own(store, [0])
        place.fail("compare_and_set", done=True)
        late = threading.Thread(target=held(o).publish, args=([1],), name="late")
        late.start()
        assert place.asked.wait(60)
        later = threading.Thread(target=held(o).publish, args=([2],))
        later.start()
        later.join(0.3)  # it has to wait for the first
        place.gate.set()
        later.join(60)
        late.join(60)
        assert o == [2]
        release(o)
    place.close()


def test_who_lapsed_steals_nothing_by_reclaiming(store: Store, place: FaultyConnector) -> None:
    o = own(store, [1])
    mine = held(o)
    other = Seat(mine.claim._replace(session="another"), "", "ticket")
    store.connector.put(Frames([b"alive"]), key=Key("another"))
    record = Record(mine.account.data, 0, 2, mine.lease, other)
    place.put(Frames([encode(record)]), key=Key.parse(mine.key), replace=True)
    with pytest.raises(BorrowError):
        reclaim(o)
    assert place.get(Key.parse(mine.key)).tobytes() == encode(record)  # type: ignore[union-attr]  # it is there


def test_what_was_sent_anew_is_kept_although_an_older_record_lacks_it() -> None:
    book, session = Book(), Session("s", 10.0, 0.0, 1)
    book.sessions[10.0] = session
    account, claim = Account("r", 10.0), session.claim("1@here", 0.0)
    account.data = "d"
    assert book.hold(account, claim)
    book.let_go(account, claim, "first")
    tending = book.tend(session, 1.0)
    request = next(tending)
    assert isinstance(request, ReadMany)
    old = encode(Record("d", 0, 2, 10.0, Seat(claim)))  # reclaimed, while the answer is on its way ...
    book.hold(account, claim)
    book.stays(account, "first")
    book.let_go(account, claim, "second")  # ... and sent anew
    tending.send([old])
    assert account.ticket == "second"
    assert book.kept == {"r": account}


def test_nothing_is_held_under_a_session_that_ends_this_very_moment() -> None:
    book, session = Book(), Session("s", 10.0, 0.0, 1)
    book.sessions[10.0] = session
    lock, ends = book._lock, [book.tend(session, 1000.0)]

    class Late:
        """A lock that is got only when the session has ended."""

        def __enter__(self) -> None:
            while ends:
                list(ends.pop())
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    book._lock = Late()  # type: ignore[assignment]  # as good
    assert not book.hold(Account("r", 10.0), session.claim("1@here", 0.0))
    assert session.lost
    assert not book.kept


def test_a_session_in_doubt_is_not_replaced_while_things_are_held_under_it(store: Store) -> None:
    o = own(store, [1])
    keeper, session = held(o).account.keeper, held(o).session
    session.doubt(time.monotonic() + 1000)  # whatever is renewed until then does not end the doubt
    assert keeper.session(session.lease) is session
    session.doubted = 0.0
    assert o == [1]


def test_updates_and_borrows_by_many_threads(store: Store) -> None:
    o = own(store, [0])

    def work() -> None:
        for _ in range(30):
            r = borrow(o)
            assert r == [0]
            release(r)

    assert together(*[work] * 4) == [None] * 4
    update(o)
    release(o)


def test_a_session_is_renewed_last_and_only_when_all_that_is_held_was() -> None:
    book, session = Book(), Session("s", 10.0, 0.0, 1)
    book.sessions[10.0] = session
    account, claim = Account("r", 10.0), session.claim("1@here", 0.0)
    account.data = "d"
    assert book.hold(account, claim)
    broken = book.tend(session, 5.0)
    assert next(broken) == Renew(("r", "d"), keep(10.0))
    with pytest.raises(ConnectorError):
        broken.throw(ConnectorError("lost"))
    assert session.until == 10.0

    whole = book.tend(session, 6.0)
    next(whole)
    assert whole.send([True, True]) == Renew(("s",), silence(10.0))
    assert session.until == 10.0
    with pytest.raises(StopIteration):
        whole.send([True])
    assert session.until == 16.0
