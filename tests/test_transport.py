"""What a process put itself it gets back, whatever it received before, and whatever is under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from proxyfab import Key, Store
from proxyfab.buffers import Frames
from proxyfab.cache import ByteLRU
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import ConnectorError, IntegrityError, KeyExists
from proxyfab.testing.processes import at_once


class Far(MemoryConnector):
    """Memory behind a link; a `patient` get waits behind its look while `gate` is closed."""

    local = False

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.looked = threading.Event()
        self.patient = True

    def get(self, key: Key) -> Frames | None:
        found = super().get(key)
        self.looked.set()
        if self.patient:
            self.gate.wait(10)
        return found


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(Far(), inline_below=0) as store:
        yield store


@pytest.mark.parametrize("many", [False, True])
def test_a_put_where_another_process_has_evicted_is_what_a_get_finds(store: Store, many: bool) -> None:
    """Not what was received before."""
    key = store.put(b"old", key="one")
    assert store.get(key) == b"old"
    store.connector.evict(key)  # by another process: this one's cache does not know
    if many:
        store.put_many([b"new"], keys=[key])
    else:
        store.put(b"new", key=key)
    assert store.get(key) == b"new"


def test_a_get_after_a_put_does_not_join_a_fetch_that_found_nothing(store: Store) -> None:
    """It began before."""
    connector = store.connector
    connector.gate.clear()
    found = []
    early = threading.Thread(target=lambda: found.append(store.get("one")))
    early.start()
    assert connector.looked.wait(10)
    store.put(b"there", key="one")
    connector.patient = False
    assert store.get("one") == b"there"
    connector.gate.set()
    early.join(10)
    assert found == [None]


def test_what_was_handed_out_under_a_key_that_is_put_anew_is_stored_again(store: Store) -> None:
    """A key that was drawn for one object and given to another is not the first one's any more."""
    array = bytearray(range(256)) * 100
    ref = store.ref(array)
    assert ref.key is not None
    store.connector.evict(ref.key)
    store.put(b"something else", key=ref.key)
    assert store.ref(array)() == array


class Slow(ByteLRU):
    """Runs `behind` as soon as something was put, before whoever put it goes on."""

    behind = staticmethod(lambda: None)

    def put(self, *arguments, **options):
        super().put(*arguments, **options)
        self.behind()


def test_what_a_fetch_from_before_an_evict_brings_is_never_to_be_had(store: Store) -> None:
    """Not for an instant: another thread may look just then."""
    store.put(b"old", key="one")
    transport, connector = store._transport, store.connector
    cache = transport._cache = Slow(1 << 20, lambda _: 1)
    seen = []
    cache.behind = lambda: seen.append(cache.get("one"))
    connector.gate.clear()
    early = threading.Thread(target=lambda: store.get("one"))
    early.start()
    assert connector.looked.wait(10)
    store.evict("one")
    connector.gate.set()
    early.join(10)
    assert seen == [None]


def test_no_thread_gets_what_was_replaced_before_it_asked(store: Store) -> None:
    """While others fetch the same."""
    store.put(0, key="count")
    wrong: list[tuple[int, int]] = []
    done = [0]

    def read() -> None:
        while done[0] < 400:
            least = done[0]
            got = store.get("count")
            if got < least:
                wrong.append((least, got))

    def write() -> None:
        for number in range(1, 401):
            store.put(number, key="count", replace=True)
            done[0] = number

    at_once([read, read, read, write])
    assert wrong == []


class Native(MemoryConnector):
    """As across a network, with coroutines of its own; says which threads ran them."""

    local = False

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.together = self.most = 0

    async def aget(self, key: Key) -> Frames | None:
        self.threads.add(threading.get_ident())
        self.together += 1
        self.most = max(self.most, self.together)
        await asyncio.sleep(0)
        self.together -= 1
        return self.get(key)

    async def aput(
        self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False
    ) -> Key:
        self.threads.add(threading.get_ident())
        await asyncio.sleep(0)
        return self.put(frames, key=key, ttl=ttl, replace=replace)


def test_a_connector_with_coroutines_is_asked_by_them() -> None:
    """In the loop's own thread, any number at a time; with all that a store promises."""

    async def use(store: Store, connector: Native) -> None:
        keys = await asyncio.gather(*(store.aput([number]) for number in range(200)))
        assert await asyncio.gather(*(store.aget(key) for key in keys)) == [[number] for number in range(200)]
        assert connector.threads == {threading.get_ident()}
        assert connector.most == 200

        large = await store.aput(bytes(1_000_000), key="large", ttl=100)
        assert await store.aget(large) == await store.aget("large") == bytes(1_000_000)
        with pytest.raises(KeyExists):
            await store.aput("other", key="large")
        await store.aput("other", key="large", replace=True)
        assert await store.aget("large") == "other"
        assert await store.aget("never", "gone") == "gone"
        assert store.stats()["get"]["count"] == 204
        assert store.stats()["put"]["errors"] == 1

    connector = Native()
    with Store(connector, cache=0) as store:
        asyncio.run(use(store, connector))
        store.clear()


def test_what_coroutines_brought_is_kept_and_verified() -> None:
    connector = Native()
    with Store(connector) as store:
        key = asyncio.run(store.aput([1, 2]))
        assert asyncio.run(store.aget(key)) == [1, 2]
        before = store.stats()["get"]["count"]
        assert asyncio.run(store.aget(key)) == store.get(key) == [1, 2]
        assert store.stats()["get"]["count"] == before
        connector.put(Frames([b"no payload at all"]), key=key, replace=True)
        with Store(connector, cache=0) as other, pytest.raises(IntegrityError, match="cannot be read"):
            asyncio.run(other.aget(key))
        store.close()
        with pytest.raises(ConnectorError, match="closed"):
            asyncio.run(store.aget(key))
    connector.clear()
    connector.close()
