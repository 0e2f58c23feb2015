"""The URL of erasure://: what it says of children, sites and policies; and what makes no sense."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.placement import UtilizationFactor
from proxyfab.errors import CapacityError, ConfigurationError
from proxyfab.keys import Key
from proxyfab.scattering.members import Standing
from proxyfab.testing import FaultyConnector
from proxyfab.testing.content import plain

LARGE = Frames([plain(100_000)])


def url(count: int, said: str = "", extra: str = "") -> str:
    children = "&".join(f"child=memory://{said.format(number)}" for number in range(count))
    return f"erasure://?{extra}{children}"


def test_a_spec_says_all() -> None:
    text = url(
        4, ";site=s{0},capacity=8GB,afr=0.02,site_afr=0.001", "k=2&m=1&small=0&segment=1MiB&patience=5&quorum=3&"
    )
    with ErasureConnector.from_url(text) as one:
        again = ErasureConnector.from_url(one.spec)
        assert again.spec == one.spec
        assert again.options == one.options == Options(k=2, m=1, small=0, segment=2**20, patience=5.0, quorum=3)
        assert again.members[3].standing == Standing("s3", 8e9, 0.02, 0.001)
        key = one.put(LARGE)
        assert again.get(key) == pickle.loads(pickle.dumps(one)).get(key) == LARGE


@pytest.mark.parametrize(("count", "k", "m"), [(1, 1, 0), (2, 1, 1), (3, 1, 2), (5, 3, 2), (6, 4, 2), (9, 4, 2)])
def test_the_code_fits_the_children(count: int, k: int, m: int) -> None:
    with ErasureConnector.from_url(url(count)) as one:
        shape = Locator.parse(one.put(LARGE).where).shape
        assert (shape.k, shape.m) == (k, m)


def test_no_site_gets_more_than_may_be_lost() -> None:
    sites = ["a", "a", "a", "a", "b", "b", "c", "c", "d"]
    children = [MemoryConnector() for _ in sites]
    with ErasureConnector(children, Options(k=4, m=2), standings=[Standing(site) for site in sites]) as one:
        for _ in range(30):
            locator = Locator.parse(one.put(LARGE).where)
            at = Counter(sites[one.members.by_label[lying.child]] for lying in locator.shards)
            assert max(at.values()) <= 2
        for child, site in zip(children, sites, strict=True):
            if site == "a":
                child.close()
        assert one.get(one.put(LARGE)) == LARGE


def test_a_policy_decides() -> None:
    with ErasureConnector.from_url(url(6, ";site=s{0},afr=0.02", "policy=GreedyMinStorage&target=0.999&")) as one:
        key = one.put(LARGE)
        shape = Locator.parse(key.where).shape
        assert (shape.k, shape.m) == (4, 2)
        assert one.get(key) == LARGE
    with ErasureConnector.from_url(url(6, ";afr=0.5", "policy=GreedyMinStorage&target=0.9999999&")) as one:
        with pytest.raises(CapacityError, match="the target allows"):
            one.put(LARGE)
    with ErasureConnector([MemoryConnector() for _ in range(6)], policy=UtilizationFactor(2, 3)) as one:
        shape = Locator.parse(one.put(LARGE).where).shape
        assert (shape.k, shape.m) == (2, 3)


def test_batches_move_side_by_side() -> None:
    children = [FaultyConnector(MemoryConnector(), delay=0.005) for _ in range(3)]
    with ErasureConnector(children, Options(k=2, m=1)) as one:
        keys = one.put_many([Frames([b"%d" % number]) for number in range(20)])
        assert [found and found.tobytes() for found in one.get_many([*keys, Key("never")])] == [
            *(b"%d" % number for number in range(20)),
            None,
        ]
        assert one.evict_many([*keys, keys[0]]) == [True] * 20 + [False]


def test_a_store_over_files(tmp_path: Path) -> None:
    children = "&".join(f"child=file://{tmp_path}/{number}" for number in range(3))
    with Store(f"erasure://?k=2&m=1&{children}", name="run", inline_below=0) as store:
        proxies = [store.proxy("x" * nbytes) for nbytes in (10, 500_000)]
        assert [len(proxy) for proxy in pickle.loads(pickle.dumps(proxies))] == [10, 500_000]
        with FileConnector(tmp_path / "1", name="run") as child:
            child.clear()
        assert [len(proxy) for proxy in pickle.loads(pickle.dumps(proxies))] == [10, 500_000]
        assert store.clear() == 2


@pytest.mark.parametrize(
    "text",
    [
        "erasure://",
        url(3, "", "nonsense=1&"),
        url(3, "", "k=2&k=2&"),
        url(3, "", "k=3&m=1&"),
        url(3, "", "k=two&"),
        url(3, "", "policy=Best&"),
        url(3, "", "target=1.5&policy=LoadBalance&"),
        url(3, "", "patience=0&"),
        url(3, ";nonsense=1"),
        url(3, ";site=a b"),
        url(3, ";afr=often"),
        url(3, ";site=a,site=b"),
        "erasure://?child=nowhere",
    ],
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        ErasureConnector.from_url(text)
