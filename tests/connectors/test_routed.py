"""routed:// passes the suite; and what is its own: rules, their URL, measured costs, named keys in several children."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.abc import SupportsDiagnosis, SupportsLease
from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.routed import Route, RoutedConnector, tagged
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import AccessDenied, CapacityError, ConfigurationError, ConnectorError, KeyExists
from proxyfab.keyring import Keyring
from proxyfab.keys import Fresh, Key
from proxyfab.layers.retry import RetryLayer
from proxyfab.testing import ConnectorTests, FaultyConnector, until
from proxyfab.testing.conformance.base import Open
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.lifetimes import LifetimeTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.threads import ThreadTests
from proxyfab.testing.content import content, plain, signed
from proxyfab.testing.processes import at_once, run


class TestRouted(ObjectTests, BatchTests, PayloadTests, LifetimeTests, ThreadTests):
    """Small objects in shared memory, large ones in files."""

    connector = RoutedConnector
    around = True
    reads_neighbours = False
    recovers = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory / "shm"))
        return f"routed://?to=shm://;below=8KiB&to=file://{directory}/files"


@pytest.mark.slow
class TestRoutedAll(TestRouted, ConnectorTests):
    """Everything, though what it is made of has shown it."""

    def test_the_next_opener_takes_back_what_a_killed_owner_left(self, url: str, connect: Open) -> None:
        """Of each child, whoever next uses that child."""
        spec, keys = self.orphan(url, kill=True)
        assert run(_visit, url) is True

        assert self.is_gone(spec, keys)
        assert connect().reap(dry_run=True) == []


def _visit(talk: object, url: str) -> bool:
    one = RoutedConnector.from_url(url)
    return one.evict_many([one.put(Frames([bytes(nbytes)])) for nbytes in (10, 10_000)]) == [True, True]


@pytest.fixture
def links() -> tuple[FaultyConnector, FaultyConnector]:
    return FaultyConnector(MemoryConnector(), delay=1e-6), FaultyConnector(MemoryConnector(), delay=1e-6)


@pytest.fixture
def one(links: tuple[FaultyConnector, FaultyConnector]) -> Iterator[RoutedConnector]:
    with RoutedConnector([Route.to(links[0], below=1000), Route.to(links[1])]) as one:
        yield one


def holders(one: RoutedConnector, key: Key) -> list[int]:
    return [number for number, child in enumerate(one.children) if child.exists(Key(key.id))]


def test_rules_choose_and_keys_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYFAB_SITE", "alps")
    places = [MemoryConnector() for _ in range(5)]
    rules = [{"tag": "hot"}, {"above": "1 MiB"}, {"host": "no-such-*"}, {"site": "alps", "below": "1 KiB"}, {}]
    with RoutedConnector([Route.to(place, **rule) for place, rule in zip(places, rules, strict=True)]) as one:  # type: ignore[arg-type]
        with tagged("hot"):
            hot = one.put(Frames([b"x"]))
        found = [hot, *(one.put(Frames([bytes(nbytes)])) for nbytes in (2**20, 5, 5000))]

        assert [holders(one, key) for key in found] == [[0], [1], [3], [4]]
        assert [frames and frames.nbytes for frames in one.get_many(found)] == [1, 2**20, 5, 5000]
        said = one.explain(5)
        assert [(judgement.route, judgement.takes) for judgement in said][:2] == [(3, True), (4, True)]
        assert one.explain(5, "hot")[0].route == 0
        assert "hot" in next(judgement.why for judgement in said if judgement.route == 0)


def test_another_process_goes_by_the_same_rules(tmp_path: Path) -> None:
    with RoutedConnector(
        [Route.to(SharedMemoryConnector(), below="1 KiB"), Route.to(f"file://{tmp_path}")], prefer="first"
    ) as one:
        small, large = run(_write, one.spec)

        assert (holders(one, small), holders(one, large)) == ([0], [1])
        assert one.get(large) == signed(5000)
        again = pickle.loads(pickle.dumps(one))
        assert again.spec == one.spec
        assert again.get(small) == signed(100)
        again.close()


def _write(talk: object, spec: str) -> list[Key]:
    one = RoutedConnector.from_url(spec)
    return [one.put(signed(100)), one.put(signed(5000))]


def test_a_proxy_needs_no_rules(tmp_path: Path) -> None:
    with Store(f"routed://?to=shm://;below=1KiB&to=file://{tmp_path}?mapped=0", inline_below=0) as store:
        proxies = [store.proxy("x" * nbytes) for nbytes in (10, 10_000)]
        assert [len(proxy) for proxy in pickle.loads(pickle.dumps(proxies))] == [10, 10_000]
        assert store.clear() == 2


def test_what_no_rule_takes_is_said() -> None:
    with RoutedConnector([Route.to(MemoryConnector(), below=10)]) as one:
        with pytest.raises(ConfigurationError, match="11 bytes"):
            one.put(Frames([bytes(11)]))
        with pytest.raises(ConfigurationError):
            one.put_many([Frames([b"x"]), Frames([bytes(11)])])
        assert one.clear() == 0


def test_a_named_key_is_one_object_wherever_it_lies(one: RoutedConnector) -> None:
    key = one.put(Frames([b"small"]), key=Key("k"))
    with pytest.raises(KeyExists):
        one.put(Frames([bytes(5000)]), key=Key("k"))
    assert holders(one, key) == [0]

    moved = one.put(Frames([bytes(5000)]), key=Key("k"), replace=True)
    assert holders(one, key) == [1]
    assert one.get(Key("k")) == one.get(moved) == Frames([bytes(5000)])
    assert one.stat(Key("k")).key == moved  # type: ignore[union-attr]
    assert one.evict(Key("k"))
    assert one.clear() == 0


def test_a_key_that_names_its_child_stays_there(one: RoutedConnector) -> None:
    key = one.put(Frames([b"small"]))
    same = one.put(Frames([bytes(5000)]), key=key, replace=True)

    assert same == key
    assert holders(one, key) == [0]


def test_of_many_who_name_one_key_one_wins_whatever_their_sizes(one: RoutedConnector) -> None:
    def put(nbytes: int) -> bool:
        try:
            one.put(Frames([bytes(nbytes)]), key=Key("prize"))
        except KeyExists:
            return False
        return True

    for _ in range(10):
        assert sum(at_once([lambda: put(10), lambda: put(5000), lambda: put(20), lambda: put(6000)])) == 1
        assert len(holders(one, Key("prize"))) == 1
        assert one.evict(Key("prize"))


def test_a_counter_stays_where_it_is(one: RoutedConnector) -> None:
    large = Frames([bytes(5000)])
    key = Key("count")

    assert one.compare_and_set(key, None, large)
    assert holders(one, key) == [0]
    assert one.compare_and_set(key, large, Frames([b"1"]))
    one.put(large, key=key, replace=True)
    assert holders(one, key) == [1]
    assert not one.compare_and_set(key, None, large)
    assert one.compare_and_set(key, large, Frames([b"2"]))
    assert content(one.get(key)) == b"2"


def test_a_full_child_is_passed_over(one: RoutedConnector, links: tuple[FaultyConnector, FaultyConnector]) -> None:
    full = lambda: CapacityError("full, as the test wanted")  # noqa: E731
    links[0].fail("put", full, times=2)
    keys = [one.put(Frames([b"x"])), one.put(Frames([b"x"]), key=Key("named"))]
    links[0].fail("put_many", full)
    links[0].fail("put", full, times=2)
    keys += one.put_many([Frames([b"x"]), Frames([bytes(5000)]), Frames([b"y"])])

    assert [holders(one, key) for key in keys] == [[1]] * 5
    links[1].fail("put", full)
    with pytest.raises(CapacityError):
        one.put(Frames([bytes(5000)]))
    assert one.clear() == 5


def test_a_child_that_cannot_be_reached_is_passed_over_for_drawn_keys(
    one: RoutedConnector, links: tuple[FaultyConnector, FaultyConnector]
) -> None:
    links[0].fail("put", times=1)
    assert holders(one, one.put(Frames([b"x"]))) == [1]
    links[0].fail("put", times=1)
    with pytest.raises(ConnectorError):
        one.put(Frames([b"x"]), key=Key("named"))


def test_what_a_child_stored_although_its_answer_was_lost_is_taken_back(
    one: RoutedConnector, links: tuple[FaultyConnector, FaultyConnector]
) -> None:
    """As soon as it can be reached: nobody knows its key. One object and batches, drawn here or by a layer above."""
    links[0].fail("evict_many", times=2)
    links[0].fail("put", done=True)
    keys = [one.put(Frames([b"x"]))]
    links[0].fail("put", done=True)
    keys.append(one.put(Frames([b"x"]), key=Fresh.of(one.reserve())))
    for fresh in (None, [Fresh.of(one.reserve()) for _ in range(2)]):
        links[0].fail("put_many", done=True)
        links[0].fail("put", done=True, times=2)
        keys += one.put_many([Frames([b"y"]), Frames([b"z"])], keys=fresh)

    assert until(lambda: not list(links[0].child.scan()))
    assert [content(one.get(key)) for key in keys] == [b"x", b"x", b"y", b"z", b"y", b"z"]
    assert one.clear() == 6


def test_layers_that_draw_keys_keep_what_a_child_can_do(
    links: tuple[FaultyConnector, FaultyConnector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that cannot be reached is passed over for them, too; keys that were handed out are plain ones."""
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path))
    Keyring().make("symmetric", "lab")
    one = RoutedConnector([Route.to(links[0]), Route.to(links[1])])
    with Store(RetryLayer(one), seal="encrypt:lab", cache=0, inline_below=0) as store:
        links[0].fail("put")
        links[0].fail("put_many")
        keys = [store.put("one"), *store.put_many(["two", "three"])]
        assert store.get_many(keys) == ["one", "two", "three"]
        assert {type(key) for key in keys} == {Key}
        assert len(list(links[1].child.scan())) == 3
        store.clear()
    one.close()


def test_batches_go_to_each_child_once(one: RoutedConnector, links: tuple[FaultyConnector, FaultyConnector]) -> None:
    many = [Frames([bytes(10 if number % 3 else 5000)]) for number in range(30)]
    keys = one.put_many(many)
    assert one.get_many([*keys, Key("never")]) == [*many, None]
    assert one.exists_many(keys) == [True] * 30
    assert one.evict_many(keys) == [True] * 30

    for link in links:
        assert (link.calls["put_many"], link.calls["get_many"], link.calls["evict_many"]) == (1, 1, 1)


def test_children_that_are_far_work_at_once(links: tuple[FaultyConnector, FaultyConnector]) -> None:
    one = RoutedConnector([Route.to(links[0], below=1000), Route.to(links[1])])
    keys = one.put_many([Frames([b"x"]), Frames([bytes(5000)])])
    first, second = links[0].hold("get_many"), links[1].hold("get_many")

    def let_go_when_both_are_there() -> None:
        from proxyfab.testing import until

        assert until(lambda: links[0].calls["get_many"] and links[1].calls["get_many"])
        first.set()
        second.set()

    got, _ = at_once([lambda: one.get_many(keys), let_go_when_both_are_there])
    assert got == [Frames([b"x"]), Frames([bytes(5000)])]


def test_the_cheapest_is_learned(links: tuple[FaultyConnector, FaultyConnector]) -> None:
    slow, fast = links
    slow.delay = 0.02
    with RoutedConnector([Route.to(slow), Route.to(fast), Route.to(fast, tag="kept")], prefer="cheapest") as one:
        keys = [one.put(Frames([b"x"])) for _ in range(5)]
        assert [holders(one, key) for key in keys] == [[0], [1], [1], [1], [1]]
        assert [judgement.route for judgement in one.explain(1) if judgement.takes] == [1, 0]
        assert one.explain(1)[0].seconds < one.explain(1)[1].seconds  # type: ignore[operator]
        assert one.explain(10**6)[0].seconds is None
        assert "prefer=cheapest" in one.spec


def test_a_place_that_stands_twice_is_one_child() -> None:
    with RoutedConnector.from_url("routed://?to=memory://;tag=a&to=memory://;below=5") as one:
        assert len(one.children) == 1
        assert RoutedConnector.from_url(one.spec).spec == one.spec


def test_it_claims_what_all_children_have(tmp_path: Path) -> None:
    class Bare(MemoryConnector):
        renew = None  # type: ignore[assignment]

    less = RoutedConnector([Route.to(MemoryConnector()), Route.to(Bare())])

    assert not isinstance(less, SupportsLease)
    assert isinstance(less, SupportsDiagnosis)
    assert [finding.state for finding in less.diagnose()] == ["ok"] * 3
    assert isinstance(RoutedConnector([Route.to(MemoryConnector()), Route.to(FileConnector(tmp_path))]), SupportsLease)


@pytest.mark.parametrize(
    "url",
    [
        "routed://",
        "routed://?to=memory://;nonsense=1",
        "routed://?to=memory://;tag=a,tag=b",
        "routed://?to=memory://;above=10,below=5",
        "routed://?to=memory://;tag=a b",
        "routed://?to=memory://&prefer=best",
        "routed://?to=memory://&prefer=first&prefer=first",
        "routed://?to=memory://&below=1",
        "routed://?to=nowhere",
    ],
)
def test_what_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RoutedConnector.from_url(url)


def test_errors_of_a_child_are_its_own(one: RoutedConnector, links: tuple[FaultyConnector, FaultyConnector]) -> None:
    key = one.put(Frames([plain(5000)]))
    links[1].fail("get", lambda: AccessDenied("not for you, as the test wanted"))
    with pytest.raises(AccessDenied):
        one.get(key)
