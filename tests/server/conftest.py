"""A node server for the tests of a module, and raw connections to it, by each way there is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from proxyfab.connectors.zmq.beside import connect
from proxyfab.testing.nodes import NodeServer
from tests.server.raw import PATIENCE, Raw, RawSide, offered


@pytest.fixture(scope="module")
def node_server() -> Iterator[NodeServer]:
    """A node server for the tests of a module."""
    with NodeServer() as server:
        yield server


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context


@pytest.fixture(params=["router", "unix", "tcp"])
def raw(request: Any, node_server: NodeServer, context: zmq.Context[Any]) -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []

    def make(server: NodeServer = node_server) -> Raw:
        made.append(Raw(context, server) if request.param == "router" else RawSide(context, server, request.param))
        return made[-1]

    make.way = request.param  # type: ignore[attr-defined]  # for tests that ask
    yield make
    for one in made:
        one.close()


@pytest.fixture
def stream(node_server: NodeServer, context: zmq.Context[Any]) -> Iterator[Callable[[], socket.socket]]:
    """Connections beside ZeroMQ on which nothing was said yet."""
    raw = Raw(context, node_server)
    offer, address = offered(raw, node_server, "unix")
    raw.close()
    made: list[socket.socket] = []

    def make() -> socket.socket:
        made.append(connect(offer, address, PATIENCE))
        return made[-1]

    yield make
    for one in made:
        one.close()
