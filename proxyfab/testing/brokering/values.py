"""Values beside a topic: set, compared, forgotten, waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from proxyfab.errors import CapacityError, ConfigurationError, Conflict, ConnectorError, TopicNotFound
from proxyfab.events.broker import Broker, State
from proxyfab.events.model import Capability
from proxyfab.testing.brokering import roles
from proxyfab.testing.brokering.base import BrokerSuite, Join, Make
from proxyfab.testing.processes import Child, at_once, until

AT_ONCE = 0.05
"""Seconds within which who waits is told, by a broker with LAST_VALUE."""


class ValueTests(BrokerSuite):
    """What `State` says."""

    @pytest.fixture
    def state(self, broker: Broker, topic: str) -> State:
        """The values beside a topic of this test's own."""
        self.claim(broker, Capability.STATE)
        return broker.state(topic)

    def test_a_value_is_set_and_found(self, state: State, broker: Broker, join: Join, topic: str) -> None:
        assert state.get("k") is None
        first = state.put("k", b"one")
        found = state.get("k")
        assert found is not None
        assert (found.value, found.revision) == (b"one", first)
        second = state.put("k", b"\0\xff")

        assert second > first > 0
        assert join().state(topic).get("k") == (b"\0\xff", second)

    @pytest.mark.parametrize("name", ["a", "producers/one", "checkpoints/x=1.2", "A_-/b.c", "=", "x" * 200])
    def test_names_of_values(self, state: State, name: str) -> None:
        state.put(name, b"v")

        assert state.items() == {name: state.get(name)}
        assert state.delete(name) is True

    @pytest.mark.parametrize("name", ["", "a b", "é", "a*", "a>", "../x", "a..b", "x" * 201])
    def test_a_name_that_no_value_has(self, state: State, name: str) -> None:
        with pytest.raises(ConfigurationError):
            state.put(name, b"v")
        with pytest.raises(ConfigurationError):
            state.get(name)

    def test_sizes(self, state: State) -> None:
        large = bytes(512 << 10)
        state.put("empty", b"")
        state.put("large", large)

        assert state.items()["empty"].value == b""
        assert state.items()["large"].value == large
        with pytest.raises(CapacityError):
            state.put("larger", large + b"x")

    def test_compare_and_set(self, state: State) -> None:
        first = state.put("k", b"1", revision=0)
        with pytest.raises(Conflict):
            state.put("k", b"2", revision=0)
        second = state.put("k", b"2", revision=first)
        with pytest.raises(Conflict):
            state.put("k", b"3", revision=first)
        with pytest.raises(Conflict):
            state.put("other", b"3", revision=first)

        assert state.get("k") == (b"2", second)
        assert state.get("other") is None

    def test_delete(self, state: State) -> None:
        first = state.put("k", b"1")
        second = state.put("k", b"2")
        with pytest.raises(Conflict):
            state.delete("k", revision=first)
        assert state.delete("k", revision=second) is True
        assert state.delete("k") is False
        assert state.get("k") is None
        assert state.items() == {}
        again = state.put("k", b"3", revision=0)
        assert again > second  # or whoever remembers an earlier life of it would be believed
        with pytest.raises(Conflict):
            state.put("k", b"4", revision=first)

    def test_prefixes(self, state: State) -> None:
        kept = {name: state.put(name, name.encode()) for name in ("a/1", "a/2", "ab", "b/1", "a")}

        for prefix in ("", "a", "a/", "a/2", "c"):
            assert state.items(prefix) == {
                name: (name.encode(), revision) for name, revision in kept.items() if name.startswith(prefix)
            }

    def test_many(self, state: State) -> None:
        for number in range(150):
            state.put(f"n/{number}", b"%d" % number)

        assert {int(kept.value) for kept in state.items("n/").values()} == set(range(150))

    def test_places_do_not_meet(self, broker: Broker, make: Make) -> None:
        self.claim(broker, Capability.STATE)
        one, two, whole = broker.state(make()), broker.state(make()), broker.state()
        name = f"suite/{make()}"
        for number, state in enumerate((one, two, whole)):
            state.put(name, b"%d" % number)

        assert [state.items("suite/")[name].value for state in (one, two, whole)] == [b"0", b"1", b"2"]
        assert whole.delete(name)

    def test_a_value_goes_when_its_time_is_over(self, state: State) -> None:
        state.put("short", b"1", ttl=0.3)
        state.put("lasting", b"1", ttl=60)
        state.put("renewed", b"1", ttl=0.3)
        state.put("renewed", b"2")  # which has no end any more
        started = time.monotonic()

        assert until(lambda: state.get("short") is None, self.patience)
        assert time.monotonic() - started > 0.1
        assert state.items().keys() == {"lasting", "renewed"}
        assert state.put("short", b"again", revision=0) > 0

    def test_a_topic_that_is_not_there_has_none(self, broker: Broker) -> None:
        self.claim(broker, Capability.STATE)
        with pytest.raises(TopicNotFound):
            broker.state("suite.never-made").put("k", b"v")

    def test_of_many_one_wins(self, state: State, join: Join, topic: str) -> None:
        states = [state, *(join().state(topic) for _ in range(3))]

        def count(mine: State) -> None:
            for _ in range(15):
                while True:
                    kept = mine.get("n")
                    try:
                        mine.put(
                            "n", b"%d" % (int(kept.value) + 1 if kept else 1), revision=kept.revision if kept else 0
                        )
                    except Conflict:
                        continue
                    break

        assert at_once([partial(count, each) for each in states]) == [None] * 4
        kept = state.get("n")
        assert kept is not None
        assert kept.value == b"60"

    # -- waiting -----------------------------------------------------------------------------------------------------

    def test_waiting_for_what_is_known(self, state: State) -> None:
        revision = state.put("k", b"1")
        started = time.monotonic()

        assert state.wait({"k": revision, "never": 0}, 0.3) == {}
        assert 0.25 < time.monotonic() - started < self.patience

    def test_what_changed_before_is_told_at_once(self, state: State) -> None:
        old = state.put("k", b"1")
        new = state.put("k", b"2")
        state.put("other", b"x")

        assert state.wait({"k": old}, 60) == {"k": (b"2", new)}
        assert state.wait({"k": new, "gone": 7}, 60) == {"gone": None}

    def test_who_waits_for_a_value_is_told(self, state: State, join: Join, topic: str) -> None:
        other = join().state(topic)
        revision = 0
        changes: list[tuple[Callable[[], object], bytes | None]] = [
            (lambda: other.put("k", b"1"), b"1"),
            (lambda: other.put("k", b"2"), b"2"),
            (lambda: other.delete("k"), None),
            (lambda: other.put("k", b"3", ttl=60), b"3"),
        ]
        for change, expected in changes:
            known = {"k": revision, "never": 0}
            told, _ = at_once([partial(state.wait, known, 60), change])
            assert told.keys() == {"k"}
            kept = told["k"]
            assert (kept and kept.value) == expected
            revision = kept.revision if kept else 0

    def test_who_waits_is_told_of_an_end(self, state: State) -> None:
        revision = state.put("k", b"1", ttl=0.4)

        assert state.wait({"k": revision}, self.patience) == {"k": None}

    def test_who_waits_at_a_topic_that_is_deleted_returns(self, state: State, join: Join, topic: str) -> None:
        other = join()
        told, _ = at_once([lambda: state.wait({"k": 0}, 3), lambda: other.delete(topic)])

        assert told == {} or isinstance(told, TopicNotFound | ConnectorError), told

    def test_who_waits_is_told_at_once_from_another_process(self, broker: Broker, state: State, topic: str) -> None:
        """The best of several times: the machine may be busy, a poll would be late always, or most times."""
        self.claim(broker, Capability.LAST_VALUE, "crosses_processes")
        took: list[float] = []
        with Child(roles.follow_value, broker, topic) as child:
            child.receive()
            for number in range(1, 8):
                child.send(number)
                child.receive()  # it waits from now on
                with broker.subscribe(topic, group=None) as pause:
                    pause.fetch(1, 0.05 + 0.03 * number)
                before = time.time()
                state.put("k", b"%d" % number)
                took.append(child.receive() - before)
            child.send(None)
        assert sorted(took)[2] < AT_ONCE, took
