"""Gateways of sites, each a real server, over loopback: references cross, bytes cross once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import AccessDenied, CapabilityError, ConfigurationError, KeyExists, ObjectLost, ProxyfabError
from proxyfab.keys import Key
from proxyfab.patterns.future import Future
from proxyfab.store import Store
from proxyfab.testing.gateways import Gateways
from proxyfab.testing.processes import at_once, until

pytest.importorskip("cryptography")
MB = 1_000_000


@pytest.fixture(scope="module")
def sites() -> Iterator[Gateways]:
    with Gateways("aps", "alcf", each={"alcf": ["--copies", "8MB"]}) as gateways:
        yield gateways


@pytest.fixture
def aps(sites: Gateways) -> Iterator[Store]:
    with Store(sites.url("aps"), cache=0) as store:
        yield store


@pytest.fixture
def alcf(sites: Gateways) -> Iterator[Store]:
    with Store(sites.url("alcf"), cache=0) as store:
        yield store


def figures(store: Store) -> dict[str, float]:
    status = store.connector.status()  # type: ignore[attr-defined]  # it can
    return {**status.counters, **status.gauges}


READER = """
import pickle, sys
proxy = pickle.load(sys.stdin.buffer)
print(len(proxy), proxy[:5], proxy[-5:])
"""


def test_what_came_takes_no_memory_once_it_is_stored(aps: Store, alcf: Store) -> None:
    """It lived until a collector found the questions that it had answered: they and who was told knew each other."""
    for _ in range(12):
        assert alcf.get(aps.put(os.urandom(70_000))) is not None
    assert until(lambda: figures(alcf)["coming_bytes"] == 0, 5)


def test_a_reference_made_at_one_site_resolves_at_another(sites: Gateways, aps: Store, alcf: Store) -> None:
    """Both ways: one site listens, the other one dials, and each asks the other."""
    for store, other in ((aps, "alcf"), (alcf, "aps")):
        proxy = store.proxy(b"begin" + os.urandom(MB) + b"*end*")
        said = subprocess.run(
            [sys.executable, "-c", READER],
            input=pickle.dumps(proxy),
            env=sites.environment(other),
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout.decode()
        assert said == f"{MB + 10} b'begin' b'*end*'\n"


def test_the_second_reader_moves_no_bytes_over_the_link(aps: Store, alcf: Store) -> None:
    value = os.urandom(3 * MB)
    key = aps.put(value)
    assert key.where.startswith("aps/")
    found = at_once([lambda: alcf.connector.get(key) for _ in range(4)])
    before = figures(alcf)
    assert all(frames is not None and frames.nbytes > 3 * MB for frames in found)
    assert alcf.get(key) == value
    assert alcf.connector.get(key).views[0].readonly  # type: ignore[union-attr]  # mapped, for processes of this machine
    after = figures(alcf)
    assert after["link_aps_received"] == before["link_aps_received"]
    assert after["far_get"] == before["far_get"]
    assert before["copies_bytes"] >= 3 * MB


def test_copies_have_a_limit(aps: Store, alcf: Store) -> None:
    keys = aps.put_many([os.urandom(2 * MB) for _ in range(8)])
    values = aps.get_many(keys)
    assert alcf.get_many(keys) == values  # twice as much as may stay
    assert figures(alcf)["copies_bytes"] <= 8_000_000
    assert figures(alcf)["copies"] < 8
    assert alcf.get_many(keys) == values
    large = os.urandom(12 * MB)
    assert alcf.get(aps.put(large)) == large
    assert until(lambda: figures(alcf)["copies_bytes"] <= 8_000_000)


def test_many_small_ones_and_what_is_not_there(aps: Store, alcf: Store) -> None:
    values = [os.urandom(1024) for _ in range(700)]
    keys = aps.put_many(values)
    gone = keys[::7]
    assert all(aps.evict_many(gone))
    found = alcf.get_many(keys, default="gone")
    assert found == ["gone" if number % 7 == 0 else value for number, value in enumerate(values)]
    assert alcf.exists_many(keys) == [number % 7 != 0 for number in range(700)]
    stat = alcf.connector.stat(keys[1])
    assert stat is not None
    assert stat.key == keys[1]
    assert stat.nbytes >= 1024
    assert alcf.connector.stat(keys[0]) is None


def test_evicted_here_is_evicted_there(aps: Store, alcf: Store) -> None:
    key = aps.put(os.urandom(MB))
    assert alcf.get(key) is not None
    assert alcf.evict(key)
    assert not alcf.exists(key)
    assert alcf.get(key) is None
    assert not aps.exists(key)
    assert not alcf.evict(key)


def test_a_copy_lives_no_longer_than_its_object(aps: Store, alcf: Store) -> None:
    key = aps.put(os.urandom(MB), ttl=1.0)
    assert alcf.get(key) is not None
    assert until(lambda: aps.get(key) is None)
    assert alcf.get(key) is None


def test_waiting_for_an_object_of_another_site(aps: Store, alcf: Store) -> None:
    key = aps.reserve()
    assert not alcf.connector.wait(key, 0.05)  # type: ignore[attr-defined]  # it can

    def later() -> Key:
        assert not until(lambda: False, 0.2)
        return aps.put("here", key=key)

    waited, _ = at_once([lambda: alcf.connector.wait(key, 30), later])  # type: ignore[attr-defined]  # as above
    assert waited is True
    assert alcf.get(key) == "here"


@pytest.mark.parametrize("size", [10, 300_000, 3 * MB])
def test_an_object_is_put_under_a_key_of_another_site(aps: Store, alcf: Store, size: int) -> None:
    key, value = aps.reserve(), os.urandom(size)
    assert alcf.put(value, key=key) == key
    assert aps.get(key) == value
    assert alcf.get(key) == value
    with pytest.raises(KeyExists):
        alcf.put("another", key=key)
    assert alcf.put("another", key=key, replace=True, ttl=30) == key
    assert [store.get(key) for store in (aps, alcf)] == ["another"] * 2
    stat = aps.connector.stat(key)
    assert stat is not None
    assert stat.expires is not None
    own = alcf.connector.namespace  # type: ignore[attr-defined]  # it has one; what was put to be taken is gone
    assert [stat for stat in alcf.connector.scan() if stat.namespace == own] == []  # type: ignore[attr-defined]


SETTER = """
import pickle, sys
future = pickle.load(sys.stdin.buffer)
future.set_result("done at another site")
"""


def test_a_future_of_one_site_is_fulfilled_at_another(sites: Gateways, aps: Store) -> None:
    future: Future[str] = Future(aps)
    subprocess.run(
        [sys.executable, "-c", SETTER],
        input=pickle.dumps(future),
        env=sites.environment("alcf"),
        timeout=60,
        check=True,
    )
    assert future.result(30) == "done at another site"


def test_push_brings_objects_before_they_are_asked_for(aps: Store, alcf: Store) -> None:
    keys = aps.put_many([os.urandom(MB) for _ in range(2)])
    ref = aps.ref_from_key(keys[0])
    assert aps.push(ref, ref.proxy(), keys[1], aps.reserve(), aps.ref(1), to="alcf") == [True] * 3 + [False, True]
    before = figures(alcf)["far_get"]
    assert None not in alcf.get_many(keys)
    assert figures(alcf)["far_get"] == before
    key = aps.put(os.urandom(MB))
    assert alcf.connector.push([key], "alcf") == [True]  # type: ignore[attr-defined]  # to oneself: fetched now
    assert figures(alcf)["far_get"] == before + 1
    assert alcf.connector.push([key], "aps") == [True]  # type: ignore[attr-defined]  # it is at home there


def test_what_cannot_be(sites: Gateways, aps: Store, alcf: Store) -> None:
    key = aps.reserve()
    with pytest.raises(CapabilityError, match="Objects of site aps can be put, read, .* from site alcf, and not swap"):
        alcf.connector.compare_and_set(key, None, Frames([b"x"]))  # type: ignore[attr-defined]  # it can, at home
    with pytest.raises(AccessDenied, match="knows no site 'nersc'"):
        alcf.get(Key("x", "nersc/run/0123456789ab"))
    with pytest.raises(ObjectLost, match="incarnation 0123456789ab has ended"):
        alcf.get(Key("x", "aps/run/0123456789ab"))
    with Store(f"site://nersc?gateway={sites.address('aps')}") as wrong:
        with pytest.raises(ConfigurationError, match="is the gateway of site aps, not the gateway of site nersc"):
            wrong.put("x")
    with pytest.raises(ConfigurationError, match="PROXYFAB_SITE"):
        Store("site://aps")


def test_a_gateway_that_was_started_anew_says_so_and_the_link_comes_back(sites: Gateways, alcf: Store) -> None:
    with Gateways("one", "two") as others:
        with Store(others.url("one"), cache=0) as one, Store(others.url("two"), cache=0) as two:
            old = one.put(os.urandom(MB))
            assert two.get(old) is not None
            server = others.servers["one"]
            server.arguments[server.arguments.index("127.0.0.1:0")] = str(server.ready["listen"])
            server.restart()
            assert two.get(old) is not None  # the copy is still here, and objects are written once
            lost = old.at(old.where)
            begun = time.monotonic()
            with pytest.raises(ObjectLost, match="started anew"):
                two.get(Key("another", lost.where))
            assert time.monotonic() - begun < 20
            fresh = one.put("fresh")
            assert two.get(fresh) == "fresh"


def test_nobody_answers_in_time() -> None:
    """A typed error, before the call's own time is over."""
    with Gateways("aps", "alcf", through=lambda _: "127.0.0.1:1") as apart:
        with Store(apart.url("aps")) as aps, Store(apart.url("alcf") + "&timeout=2", cache=0) as alcf:
            key = aps.put(os.urandom(MB))
            begun = time.monotonic()
            with pytest.raises(
                ProxyfabError, match=r"no stream to it is open; the last dial failed: .*refused"
            ) as told:
                alcf.get(key)
            assert time.monotonic() - begun < 10
            assert type(told.value).__name__ == "ResolveTimeout"
