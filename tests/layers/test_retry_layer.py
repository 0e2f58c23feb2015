"""retry+: what a shaky link breaks off ends as if nothing had happened, and what must not happen twice does not."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab import trace
from proxyfab.abc import SupportsLease, SupportsStatus
from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import CapacityError, ConnectorError, KeyExists
from proxyfab.keys import Key
from proxyfab.layers.base import Layer
from proxyfab.layers.retry import RetryLayer
from proxyfab.opening import open_connector
from proxyfab.retry import Backoff, RetryBudget
from proxyfab.store import Store
from proxyfab.testing import ConnectorTests
from proxyfab.testing.conformance.base import Open
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.faults import FaultyConnector
from proxyfab.testing.stateful import ConnectorMachine

AT_ONCE = Backoff(first=0.0)
X = Frames([b"x" * 100])


class Shaky(Layer):
    """Of ten calls two do not arrive, and the answers of two are lost."""

    SHAKES = ("put", "get", "get_range", "exists", "stat", "put_many", "get_many", "exists_many", "renew", "reserve")

    def __init__(self, child: Any) -> None:
        super().__init__(child)
        self._random = random.Random(1)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._shaken(found) if name in Shaky.SHAKES else found

    def _shaken(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def shaken(*args: Any, **options: Any) -> Any:
            luck = self._random.random()
            if luck < 0.2:
                raise ConnectorError("The link broke on the way there.")
            answer = call(*args, **options)
            if luck < 0.4:
                raise ConnectorError("The link broke on the way back.")
            return answer

        return shaken


class Retried(RetryLayer):
    """Never tired, so that the suite's thousands of operations all get through."""

    name = ""

    def __init__(self, child: Any) -> None:
        super().__init__(child, backoff=AT_ONCE, most=100)
        self.budget = RetryBudget(1e9)

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.plain or type(self)).from_url, (self.spec,)

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return cls(Shaky(SharedMemoryConnector.from_url(url, name=name)))


class TestRetryOverAShakyLink(ConnectorTests):
    connector = Retried
    around = True
    on_disk = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory))
        return "shm://"

    def test_it_equals_a_dict(self, connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ConnectorMachine, "tells_own_puts", False)
        super().test_it_equals_a_dict(connect)


class TestRetry(ObjectTests, BatchTests, PayloadTests):
    """Over a link that holds."""

    connector = RetryLayer

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"retry+file://{directory}"


class LosesAnswers(Layer):
    """Does what it is asked, and then says that the link broke: `lost` times."""

    lost = 0

    def _lose(self, answer: Any) -> Any:
        if self.lost:
            self.lost -= 1
            raise ConnectorError("The answer was lost.")
        return answer

    def put(self, *args: Any, **options: Any) -> Key:
        return self._lose(super().put(*args, **options))

    def put_many(self, *args: Any, **options: Any) -> list[Key]:
        return self._lose(super().put_many(*args, **options))

    def evict(self, key: Key) -> bool:
        return self._lose(super().evict(key))

    def evict_many(self, keys: Any) -> list[bool]:
        return self._lose(super().evict_many(keys))

    def clear(self) -> int:
        return self._lose(super().clear())


@pytest.fixture
def link() -> FaultyConnector:
    return FaultyConnector(MemoryConnector())


@pytest.fixture
def losing() -> LosesAnswers:
    return LosesAnswers(MemoryConnector())


def over(child: Any, **options: Any) -> Any:
    layer = RetryLayer(child, backoff=options.pop("backoff", AT_ONCE), **options)
    layer.budget = RetryBudget()
    return layer


def test_a_few_faults_are_not_noticed(link):
    layer = over(link)
    link.fail("put", times=2)
    link.fail("get", times=3)
    key = layer.put(X)

    assert layer.get(key) == X
    assert link.calls == {"put": 3, "get": 4}


def test_faults_that_do_not_end_are_told_with_their_cause(link):
    layer = over(link, most=3)
    link.cut()

    with pytest.raises(ConnectorError, match=r"get at memory://.* failed 3 times in \d+\.\d s.*test has cut") as caught:
        layer.get(Key("k"))
    assert "cut the link" in str(caught.value.__cause__)
    assert link.calls["get"] == 3


def test_the_deadline_is_kept(link):
    layer = over(link, timeout=0.3, most=1000, backoff=Backoff(first=0.02, longest=0.02))
    layer.budget = RetryBudget(1e9)
    link.cut()
    started = time.monotonic()

    with pytest.raises(ConnectorError, match="failed"):
        layer.get(Key("k"))
    assert time.monotonic() - started < 5
    assert link.calls["get"] > 3


def test_a_place_that_only_fails_is_soon_not_asked_again(link):
    layer = over(link)
    link.cut()
    for _ in range(100):
        with pytest.raises(ConnectorError):
            layer.get(Key("k"))

    assert link.calls["get"] == 110


def test_all_connectors_of_a_place_share_its_budget():
    one, other = RetryLayer(MemoryConnector()), RetryLayer(MemoryConnector())

    assert one.budget is other.budget


def test_what_is_no_fault_of_the_link_is_told_at_once(link):
    layer = over(link)
    link.fail("put", lambda: CapacityError("full"))

    with pytest.raises(CapacityError):
        layer.put(X)
    assert link.calls["put"] == 1
    key = layer.put(X)
    with pytest.raises(KeyExists):
        layer.put(X, key=key)


def test_a_put_whose_answer_was_lost_happened_once(losing):
    layer = over(losing)
    losing.lost = 2
    key = layer.put(X)

    assert layer.get(key) == X
    assert len(list(layer.scan())) == 1


def test_under_a_chosen_key_the_same_bytes_are_ours_and_others_are_not(losing):
    layer = over(losing)
    losing.lost = 1
    key = layer.put(X, key=Key("mine"))
    assert key == losing.child.stat(Key("mine")).key

    losing.child.put(Frames([b"y" * 100]), key=Key("theirs"))
    faulty = FaultyConnector(losing.child)
    faulty.fail("put")
    with pytest.raises(KeyExists):
        over(faulty).put(X, key=Key("theirs"))
    assert losing.child.get(Key("theirs")) == Frames([b"y" * 100])


class ExpiresAsItIsLookedAt(LosesAnswers):
    """What is found in the way of a put has expired a moment later."""

    def put(self, *args: Any, **options: Any) -> Key:
        try:
            return super().put(*args, **options)
        except KeyExists:
            self.child.clear()
            raise


def test_what_expires_before_its_put_is_asked_again_is_put_again():
    link = ExpiresAsItIsLookedAt(MemoryConnector())
    link.lost = 1
    layer = over(link)

    assert layer.get(layer.put(X, key=Key("brief"), ttl=10)) == X


@pytest.mark.parametrize("keys", [None, [Key("a"), Key("b"), Key("c")]])
@pytest.mark.parametrize("replace", [False, True])
def test_a_batch_whose_answer_was_lost_happened_once(losing, keys, replace):
    layer = over(losing)
    losing.lost = 1
    done = layer.put_many([X, Frames([b"y"]), X], keys=keys, replace=replace)

    assert layer.get_many(done) == [X, Frames([b"y"]), X]
    assert len(list(layer.scan())) == 3


def test_an_evict_whose_answer_was_lost_answers_true(losing):
    layer = over(losing)
    keys = [layer.put(X) for _ in range(3)]
    losing.lost = 1
    assert layer.evict(keys[0]) is True
    assert layer.evict(keys[0]) is False
    losing.lost = 1
    assert layer.evict_many(keys[1:]) == [True, True]
    assert layer.evict_many(keys[1:]) == [False, False]


def test_what_cannot_be_repeated_is_not(losing, link):
    layer = over(losing)
    layer.put(X)
    losing.lost = 1
    with pytest.raises(ConnectorError, match=r"^The answer was lost"):
        layer.clear()
    assert layer.clear() == 0


def test_a_waiter_waits_on(link):
    layer = over(link)
    link.fail("wait", times=2)
    key = layer.put(X)

    assert layer.wait(key, 20)
    assert link.calls["wait"] == 3
    assert not layer.wait(Key("never"), 0.01)


def test_retries_are_counted(link):
    before = trace.totals.by_operation().get("retry")
    link.fail("get", times=2)
    over(link).get(Key("k"))
    after = trace.totals.by_operation()["retry"]

    assert after.calls - (before.calls if before else 0) == 2


def test_who_closed_is_told_at_once(link):
    layer = over(link, backoff=Backoff(first=100))
    layer.close()

    with pytest.raises(ConnectorError, match="closed"):
        layer.get(Key("k"))
    assert link.calls["get"] == 1


def test_by_url_with_its_options_kept_and_its_childs_abilities(tmp_path):
    layer = open_connector(f"retry+file://{tmp_path}", name="kept")
    assert isinstance(layer, RetryLayer)
    assert isinstance(layer, SupportsLease)
    assert not isinstance(layer, SupportsStatus)
    assert layer.spec == f"retry+file://{tmp_path}?ns=kept"

    again = pickle.loads(pickle.dumps(RetryLayer(layer.child, timeout=3, most=2, backoff=Backoff(longest=1))))
    assert (again.timeout, again.most, again.backoff.longest) == (3, 2, 1)
    with Store(f"retry+file://{tmp_path}", inline_below=0) as store:
        assert pickle.loads(pickle.dumps(store.ref([1, 2]))).resolve() == [1, 2]
