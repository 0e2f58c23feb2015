"""Stores of every kind for the tests of futures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import RedisServer
from tests.patterns.future_places import PLACES, TWINS, open_place


@pytest.fixture(scope="session")
def futures_node() -> Iterator[NodeServer]:
    """A node server that the tests of futures share; they must not stop it."""
    with NodeServer() as server:
        yield server


@pytest.fixture(params=[pytest.param(each, marks=pytest.mark.slow) if each in TWINS else each for each in PLACES])
def anywhere(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    futures_node: NodeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """A store of each kind."""
    with open_place(request.param, redis_server, futures_node, tmp_path, monkeypatch) as store:
        yield store
