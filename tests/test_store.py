"""Store: what it promises over any connector, here over memory and shared memory."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import proxyfab.store as store_module
from proxyfab import Key, Store, is_proxy, is_resolved, open_store, prefetch, ref_of, resolve, trace, unwrap
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import ConfigurationError, ConnectorError, KeyExists, KeyNotFound, ResolveTimeout
from proxyfab.proxy import Proxy


class Far(MemoryConnector):
    """Memory behind a link: each get takes `delay` seconds and is counted."""

    local = False

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__()
        self.delay = delay
        self.gets = 0

    def get(self, key: Key) -> Frames | None:
        self.gets += 1
        time.sleep(self.delay)
        return super().get(key)


@pytest.fixture(params=["memory://", "shm://"])
def store(request):
    with Store(request.param, inline_below=0) as store:
        yield store
        open_store(store.url).clear()


def test_put_get_exists_evict(store):
    """An object comes back equal, and is gone after evict."""
    key = store.put({"a": [1, 2]})
    assert store.get(key) == {"a": [1, 2]}
    assert store.exists(key)
    assert store.evict(key)
    assert not store.evict(key)
    assert not store.exists(key)
    assert store.get(key, default=7) == 7


def test_each_get_is_an_object_of_its_own(store):
    """Changing what one get returned changes nothing for the next."""
    key = store.put([1])
    store.get(key).append(2)
    assert store.get(key) == [1]


def test_written_once(store):
    """A second put under a key needs replace=True."""
    key = store.reserve()
    key = store.put(1, key=key)
    with pytest.raises(KeyExists, match=key.id):
        store.put(2, key=key)
    store.put(2, key=key, replace=True)
    assert store.get(key) == 2


def test_batches_keep_order_and_places(store):
    """put_many, get_many, exists_many and evict_many answer in the order of their arguments."""
    keys = store.put_many([0, None, "two"])
    assert store.get_many([*keys, store.reserve()], default="none") == [0, None, "two", "none"]
    assert store.evict_many(keys[:1]) == [True]
    assert store.exists_many(keys) == [False, True, True]
    assert store.put_many([]) == []


def test_arrays_come_back_read_only(store):
    """Like Ray's; unwrap(p, writable=True) is the private copy."""
    array = store.get(store.put(np.arange(10)))
    assert not array.flags.writeable
    proxy = store.proxy(np.arange(10))
    unwrap(proxy, writable=True)[0] = 5
    assert proxy[0] == 0


def test_singletons_come_back_as_they_are(store):
    """None, True and False are compared by identity, so they are never disguised."""
    for value in (None, True, False, ..., NotImplemented):
        assert store.proxy(value) is value
    assert store.proxy_many([None, 3])[0] is None


def test_same_object_is_stored_once(store):
    """Handed out twice, stored once; changed in between, stored anew."""
    array = np.arange(1000)
    first, second = store.ref(array), store.ref(array)
    assert first.key == second.key
    array[0] = 9
    third = store.ref(array)
    assert third.key != first.key
    assert third.resolve()[0] == 9
    assert first.resolve()[0] == 0
    assert store.ref(array, once=True).key != third.key


def test_replaced_objects_are_not_handed_out_as_the_same_object(store):
    """Somebody put something else under the key of an object that was handed out."""
    table = list(range(100))
    ref = store.ref(table)
    assert store.ref(table) == ref
    store.put("something else", key=ref.key, replace=True)
    assert store.ref(table)() == table
    store.put_many(["something else"], keys=[store.ref(table).key], replace=True)
    assert store.ref(table)() == table


def test_batches_store_the_same_object_once(store):
    """Within the batch, and if it was handed out before."""
    before, new = list(range(100)), list(range(200))
    ref = store.ref(before)
    proxies = store.proxy_many([before, new, 7, new])
    assert ref_of(proxies[0]) == ref
    assert ref_of(proxies[1]) == ref_of(proxies[3])
    assert [unwrap(proxy) for proxy in proxies] == [before, new, 7, new]
    once = store.proxy_many([new, new], once=True)
    assert ref_of(once[0]) != ref_of(once[1]) != ref_of(proxies[1])


def test_same_object_after_evict_is_stored_again(store):
    """A key that was evicted is not handed out again."""
    data = b"x" * 5000
    first = store.ref(data)
    first.evict()
    assert store.ref(data).resolve() == data


def test_mutated_and_sent_on_goes_as_a_new_object(store):
    """The receiver sees what the sender sees; who holds the old reference still sees the old value."""
    proxy = store.proxy([1, 2])
    proxy.append(3)
    sent = pickle.loads(pickle.dumps(proxy))
    assert sent == [1, 2, 3]
    assert ref_of(sent).key != ref_of(proxy).key
    assert ref_of(pickle.loads(pickle.dumps(proxy))).key == ref_of(sent).key
    assert ref_of(proxy).resolve() == [1, 2]


def test_unchanged_and_sent_on_stays_the_same_object(store):
    """Using a proxy does not store its object again."""
    proxy = store.proxy({"a": 1, "b": [2]})
    assert proxy["a"] == 1
    assert ref_of(pickle.loads(pickle.dumps(proxy))).key == ref_of(proxy).key


def test_inline_mutated_and_sent_on():
    """Small objects inside their reference obey the same rule."""
    with Store("memory://") as store:
        proxy = store.proxy([1])
        assert ref_of(proxy).key is None
        proxy.append(2)
        assert pickle.loads(pickle.dumps(proxy)) == [1, 2]


def test_a_changed_proxy_put_again_is_what_it_is_now(store):
    """store.ref(proxy) must not hand out the old value, nor store an unchanged one anew."""
    proxy = store.proxy([1, 2])
    lazy = ref_of(proxy)
    assert store.ref(proxy) is lazy
    assert not is_resolved(proxy)
    assert proxy[0] == 1
    assert store.ref(proxy) is lazy
    proxy.append(3)
    assert store.ref(proxy)() == [1, 2, 3]
    assert store.ref(Proxy(lambda: [4]))() == [4]


def test_once_is_released_on_acknowledge_not_on_fetch(store):
    """A task that failed finds its input again."""
    ref = store.ref([1, 2, 3], once=True)
    with pytest.raises(ZeroDivisionError), ref as value:
        value.append(1 / 0)
    with ref as value:
        assert value == [1, 2, 3]
    assert not ref.exists()
    with pytest.raises(KeyNotFound, match=ref.key.id):
        ref.resolve()


def test_ref_pickles_and_finds_the_live_store(store):
    """Unpickled here, a Ref uses the very store it came from."""
    ref = pickle.loads(pickle.dumps(store.ref([1])))
    assert ref.store is store
    assert ref.resolve() == [1]
    assert pickle.loads(pickle.dumps(store)) is store
    assert open_store(store.url) is store


def test_evicted_object_says_where_it_was_missed(store):
    """The error names key and store."""
    proxy = store.proxy([1, 2])
    ref_of(proxy).evict()
    with pytest.raises(KeyNotFound, match=ref_of(proxy).key.id):
        len(proxy)
    assert not is_resolved(proxy)


def test_failed_resolve_is_not_sticky(store):
    """Once the object is there, the same proxy resolves."""
    key = store.reserve()
    proxy = store.proxy_from_key(key)
    with pytest.raises(KeyNotFound):
        resolve(proxy)
    store.put("late", key=key)
    assert proxy == "late"


def test_eight_threads_eight_objects_one_round_trip():
    """No lock is held during I/O: 8 gets over a link of 250 ms take about that, not 2 s."""
    with Store(Far(0.25), inline_below=0) as store:
        keys = [store.put(i) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(str, range(8)))
            start = time.monotonic()
            assert list(pool.map(store.get, keys)) == list(range(8))
        assert time.monotonic() - start < 1.5


def test_eight_threads_one_proxy_one_fetch():
    """Everybody gets the one result."""
    far = Far(0.05)
    with Store(far, inline_below=0) as store:
        proxy = store.proxy([1, 2, 3])
        barrier = threading.Barrier(8)

        def touch(_):
            barrier.wait()
            return sum(proxy)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(touch, range(8))) == [6] * 8
    assert far.gets == 1


def test_eight_threads_one_key_one_fetch():
    """Single flight per key, an object of its own for each."""
    far = Far(0.05)
    with Store(far, inline_below=0) as store:
        key = store.put([1])
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: store.get(key), range(8)))
    assert far.gets == 1
    assert len({id(obj) for obj in found}) == 8


def test_cache_is_bounded_and_can_be_off():
    """Received bytes are kept up to the bound."""
    far = Far()
    with Store(far, inline_below=0) as store:
        key = store.put("x" * 100)
        assert store.get(key) == store.get(key)
        assert far.gets == 1
        store.evict(key)
        assert store.get(key) is None
    far = Far()
    with Store(far, inline_below=0, cache=0) as store:
        key = store.put("x" * 100)
        store.get_many([key, key])
        assert store.get(key) == store.get(key)
        assert far.gets == 3


def test_the_cache_knows_an_object_by_any_form_of_its_key():
    """With or without the locator: what was replaced or evicted here is not answered from the cache."""
    with Store(Far()) as store:
        key = store.put("old", key="calibration")
        assert store.get(key) == store.get("calibration") == "old"
        store.put("new", key="calibration", replace=True)
        assert store.get_many([key, "calibration"]) == ["new", "new"]
        assert store.get(key) == "new"
        store.evict("calibration")
        assert store.get(key) is None
        assert store.get("calibration") is None


def test_a_get_after_an_evict_does_not_join_a_fetch_from_before():
    """Nor is what that fetch brings kept."""
    far = Stuck()
    with Store(far) as store:
        key = store.put("here")
        early = threading.Thread(target=store.get, args=(key,))
        early.start()
        assert far.reading.wait(20)
        store.evict(key)
        far.stuck = False
        assert store.get(key) is None
        far.go.set()
        early.join(20)
        assert store.get(key) is None


class Stuck(MemoryConnector):
    """Reads, and then delivers late."""

    local = False

    def __init__(self) -> None:
        super().__init__()
        self.stuck, self.reading, self.go = True, threading.Event(), threading.Event()

    def get(self, key: Key) -> Frames | None:
        frames = super().get(key)
        if self.stuck:
            self.reading.set()
            assert self.go.wait(20)
        return frames


def test_exists_asks_the_connector():
    """A cached object that was evicted elsewhere does not exist."""
    far = Far()
    with Store(far, inline_below=0) as store:
        key = store.put([1])
        store.get(key)
        far.evict(key)
        assert not store.exists(key)


def test_prefetch_moves_bytes_once():
    """What prefetch has moved is not fetched again at first use."""
    far = Far(0.4)
    with Store(far, inline_below=0, cache=0) as store:
        proxies = [store.proxy([i]) for i in range(4)]
        start = time.monotonic()
        prefetch(*proxies)
        assert [p[0] for p in proxies] == [0, 1, 2, 3]
        assert time.monotonic() - start < 1.2
    assert far.gets == 4


def test_resolve_with_a_deadline():
    """A slow link ends in ResolveTimeout, and the proxy can be asked again."""
    with Store(Far(0.3), inline_below=0) as store:
        proxy = store.proxy([1])
        with pytest.raises(ResolveTimeout, match=r"0\.01 s"):
            resolve(proxy, timeout=0.01)
        assert resolve(proxy, timeout=10) == [1]


def test_attempts_with_a_deadline_do_not_pile_up():
    """Whoever tries again waits for the fetch that is under way; its bytes are used when they come."""
    far = Stuck()
    with Store(far, inline_below=0) as store:
        proxy = store.proxy([1, 2])
        before = threading.active_count()
        for _ in range(20):
            with pytest.raises(ResolveTimeout):
                resolve(proxy, timeout=0.001)
        assert threading.active_count() <= before + 1
        far.go.set()
        assert resolve(proxy, timeout=20) == [1, 2]


def test_coroutines(store):
    """aput, aget, aproxy, aevict and await ref."""

    async def work():
        key = await store.aput([1, 2])
        assert await store.aget(key) == [1, 2]
        proxy = await store.aproxy([3])
        assert await ref_of(proxy) == [3]
        assert await store.aevict(key)
        return await store.aget(key, "gone")

    assert asyncio.run(work()) == "gone"


def test_await_does_not_block_the_loop():
    """Eight awaited refs over a link of 250 ms take about that, not 2 s."""
    with Store(Far(0.25), inline_below=0) as store:
        refs = [store.ref([i]) for i in range(8)]

        async def work():
            return await asyncio.gather(*refs)

        start = time.monotonic()
        assert asyncio.run(work()) == [[i] for i in range(8)]
        assert time.monotonic() - start < 1.5


def test_put_of_a_proxy_stores_its_target(store):
    """And a proxy of a proxy is the proxy."""
    proxy = store.proxy([1])
    key = store.put(proxy)
    assert type(store.get(key)) is list
    assert store.proxy(proxy) is proxy
    assert store.ref(proxy) is ref_of(proxy)


def test_proxy_many(store):
    """One batch, order kept, small and large mixed."""
    proxies = store.proxy_many([b"x" * 10_000, None, "s"])
    assert [unwrap(p) for p in proxies] == [b"x" * 10_000, None, "s"]
    assert is_proxy(proxies[0])


def test_closed_store_refuses_and_its_references_live_on(store):
    """close() releases, it does not delete."""
    ref = pickle.dumps(store.ref([1]))
    key = store.put(2)
    store.close()
    store.close()
    with pytest.raises(ConnectorError, match="closed"):
        store.get(key)
    assert pickle.loads(ref).resolve() == [1]


def test_pickled_sizes():
    """At most 250 bytes stored, 400 for 100 bytes inline."""
    with Store() as store:
        assert len(pickle.dumps(store.proxy(np.zeros(10_000)))) <= 250
        assert len(pickle.dumps(store.proxy(b"x" * 100))) <= 400
        store.clear()


def test_trace_counts_per_link(store):
    """Operations, bytes and seconds per (from, to, connector); stats() per store."""
    spans = []
    stop = trace.listen(spans.append)
    key = store.put(b"x" * 1000)
    store.get(key)
    stop()
    store.get(key)
    assert [span.operation for span in spans] == ["put", "get"]
    assert spans[0].link.target == spans[1].link.source == store.connector.place
    assert spans[0].nbytes == spans[1].nbytes >= 1000
    assert store.stats()["get"]["count"] == 2
    assert ("put", spans[0].link) in trace.totals.totals()


def test_a_time_to_live_makes_sense_for_small_objects_too():
    """Which travel inside their reference: what is wrong must not depend on the size."""
    store = Store("memory://")
    for make in (lambda: store.ref(1, ttl=-1), lambda: store.proxy("a", ttl=0), lambda: store.proxy_many([1], ttl=-1)):
        with pytest.raises(ConfigurationError, match="time to live"):
            make()


def test_a_name_is_text():
    """Nothing else is looked at further."""
    with pytest.raises(ConfigurationError, match="cannot name a store"):
        Store("memory://", name=5)  # type: ignore[arg-type]  # that is the point


def test_wrong_arguments():
    """Each names what is wrong."""
    with pytest.raises(ConfigurationError, match="nosuch"):
        Store("nosuch://")
    with pytest.raises(ConfigurationError, match="serializer"):
        Store(serializer="marshal")
    with pytest.raises(ConfigurationError, match="size"):
        Store(cache="many")
    for wrong in ("key", "encrypt:../lab", 5):
        with pytest.raises(ConfigurationError):
            Store(seal=wrong)
    with pytest.raises(ConfigurationError, match="connector itself"):
        Store(MemoryConnector(), name="x")
    with pytest.raises(ConfigurationError, match="time to live"), Store("memory://", inline_below=0) as store:
        store.put(1, ttl=-1)


def test_safe_store_never_unpickles():
    """A safe store's references stay safe when they travel."""
    with Store("memory://", serializer="safe", inline_below=0) as store:
        ref = pickle.loads(pickle.dumps(store.ref({"a": np.arange(3)})))
        assert ref.resolve()["a"].tolist() == [0, 1, 2]
        assert store.url.endswith("#inline=0&serializer=safe")


def test_third_party_connector_needs_only_four_verbs():
    """BaseConnector gives the rest."""

    class Tiny(BaseConnector):
        scheme = "tiny"
        spec = "tiny://"

        def __init__(self):
            self.held = {}

        def put(self, frames, *, key=None, ttl=None, replace=False):
            key = key or self.reserve()
            self.held[key] = frames.tobytes()
            return key

        def get(self, key):
            return Frames([self.held[key]]) if key in self.held else None

        def exists(self, key):
            return key in self.held

        def evict(self, key):
            return self.held.pop(key, None) is not None

    with Store(Tiny(), inline_below=0) as store:
        keys = store.put_many([1, 2])
        assert store.get_many(keys) == [1, 2]
        assert asyncio.run(store.aget(keys[0])) == 1


def test_a_store_that_was_opened_by_a_short_url_and_closed_is_opened_anew(tmp_path):
    """The store's own URL tells the namespace, too; what it was asked for by is forgotten as well."""
    url = f"file://{tmp_path}"
    open_store(url).close()
    with open_store(url) as again:
        assert again.get(again.put(1)) == 1


def test_what_is_missing_in_shared_memory_may_be_another_users():
    with Store("shm://") as store, pytest.raises(KeyNotFound, match="another user"):
        store.ref_from_key("nowhere").resolve()


def test_two_threads_may_close_one_store(monkeypatch):
    store = Store("memory://")
    known = type(store_module._live)()
    known[store.url] = store
    other = threading.Thread(target=store.close)
    find = known.get

    def get(url):
        found = find(url)
        if threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(0.05)  # where it need not wait, it is over by now
        return found

    monkeypatch.setattr(known, "get", get)
    monkeypatch.setattr(store_module, "_live", known)
    store.close()
    other.join()
    assert not known
