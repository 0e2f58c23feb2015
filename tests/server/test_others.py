"""A node server among other processes, other servers and clients of other machines; many threads."""

from __future__ import annotations

import pickle
import threading
import time
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import ConnectorError, KeyExists
from proxyfab.testing import Child, roles
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.nodes import WAYS, NodeServer
from proxyfab.testing.processes import at_once, run, until

MB = 2**20


# -- other processes, other servers ----------------------------------------------------------------------------------


def test_any_connector_resolves_any_key(node_server):
    with NodeServer() as other, ZMQConnector.from_url(other.url) as there, Store(node_server.url) as here:
        keys = [there.put(signed(nbytes)) for nbytes in (100, 3 * MB)]
        mine = here.put(b"mine" * 1000)
        with ZMQConnector.from_url(node_server.url) as one:
            assert [is_whole(frames) for frames in one.get_many(keys)] == [True, True]
            assert one.get_many([keys[0], mine, keys[1]])[1] is not None
            assert run(roles.read, one, keys)[0] == there.get(keys[0]).tobytes()
            assert one.evict_many(keys) == [True, True]
        other.kill()
        with ZMQConnector.from_url(node_server.url) as one, pytest.raises(ConnectorError, match="no server listens"):
            one.get(keys[0])


def test_a_proxy_of_a_stored_object_is_small(node_server):
    with Store(node_server.url, inline_below=0) as store:
        assert len(pickle.dumps(store.proxy(b"x" * 10_000))) < 320


# -- clients of other machines ---------------------------------------------------------------------------------------


def far_away(talk: Any, url: str) -> None:
    """A client whose process the server cannot look up."""
    from proxyfab.osio import owner

    owner._machine_id = "0badcafe"
    with ZMQConnector.from_url(url + "?shared=0") as one:
        talk.send(one.put(signed(3 * MB)))
        talk.recv()


@pytest.mark.parametrize("then", ["kill", "end"])
def test_what_a_client_of_another_machine_put_lives_and_ends_with_it(then):
    with NodeServer(["--orphans", "1"]) as server, ZMQConnector.from_url(server.url) as one:
        with Child(far_away, server.url) as child:
            key = child.receive()
            ends = time.monotonic() + 3
            assert until(lambda: time.monotonic() > ends or not one.exists(key))
            assert is_whole(one.get(key)), "it lives as long as its process does"
            if then == "kill":
                child.kill()
            else:
                child.send("end")
                child.result()
                assert not one.exists(key)
            assert until(lambda: not one.exists(key), 15)
        assert one.status().objects == 0


def test_what_is_mapped_is_not_verified_at_each_get_and_what_came_over_the_wire_is(node_server):
    with ZMQConnector.from_url(node_server.url) as one, ZMQConnector.from_url(one.spec + "&shared=0") as wire:
        key = one.put(signed(3 * MB))
        assert (one.get(key).mapped, wire.get(key).mapped) == (True, False)
        assert one.get(key) == wire.get(key)


@pytest.mark.parametrize("way", WAYS)
def test_threads_put_and_get_on_the_wire(node_server, way):
    with ZMQConnector.from_url(node_server.url + way) as one:
        stop = threading.Event()

        def work() -> int:
            count = 0
            while not stop.is_set() and count < 15:
                assert is_whole(one.get(one.put(signed(2 * MB + count))))
                count += 1
            return count

        assert at_once([work] * 4) == [15] * 4
        with pytest.raises(KeyExists):
            one.put(Frames([b"x"]), key=one.put(Frames([b"x"])))
