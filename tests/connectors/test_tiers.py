"""tiers:// passes the suite; and what is its own: copies nearby, their limits, what is not copied, writing back."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.tiers import TieredConnector
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.layers.retry import RetryLayer
from proxyfab.testing import ConnectorTests, FaultyConnector, in_fork, until
from proxyfab.testing.content import signed
from proxyfab.testing.processes import run

Trio = tuple[FaultyConnector, FaultyConnector, FaultyConnector]


class TestTiers(ConnectorTests):
    """Copies in shared memory, home in files."""

    connector = TieredConnector
    around = True
    reads_neighbours = False  # it does, but its own copies outlive an evict through a neighbour
    recovers = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory / "shm"))
        return f"tiers://?to=shm://;limit=2MB&to=file://{directory}/home"


@pytest.fixture
def links(tmp_path: Path) -> Trio:
    return (
        FaultyConnector(MemoryConnector()),
        FaultyConnector(MemoryConnector()),
        FaultyConnector(FileConnector(tmp_path)),
    )


@pytest.fixture
def one(links: Trio) -> Iterator[TieredConnector]:
    with TieredConnector([(links[0], "10 KB"), (links[1], "100 KB")], links[2]) as one:
        yield one
        one.clear()


def lies(links: Trio, key: Key) -> str:
    return "".join(name for name, link in zip("abh", links, strict=True) if link.child.exists(Key(key.id)))


def test_the_nearest_answers_and_the_others_are_not_asked(one: TieredConnector, links: Trio) -> None:
    key = one.put(signed(1000))
    assert lies(links, key) == "abh"
    assert one.get(key) == signed(1000)
    assert one.get_range(key, 5, 10) == signed(1000).slice(5, 10)

    assert (links[0].calls["get_many"], links[1].calls["get_many"], links[2].calls["get_many"]) == (1, 0, 0)
    assert (links[1].calls["get_range"], links[2].calls["get_range"]) == (0, 0)


def test_a_miss_copies_up(one: TieredConnector, links: Trio) -> None:
    key = one.put(signed(1000))
    links[0].child.clear()
    assert one.get(key) == signed(1000)
    assert lies(links, key) == "abh"
    links[0].child.clear()
    links[1].child.clear()
    assert one.get_many([key, Key("f" * 32)]) == [signed(1000), None]
    assert lies(links, key) == "abh"


def test_a_near_tier_keeps_its_limit(one: TieredConnector, links: Trio) -> None:
    keys = [one.put(signed(4000, seed)) for seed in range(5)]
    large = one.put(signed(50_000))

    assert [lies(links, key) for key in keys] == ["bh", "bh", "bh", "abh", "abh"]
    assert lies(links, large) == "bh"
    assert one.get(keys[0]) == signed(4000, 0)
    assert [lies(links, key) for key in keys] == ["abh", "bh", "bh", "bh", "abh"]


def test_what_people_named_is_read_at_home(one: TieredConnector, links: Trio) -> None:
    key = one.put(signed(100), key=Key("named"))
    assert lies(links, key) == "h"
    assert one.get(key) == signed(100)
    links[2].child.put(signed(200), key=Key("named"), replace=True)
    assert one.get(key) == signed(200)
    assert lies(links, key) == "h"


def test_evict_replace_and_renew_reach_every_tier(one: TieredConnector, links: Trio) -> None:
    key = one.put(signed(100))
    assert one.put(signed(200), key=key, replace=True) == key
    assert one.get(key) == signed(200)
    assert one.compare_and_set(key, signed(200), signed(300))
    assert one.get(key) == signed(300)
    assert one.renew(key, 0.05)
    assert until(lambda: one.get(key) is None)
    gone = one.put(signed(100))
    assert one.evict(gone)
    assert lies(links, gone) == ""
    assert one.get(gone) is None


def test_a_copy_does_not_outlive_its_object(one: TieredConnector, links: Trio) -> None:
    key = one.put(signed(100), ttl=0.1)
    assert until(lambda: lies(links, key) == "")
    long = one.put(signed(100), ttl=1000)
    links[0].child.clear()
    one.get(long)
    stat = links[0].child.stat(Key(long.id))
    assert stat.expires is not None


class Late(MemoryConnector):
    """Stands still before each put."""

    def put(self, *args: Any, **options: Any) -> Key:
        began = time.time()
        assert until(lambda: time.time() > began + 0.05)
        return super().put(*args, **options)


def test_a_copy_that_was_made_slowly_ends_no_later(tmp_path: Path) -> None:
    near = Late()
    with TieredConnector([(near, "10 KB")], FileConnector(tmp_path)) as one:
        key = one.put(signed(100), ttl=1000)
        home = one.stat(key)
        copy = near.stat(Key(key.id))
        assert home is not None
        assert copy is None or copy.expires <= home.expires
        assert one.get(key) == signed(100)


def test_what_was_written_back_slowly_ends_no_later_and_is_not_lost(tmp_path: Path) -> None:
    near = Late()
    with TieredConnector([(near, "10 KB")], FileConnector(tmp_path), write="back") as one:
        until_then = time.time() + 1000.1
        key = one.put(signed(100), ttl=1000)
        one.flush()
        copy = near.stat(Key(key.id))
        assert copy is None or copy.expires <= until_then
        assert one.get(key) == signed(100)


def test_what_is_evicted_while_it_is_copied_is_not_left(one: TieredConnector, links: Trio) -> None:
    key = one.put(signed(100))
    links[0].child.clear()
    links[1].child.clear()
    put = links[1].child.put

    def evict_first(*args: object, **options: object) -> object:
        links[2].child.evict(key)
        return put(*args, **options)

    links[1].child.put = evict_first
    assert one.get(key) == signed(100)
    assert lies(links, key) == ""


def test_what_is_replaced_while_it_is_read_leaves_no_old_copy(one: TieredConnector, links: Trio) -> None:
    """Home had the old one when it was asked, and the new one when the copy was made."""
    for tier in (0, 2):  # read from the copy in the second tier, and from home
        key = one.put(signed(100))
        for link in links[: 1 if tier == 0 else 2]:
            link.child.clear()
        place = links[1] if tier == 0 else links[2]
        get_many = place.child.get_many

        def replace_then(keys: list[Key], get_many: Any = get_many, place: Any = place, key: Key = key) -> Any:
            found = get_many(keys)
            place.child.get_many = get_many
            one.put(signed(200), key=key, replace=True)
            return found

        place.child.get_many = replace_then
        assert one.get(key) == signed(100)
        assert one.get(key) == signed(200)


def test_a_lost_answer_leaves_no_old_copy(one: TieredConnector, links: Trio) -> None:
    """Nobody knows whether the object changed; the copies go."""
    for change in (
        lambda key: one.put(signed(200), key=key, replace=True),
        lambda key: one.evict(key),
        lambda key: one.compare_and_set(key, signed(100), signed(200)),
    ):
        key = one.put(signed(100))
        links[2].fail("any", done=True)
        with pytest.raises(ConnectorError):
            change(key)
        links[2].mend()
        assert one.get(key) != signed(100)


def test_what_is_no_copy_does_not_go_to_make_room(links: Trio) -> None:
    """An object without an end, in a namespace that was named for copies: another process's, on its way home."""
    links[0].child.put(signed(6000), key=Key("a" * 32))
    with TieredConnector([(links[0], "10 KB")], links[2]) as one:
        key = one.put(signed(6000))
        assert lies(links, key) == "h"
        assert one.get(key) == signed(6000)
        assert links[0].child.exists(Key("a" * 32))
        assert "a" in lies(links, one.put(signed(3000)))
        one.clear()


def test_home_that_cannot_be_reached_costs_no_copy(one: TieredConnector, links: Trio) -> None:
    """What lies in the second tier is enough."""
    key = one.put(signed(100))
    links[0].child.clear()
    links[2].fail("any", times=1000)
    assert one.get(key) == signed(100)
    links[2].mend()


def test_near_tiers_that_fail_cost_no_answer(one: TieredConnector, links: Trio) -> None:
    for link in links[:2]:
        link.fail("any", times=1000)
    key = one.put(signed(100))
    assert one.get(key) == signed(100)
    with pytest.raises(ConnectorError):  # a copy that may still be there would be read
        one.evict(key)
    for link in links[:2]:
        link.mend()
    assert not one.evict(key)


def test_processes_share_the_copies_of_a_machine(tmp_path: Path) -> None:
    url = f"tiers://?to=shm://;limit=1MB&to=file://{tmp_path}"
    with TieredConnector.from_url(url) as one:
        key = run(_put, one.spec)
        assert one.near[0].child.exists(Key(key.id))
        assert one.get(key) == signed(1000)
        assert pickle.loads(pickle.dumps(one)).spec == one.spec
        assert one.clear() == 1


def _put(talk: object, spec: str) -> Key:
    return TieredConnector.from_url(spec).put(signed(1000))


def test_writing_back(links: Trio) -> None:
    with TieredConnector([(links[0], "10 KB"), (links[1], "100 KB")], links[2], write="back") as one:
        gate = links[2].hold("put")
        key = one.put(signed(1000), ttl=1000)
        assert lies(links, key) == "b"
        assert one.get(key) == signed(1000)
        gate.set()
        one.flush(20)
        assert "h" in lies(links, key)
        assert one.exists(key)
        assert one.home.stat(key).expires is not None
        keys = one.put_many([signed(100), signed(200)])
        assert one.exists_many(keys) == [True, True]
        assert one.evict_many(keys) == [True, True]
        assert one.clear() == 1


def test_what_is_sealed_or_retried_is_written_back_too(
    links: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer draws the key, and nobody else knows it."""
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    Keyring().make("symmetric", "lab")
    one = TieredConnector([(links[1], "100 KB")], links[2], write="back")
    with Store(RetryLayer(one), seal="encrypt:lab", cache=0, inline_below=0) as store:
        gate = links[2].hold("put")
        keys = [store.put("one"), *store.put_many(["two", "three"])]
        assert [lies(links, key) for key in keys] == ["b"] * 3
        assert store.get_many(keys) == ["one", "two", "three"]
        gate.set()
        one.flush(20)
        assert [lies(links, key) for key in keys] == ["bh"] * 3
        assert store.clear() == 3
    one.close()


def test_what_was_put_before_home_knew_its_name_is_read_nearby(links: Trio) -> None:
    """A directory learns its mark by the first operation there, and keys that were drawn before go without."""
    with TieredConnector([(links[1], "100 KB")], links[2], write="back") as one:
        gate = links[2].hold("put")
        key = one.put(signed(1000))
        links[2].child.put(signed(10))
        assert one.reserve().where != key.where
        assert one.get(key) == signed(1000)
        gate.set()
        one.flush(20)
        assert one.clear() == 2


def test_a_finalizer_may_evict_what_its_thread_is_bringing_home(links: Trio) -> None:
    """It neither waits for itself, nor does the object come home behind it."""
    with TieredConnector([(links[1], "100 KB")], links[2], write="back") as one:
        put, gone = links[2].put, []

        def put_and_end(frames: Frames, *, key: Key, **options: Any) -> Key:
            gone.append(one.evict(key))
            return put(frames, key=key, **options)

        links[2].put = put_and_end  # type: ignore[method-assign]  # where the collector may end an owner
        key = one.put(signed(1000))
        one.flush(20)
        assert gone == [False]
        assert one.get(key) is None
        assert lies(links, key) == ""


def test_what_does_not_come_home_is_told_and_kept(links: Trio) -> None:
    one = TieredConnector([(links[1], "10 KB")], links[2], write="back")
    links[2].fail("put", lambda: CapacityError("full, as the test wanted"), times=1000)
    key = one.put(signed(6000))
    with pytest.raises(ConnectorError, match="as the test wanted"):
        one.flush(20)
    assert one.get(key) == signed(6000)
    links[2].mend()
    other = one.put(signed(6000, 1))  # what is not home yet does not make room
    assert lies((links[0], links[1], links[2]), other) == "h"
    links[2].fail("put", lambda: CapacityError("full again"), times=1000)
    one.put(signed(100))
    with pytest.raises(ConnectorError, match="full again"):
        one.close()
    with pytest.raises(ConnectorError, match="closed"):
        one.get(key)
    with TieredConnector.from_url(f"tiers://?to={links[2].spec}") as home:
        assert home.clear() == 1


def test_what_did_not_come_home_is_tried_again(links: Trio) -> None:
    """By the next flush, until it has come; also where only the answer was lost, or the tier could not be read."""
    one = TieredConnector([(links[1], "10 KB")], links[2], write="back")
    for place, operation, done in ((2, "put", False), (2, "put", True), (1, "get_many", False)):
        links[place].fail(operation, times=1000, done=done)
        key = one.put(signed(100))
        if done:  # told, unless it was found at home by then
            with contextlib.suppress(ConnectorError):
                one.flush(20)
        for _ in range(0 if done else 2):
            with pytest.raises(ConnectorError, match="Not all"):
                one.flush(20)
        links[place].mend()
        one.flush(20)
        assert lies(links, key) == "bh"
        one.flush(20)
    links[2].fail("put", times=1000)
    gone = one.put(signed(100))
    with pytest.raises(ConnectorError, match="Not all"):
        one.flush(20)
    one.evict(Key(gone.id))
    one.flush(20)
    one.put(signed(100))
    assert one.clear() == 3  # what is still on its way needs not come home first
    one.close()


def test_a_fork_does_not_wait_for_its_parent(links: Trio) -> None:
    with TieredConnector([(links[1], "10 KB")], links[2], write="back") as one:
        gate = links[2].hold("put")
        key = one.put(signed(1000))
        assert in_fork(lambda: one.get(key) == signed(1000) and not one.exists(key))
        gate.set()
        one.flush(20)
        assert one.clear() == 1


@pytest.mark.parametrize(
    "url",
    [
        "tiers://",
        "tiers://?to=memory://;limit=5",
        "tiers://?to=memory://;limit=much&to=memory://x",
        "tiers://?to=memory://;above=5&to=memory://x",
        "tiers://?to=memory://x&to=memory://x",
        "tiers://?to=memory://x&write=back",
        "tiers://?to=memory://x&write=down",
        "tiers://?to=memory://x&keep=long",
        "tiers://?to=memory://x&keep=-1",
        "tiers://?to=memory://x&keep=1&keep=2",
    ],
)
def test_what_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        TieredConnector.from_url(url)


def test_a_tier_that_cannot_list_is_refused() -> None:
    class Blind(MemoryConnector):
        scan = None  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match="list"):
        TieredConnector([(Blind(), 5)], MemoryConnector())


def test_an_empty_batch(one: TieredConnector) -> None:
    assert one.get_many([]) == one.evict_many([]) == one.put_many([]) == []
    assert one.put_many([Frames()])[0].id


def test_a_finalizer_in_the_book_of_copies_waits_for_nobody(links: Trio) -> None:
    """Garbage collection may end an owner there; who brings the object home needs the book, too."""

    def evict_in_the_book() -> str:
        with TieredConnector([(links[1], "100 KB")], links[2], write="back") as one:
            book = one.near[-1]._book()
            with book._lock:  # which is reentrant, so that a finalizer may come where it is held
                key = one.put(signed(1000, 1))
                one.stat(key)  # nor does who only asks
                one.evict(key)
            one.flush()
            return f"{lies(links, key)}{one.get(key)}{len(book.fast)}"

    assert in_fork(evict_in_the_book, timeout=20) == "None0"
