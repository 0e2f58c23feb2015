"""What a connector is: its URL, its abilities, its closing, its errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab.abc import (
    SupportsCompareAndSet,
    SupportsLease,
    SupportsRange,
    SupportsReap,
    SupportsScan,
    SupportsWatch,
)
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.spec import ConnectorSpec
from proxyfab.testing import roles
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import content
from proxyfab.testing.processes import at_once, run


class IdentityTests(Suite):
    """Rules 4, 5 and 7."""

    def test_abilities_are_as_stated(self, one: Any) -> None:
        claims = {
            SupportsCompareAndSet: self.swaps,
            SupportsLease: self.leases,
            SupportsRange: True,
            SupportsReap: self.reaps,
            SupportsScan: self.scans,
            SupportsWatch: True,
        }
        assert {ability: isinstance(one, ability) for ability in claims} == claims
        assert one.wait_bound >= 0

    def test_a_spec_names_the_scheme(self, one: Any) -> None:
        spec = ConnectorSpec.parse(one.spec)

        assert spec.scheme == one.scheme
        assert str(spec) == one.spec
        assert isinstance(one.place, str)
        assert one.spec in repr(one)

    def test_a_spec_opens_the_same_place(self, connect: Open) -> None:
        for first in (connect(), connect("named")):
            key = first.put(Frames([b"here"]))
            second = connect(url=first.spec)

            assert second.spec == first.spec
            assert content(second.get(key)) == b"here"
            assert content(first.get(second.put(Frames([b"there"])))) == b"there"
            assert content(first.get(Key(second.put(Frames([b"x"]), key=Key("plain")).id))) == b"x"

    def test_two_unnamed_connectors_are_two_places(self, connect: Open) -> None:
        assert connect().spec != connect().spec

    def test_a_name_is_the_same_place_for_all(self, connect: Open) -> None:
        one, other = connect("shared"), connect("shared")
        one.put(Frames([b"x"]), key=Key("k"))

        assert one.spec == other.spec
        assert content(other.get(Key("k"))) == b"x"

    def test_a_connector_pickles(self, connect: Open) -> None:
        for one in (connect(), connect("named")):
            key = one.put(Frames([b"here"]))
            other = pickle.loads(pickle.dumps(one))

            assert type(other) is type(one)
            assert other.spec == one.spec
            assert content(other.get(key)) == b"here"
            other.close()
            assert content(one.get(key)) == b"here"

    def test_another_process_opens_the_spec(self, connect: Open) -> None:
        self.claim("crosses_processes")
        for one in (connect(), connect("named")):
            one.put(Frames([b"x"]))
            spec, key = run(roles.reopen, self.connector, one.spec)

            assert spec == one.spec
            assert content(one.get(key)) == b"from elsewhere"

    def test_where_others_cannot_reach_they_are_told(self, one: Any) -> None:
        """A place of one process must not look empty to another one."""
        if self.crosses_processes:
            pytest.skip(f"{self.connector.__name__} does not claim to stay in one process")
        for key in (one.put(Frames([b"x"])), one.reserve()):
            name, text = run(roles.refusal, one, key)

            assert issubclass(getattr(__import__("proxyfab.errors", fromlist=[name]), name), ProxyfabError)
            assert "process" in text

    def test_construction_does_nothing(self, place: Path, connect: Open) -> None:
        self.claim("on_disk")
        for connector in (connect(), connect("named")):
            assert connector.spec
            assert repr(connector)
            assert connector.place
            assert connector.reserve()
            pickle.dumps(connector)

        assert not place.exists() or list(place.iterdir()) == []

    def test_an_unused_connector_can_be_closed(self, connect: Open) -> None:
        connect().close()

    def test_close_deletes_nothing_and_can_be_repeated(self, connect: Open) -> None:
        one = connect()
        key = one.put(Frames([b"still here"]))
        spec = one.spec
        one.close()
        one.close()
        at_once([one.close] * 4)

        assert content(connect(url=spec).get(key)) == b"still here"

    def test_what_is_closed_says_so(self, one: Any) -> None:
        key = one.put(Frames([b"x"]))
        one.close()
        calls: list[Callable[[], Any]] = [
            lambda: one.put(Frames([b"x"])),
            lambda: one.get(key),
            lambda: one.exists(key),
            lambda: one.evict(key),
            lambda: one.stat(key),
            lambda: one.wait(key, 0.1),
            lambda: one.get_range(key, 0, 1),
            lambda: one.put_many([Frames([b"x"])]),
            lambda: one.get_many([key]),
            lambda: one.exists_many([key]),
            lambda: one.evict_many([key]),
            one.clear,
            *([lambda: one.renew(key, 5)] if self.leases else []),
            *([lambda: list(one.scan())] if self.scans else []),
            *([lambda: one.compare_and_set(key, None, None)] if self.swaps else []),
            *([one.reap] if self.reaps else []),
        ]
        for call in calls:
            with pytest.raises(ConnectorError):
                call()

    def test_a_with_block_closes(self, connect: Open) -> None:
        one = connect()

        def fail_inside() -> None:
            with one:
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fail_inside()
        with pytest.raises(ConnectorError):
            one.exists(Key("k"))

    def test_one_closes_and_the_other_works(self, connect: Open) -> None:
        one = connect("shared")
        other = connect("shared")
        key = one.put(Frames([b"x"]))
        views = other.get(key)
        one.close()

        assert content(views) == content(other.get(key)) == b"x"

    def test_an_unknown_option_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="nonsense"):
            self.open(f"{url}{'&' if '?' in url else '?'}nonsense=1")

    @pytest.mark.parametrize("name", ["../up", "a/b", " ", "~mine", "x" * 65, "a\n", "."])
    def test_a_name_that_is_none_is_refused(self, connect: Open, name: str) -> None:
        with pytest.raises(ConfigurationError):
            connect(name)
