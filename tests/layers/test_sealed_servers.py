"""Seals over real servers and connectors made of others: what works without one works with it.

And who runs the place cannot change anything.
"""

from __future__ import annotations

import pickle

import pytest

from proxyfab import Store
from proxyfab.abc import SupportsCompareAndSet
from proxyfab.buffers import Frames
from proxyfab.errors import SealError
from proxyfab.keys import Key
from proxyfab.testing.nodes import NodeServer

BIG = b"0123456789abcdef" * 200_000


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("PROXYFAB_KEY_LAB", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    monkeypatch.setenv("PROXYFAB_SIGN_LAB", "YWJjZGVmZ2hpamFiY2RlZmdoaWphYmNkZWZnaGlqMDE=")


@pytest.fixture(scope="module")
def node():
    with NodeServer() as server:
        yield server


@pytest.fixture(params=["redis", "zmq", "zmq here", "lz4+shm", "bounded", "routed"])
def url(request, tmp_path, redis_server, node):
    if request.param == "redis":
        return redis_server.url
    if request.param.startswith("zmq"):
        return node.url if "here" in request.param else f"{node.url}?shared=0"
    return {
        "lz4+shm": "lz4+shm://",
        "bounded": f"bounded://?limit=64MB&slow=file://{tmp_path}",
        "routed": f"routed://?to=shm://%3Bbelow=1MiB&to=file://{tmp_path}",
    }[request.param]


@pytest.mark.parametrize("mode", ["encrypt", "sign", "ed25519"])
def test_a_seal_over_a_real_place(url, mode):
    """Objects of all sizes, batches, ranges, references; and a byte changed by who runs the place."""
    with Store(url, seal=f"{mode}:lab", cache=0, inline_below=0) as store:
        objs = [b"", b"x", BIG, [1, 2]]
        keys = store.put_many(objs)
        assert store.get_many(keys) == objs
        assert pickle.loads(pickle.dumps(store.proxy(BIG))) == BIG
        assert store.connector.get_range(keys[2], 2_000_000, 50) is not None
        named = store.put("first", key="named", ttl=60)
        store.put("second", key=named, replace=True)
        assert store.get(named) == "second"
        connector = store.connector
        below = getattr(connector, "child", connector)
        while hasattr(below, "child"):
            below = below.child
        sealed = below.get(keys[1])
        assert b"PFSL" in sealed.tobytes()
        changed = bytearray(sealed.tobytes())
        changed[-1] ^= 1
        for bad in (changed, below.get(keys[3]).tobytes(), b"plain" * 100):
            below.put(Frames([bad]), key=keys[1], replace=True)
            with pytest.raises(SealError):
                store.get(keys[1])
        if isinstance(connector, SupportsCompareAndSet):
            count = connector.reserve()
            assert connector.compare_and_set(count, None, Frames([b"1"]))
            assert not connector.compare_and_set(count, Frames([b"0"]), Frames([b"2"]))
            assert connector.compare_and_set(count, Frames([b"1"]), Frames([b"2"]))
        assert store.evict_many(keys) == [True] * 4
        assert store.get(keys[0]) is None
        assert not store.exists(Key("never"))
        store.clear()
