"""Ref: names an object, travels small, opens nothing until it is touched."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from proxyfab import Ref, Store, is_resolved, prefetch, ref_of
from proxyfab.errors import ConfigurationError, KeyNotFound, ProxyfabError, SerializationError
from proxyfab.proxy import Proxy
from proxyfab.ref import load


@pytest.fixture
def store():
    with Store("memory://", inline_below=0) as store:
        yield store


def test_equality_and_hash_by_what_is_named(store):
    """Two Refs to one object are equal wherever they were unpickled."""
    ref = store.ref([1])
    twin = pickle.loads(pickle.dumps(ref))
    assert twin == ref
    assert hash(twin) == hash(ref)
    assert ref != store.ref([2])
    assert ref != "ref"


def test_repr_names_type_size_and_place(store):
    """And does not fetch."""
    assert repr(store.ref([1])).startswith("<Ref to builtins.list, ")
    assert "inline" in repr(Store("memory://").ref([1]))


def test_calls_resolves_and_context(store):
    """Three ways to the object."""
    ref = store.ref([1])
    assert ref() == ref.resolve() == [1]
    with ref as value:
        assert value == [1]
    assert ref.exists()  # only once=True is released on leaving
    assert ref.evict()
    assert not ref.exists()


def test_inline_refs_need_no_store():
    """A small object resolves even when its store is gone."""
    with Store("memory://") as store:
        wire = pickle.dumps(store.ref({"a": 1}))
    ref = pickle.loads(wire)
    assert ref.key is None
    assert ref.resolve() == {"a": 1}
    assert ref.exists()
    assert not ref.evict()


def test_inline_is_a_snapshot():
    """What happens to the object after the Ref was made does not change the Ref."""
    with Store("memory://") as store:
        data = bytearray(b"abc")
        ref = store.ref(data)
        data[0] = 0
        assert ref.resolve() == b"abc"


def test_type_is_known_without_fetching(store):
    """The reference carries the target's type through pickle."""
    proxy = pickle.loads(pickle.dumps(store.proxy({"a": 1})))
    assert isinstance(proxy, dict)
    assert not callable(proxy)
    assert not is_resolved(proxy)


def test_ref_from_key_learns_the_type_by_resolving(store):
    """Before that it could be anything."""
    proxy = store.proxy_from_key(store.put([1, 2]))
    assert len(proxy) == 2
    assert isinstance(proxy, list)


def test_ref_of_refuses_what_has_none():
    """A plain object and a proxy of a plain callable."""
    with pytest.raises(ConfigurationError, match="plain callable"):
        ref_of(Proxy(lambda: 3))
    with pytest.raises(ConfigurationError, match="no proxy"):
        ref_of(3)


def test_what_was_prefetched_goes_with_its_object(store):
    """Whoever evicts through a reference does not get the object from it afterwards."""
    ref = store.ref(b"x" * 10_000)
    prefetch(ref)
    assert ref.evict()
    with pytest.raises(KeyNotFound):
        ref.resolve()


def test_prefetch_of_a_missing_object_is_told_at_use_and_forgotten(store):
    """A prefetch that failed does not spoil a later resolve."""
    ref = store.ref_from_key(store.reserve())
    prefetch(ref)
    with pytest.raises(KeyNotFound):
        ref.resolve()
    prefetch(ref)
    store.put("now", key=ref.key)
    assert ref.resolve() == "now"


def test_a_process_without_the_backend_passes_references_on(tmp_path):
    """Unpickling and pickling open nothing and import neither the backend nor the object's type."""
    with Store(f"file://{tmp_path}", inline_below=0) as store:
        import numpy as np

        wire = pickle.dumps((store.proxy(np.arange(1000)), store.ref(np.arange(10)), store))
    script = """
import pickle, sys
sys.modules["proxyfab.connectors.file"] = None  # importing it fails, as if its package were missing
proxy, ref, *_ = objects = pickle.loads(sys.stdin.buffer.read())[:2]
assert isinstance(ref, object) and callable(ref) and not callable(proxy) and repr(proxy)
assert "numpy" not in sys.modules
sys.stdout.buffer.write(pickle.dumps(objects))
"""
    relay = pickle.dumps(pickle.loads(wire)[:2])
    done = subprocess.run([sys.executable, "-c", script], input=relay, capture_output=True, timeout=60, check=True)
    proxy, ref = pickle.loads(done.stdout)
    assert proxy[999] == 999
    assert ref.resolve()[9] == 9


def test_a_reference_resolves_in_a_forked_child(store):
    """And the child's resolve does not touch the parent."""
    with Store(inline_below=0) as shared:
        proxy = shared.proxy([1, 2, 3])
        child = os.fork()
        if child == 0:
            os._exit(0 if sum(proxy) == 6 else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert not is_resolved(proxy)
        shared.clear()


def test_self_reference_is_an_error_not_a_deadlock(store):
    """An object whose bytes need the object itself cannot be resolved."""
    key = store.reserve()
    store.put(_Knot(store.ref_from_key(key)), key=key)
    with pytest.raises((ProxyfabError, RecursionError)):
        store.get(key)


class _Knot:
    """Resolves a Ref while it is unpickled."""

    def __init__(self, ref: Ref[object]) -> None:
        self.ref = ref

    def __reduce__(self):
        return Ref.resolve, (self.ref,)


def test_references_outlive_the_store_object_that_made_them():
    """Those in this process too: a closed store is opened again, and a changed target can still be sent."""
    store = Store(inline_below=0)
    ref, lazy, changed = store.ref([1, 2]), store.proxy([3, 4]), store.proxy([5])
    changed.append(6)
    store.close()
    assert ref() == [1, 2]
    assert lazy[1] == 4
    assert pickle.loads(pickle.dumps(changed)) == [5, 6]
    assert ref.store is not store
    ref.store.clear()
    ref.store.close()


def test_equality_ignores_what_is_not_known(store):
    """A Ref made from a key names the same object as the one that knows its size and type."""
    ref = store.ref([1])
    assert store.ref_from_key(ref.key) == ref
    assert hash(store.ref_from_key(ref.key)) == hash(ref)
    inline = Store("memory://")
    assert inline.ref([1]) == inline.ref([1]) != inline.ref([2])


def test_prefetch_takes_what_is_here_already(store):
    """Objects that are no proxies, singletons among them, and proxies that are resolved, which fetch nothing."""
    resolved = store.proxy([1])
    assert resolved[0] == 1
    ref_of(resolved).evict()
    gets = store.stats()["get"]["count"]
    prefetch("text", None, 3, resolved, *store.proxy_many([None, True]))
    assert ref_of(resolved)._ahead is None
    assert store.stats()["get"]["count"] == gets


def test_the_url_of_a_safe_store_decides():
    """Whoever writes a Ref by hand cannot make a safe store's object be unpickled."""
    store = Store("memory://", serializer="safe")
    key = Store(store.connector, inline_below=0).put(range(3))
    forged = load(store.url, key.id, key.where, 1, "", 0, 0)
    with pytest.raises(SerializationError, match="does not unpickle"):
        forged.resolve()
