"""Layer: forwards everything, claims what its child has, and is no more than its name in a URL."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from proxyfab import registry
from proxyfab.abc import BaseConnector, SupportsLease, SupportsReap, SupportsScan, SupportsStatus
from proxyfab.abilities import METHODS, claiming
from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import ConfigurationError
from proxyfab.layers.base import Layer
from proxyfab.opening import open_connector
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.lifetimes import LifetimeTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests


class Thin(Layer):
    """Does nothing of its own, and has no name: as for any URL of its child's."""

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return cls(SharedMemoryConnector.from_url(url, name=name))


class TestThin(ObjectTests, BatchTests, PayloadTests, LifetimeTests):
    """What is passed on; layers that do something have the whole suite."""

    connector = Thin

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory))
        return "shm://"


class Bare(BaseConnector):
    scheme = "bare"


class Named(Layer):
    name = "named"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._loaded, ("layers", "named"), Named)


def test_it_claims_what_its_child_claims() -> None:
    abilities = (SupportsLease, SupportsReap, SupportsScan)

    assert [isinstance(Layer(MemoryConnector()), ability) for ability in abilities] == [True] * 3
    assert [isinstance(Layer(Bare()), ability) for ability in METHODS] == [False] * len(METHODS)
    assert not isinstance(Layer(MemoryConnector()), SupportsStatus)


def test_a_class_is_made_once() -> None:
    assert type(Named(Bare())) is type(Named(Bare()))
    assert type(Named(Named(Bare()))) is type(Named(Bare()))
    assert type(Named(Bare())).__name__ == "Named"
    assert claiming(Layer, METHODS) is Layer


def test_its_name_stands_before_the_scheme(registered: None) -> None:
    with MemoryConnector() as child:
        one = Named(child)
        key = one.put(Frames([b"x"]))
        again = open_connector(one.spec)

        assert one.spec == f"named+{child.spec}"
        assert again.spec == one.spec
        assert isinstance(again, Named)
        assert again.get(key) == Frames([b"x"])
        assert pickle.loads(pickle.dumps(one)).spec == one.spec


def test_a_layer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        open_connector("nonsense+memory://")
