"""Beside ZeroMQ: who goes there, who stays, and that nothing is lost where it cannot be opened."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from proxyfab import trace
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.beside import Offer
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.connectors.zmq.dealer import Dealer
from proxyfab.connectors.zmq.link import Link
from proxyfab.connectors.zmq.stream import Stream
from proxyfab.errors import ConnectorError
from proxyfab.keys import Key
from proxyfab.osio.shared import default_root
from proxyfab.osio.sockets import SIDE
from proxyfab.testing import in_fork
from proxyfab.testing.cable import Cable
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import DEADLINE, at_once, until
from proxyfab.wire.side import SILENCE

MB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[NodeServer]:
    with NodeServer() as server:
        yield server


@pytest.fixture
def opened() -> Iterator[list[trace.Span]]:
    """What was said of side channels that were opened."""
    spans: list[trace.Span] = []
    stop = trace.listen(lambda span: spans.append(span) if span.operation == "open side channel" else None)
    yield spans
    stop()


def way_of(one: ZMQConnector) -> type:
    """What carried its last call."""
    assert one.get(Key("never")) is None
    return type(one.servers.own()._idle[-1])


@pytest.mark.parametrize(("options", "way"), [("", Stream), ("?side=tcp", Stream), ("?side=0", Dealer)])
def test_clients_of_the_servers_machine_go_beside_unless_told_otherwise(server, opened, options, way):
    with ZMQConnector.from_url(server.url + options) as one:
        assert way_of(one) is way
        family = {"": socket.AF_UNIX, "?side=tcp": socket.AF_INET}.get(options)
        if family is not None:
            assert one.servers.own()._idle[-1]._socket.family is family
        assert is_whole(one.get(one.put(signed(3 * MB))))
    assert [span.error for span in opened] == [None] * (way is Stream)


def test_who_comes_through_a_proxy_stays_there(server, opened):
    with Cable(f"127.0.0.1:{server.port}") as cable, ZMQConnector.from_url(cable.through(server.url)) as one:
        assert way_of(one) is Dealer
    assert opened == []


def test_a_server_may_offer_nothing(opened):
    with NodeServer(["--no-side"]) as server, ZMQConnector.from_url(server.url) as one:
        assert way_of(one) is Dealer
        assert is_whole(one.get(one.put(signed(3 * MB))))
    assert opened == []


def _path_of(one: ZMQConnector) -> str:
    way_of(one)
    offer = one.servers.own()._offer
    assert offer is not None
    assert offer.path.startswith(default_root())
    assert offer.path.endswith(SIDE)
    assert os.stat(os.path.dirname(offer.path)).st_mode & 0o777 == 0o700
    return offer.path


def _gone(path: str, stack: list[Callable[[], None]]) -> None:
    del path, stack


def _refusing(path: str, stack: list[Callable[[], None]]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def _silent(path: str, stack: list[Callable[[], None]]) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    stack.append(listener.close)


def _impostor(path: str, stack: list[Callable[[], None]]) -> None:
    """Answers hello as a server would, and cannot prove that it is one."""
    from proxyfab.wire.side import Reading, written

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        end, _ = listener.accept()
        with end:
            reading = Reading()
            while (message := reading.next()) is None:
                if not (count := end.recv_into(reading.target)):
                    return  # too late for who asked
                reading.took(count)
            said: dict[str, Any] = {"incarnation": "0" * 12, "address": "x:1", "proof": bytes(32)}
            with contextlib.suppress(OSError):  # likewise
                end.sendall(written("ok", message.request, said))
                end.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    stack += [thread.join, listener.close]


@pytest.mark.parametrize("instead", [_gone, _refusing, _silent, _impostor])
def test_where_it_cannot_be_opened_zeromq_carries_everything(opened, instead):
    with NodeServer() as server:
        with ZMQConnector.from_url(server.url) as first:
            path = _path_of(first)
        os.unlink(path)
        stack: list[Callable[[], None]] = []
        instead(path, stack)
        opened.clear()
        with ZMQConnector.from_url(server.url) as one:
            started = time.monotonic()
            assert way_of(one) is Dealer
            assert time.monotonic() - started < 4
            assert is_whole(one.get(one.put(signed(3 * MB))))
            assert at_once([lambda: one.exists(Key("k"))] * 4) == [False] * 4
        assert len(opened) == 1, "it is told once, and not tried again"
        assert opened[0].error is not None
        for end in stack:
            end()


def test_an_offer_that_another_thread_has_given_up_meanwhile(server):
    """It is there when this thread looks, and gone when it looks again."""

    class Shared(Link):
        offers: ClassVar[list[Any]] = []

        @property
        def _offer(self) -> Any:
            return self.offers.pop() if self.offers else None

        @_offer.setter
        def _offer(self, offer: Any) -> None:
            self.offers[:] = [offer]

    link = Shared(f"127.0.0.1:{server.port}", 20, shared=False)
    link.known()
    link._idle.pop().close()
    assert [type(offer) for offer in link.offers] == [Offer]
    assert link.ask("exists", {"ns": "n", "ids": ["k"]}).fields["found"] == [False]
    link.close()


def test_a_new_server_at_the_same_address_is_gone_beside_again(opened):
    with NodeServer() as server, ZMQConnector.from_url(server.url) as one:
        assert way_of(one) is Stream
        server.restart()
        assert way_of(one) is Stream
    assert [span.error for span in opened] == [None, None]


def test_a_forked_child_keeps_none_of_its_parents_connections(server):
    def beside(ask: ZMQConnector) -> int:
        """Connections of the Unix socket. That those of ZeroMQ have ended the server hears a little later."""
        return [peer["address"] for peer in ask.status().peers].count("local")

    def child() -> bool:
        forked.set()
        assert released.wait(DEADLINE), "the parent's connection lives on in its child"
        return one.exists(Key("k"))

    import multiprocessing

    forked, released = (multiprocessing.get_context("fork").Event() for _ in range(2))
    with ZMQConnector.from_url(server.url) as ask, ZMQConnector.from_url(server.url) as one:
        before = beside(ask)
        assert way_of(one) is Stream
        assert beside(ask) == before + 1

        def close() -> None:
            forked.wait(DEADLINE)
            one.servers.own().close()
            assert until(lambda: beside(ask) == before)
            released.set()

        closing = threading.Thread(target=close)
        closing.start()
        in_fork(child)
        closing.join()


def test_a_fork_amid_closing_keeps_no_connection(server):
    """It has a descriptor of it that nobody knows any more."""
    with ZMQConnector.from_url(server.url) as ask, ZMQConnector.from_url(server.url) as one:
        assert way_of(ask) is way_of(one) is Stream
        before = len(ask.status().peers)
        kept = os.dup(one.servers.own()._idle[-1]._socket.fileno())
        try:
            one.servers.own().close()
            assert until(lambda: len(ask.status().peers) < before)
        finally:
            os.close(kept)


def test_a_way_that_falls_silent_is_noticed_on_both_sides(server):
    """A cable lies between both ends of the side channel, and carries nothing any more."""
    with ZMQConnector.from_url(server.url) as ask, ZMQConnector.from_url(server.url + "?side=tcp") as one:
        assert way_of(one) is Stream
        link = one.servers.own()
        assert link._offer is not None
        with Cable(f"127.0.0.1:{link._offer.port}") as cable:
            link._idle.pop().close()
            link._offer = link._offer._replace(port=cable.port)
            assert way_of(one) is Stream
            assert cable.connections == 1

            def wait() -> float:
                with pytest.raises(ConnectorError):
                    one.wait(Key("never"), 60)
                return time.monotonic()

            def pause() -> tuple[float, float]:
                assert until(lambda: ask.status().gauges["waiting"] == 1)
                cable.pause()
                paused = time.monotonic()
                assert until(lambda: ask.status().gauges["waiting"] == 0, 15)
                return paused, time.monotonic()

            ended, (paused, dropped) = at_once([wait, pause])
            assert dropped - paused < 8
            assert ended - paused < 12


@pytest.mark.parametrize("amid", ["waiting", "sending"])
def test_a_process_that_was_away_for_a_while_goes_on_as_often_as_it_takes(server, amid):
    """Its thread could not say that it is there, and the server gave its wait up."""
    with ZMQConnector.from_url(server.url) as one:
        link, times = one.servers.own(), 0

        def once(channel: Channel, request: bytes) -> int:
            nonlocal times
            times += 1
            channel.send("wait", request, {"ns": "n", "ids": ["never"], "timeout": None})
            if times < 20:
                assert isinstance(channel, Stream)
                channel._said -= SILENCE  # it seems to be so long ago
                channel._socket.shutdown(socket.SHUT_RDWR)
                if amid == "sending":
                    channel.send("wait", request, {"ns": "n", "ids": ["never"], "timeout": None})
                channel.answer(request, float("inf"))
            return times

        before = link._budget.tokens
        assert link.call("wait", once) == 20
        assert link._budget.tokens >= before


# -- waiting for many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["", "?side=0"])
def test_thousands_are_waited_for_on_one_connection(server, way):
    with ZMQConnector.from_url(server.url + way) as one, ZMQConnector.from_url(server.url) as two:
        keys = [one.reserve() for _ in range(3000)]
        peers = len(two.status().peers)

        def put() -> None:
            assert until(lambda: two.status().gauges["waiting"] >= 2)
            assert len(two.status().peers) <= peers + 1
            two.put(Frames([b"x"]), key=keys[2500])

        found, _ = at_once([lambda: one.wait_any(keys, 20), put])
        assert found == [keys[2500]]
        assert until(lambda: two.status().gauges["waiting"] == 0), "the other requests were taken back"
        two.put(Frames([b"x"]), key=keys[3])
        assert one.wait_any(keys, 20) == [keys[3], keys[2500]]
        assert one.wait_any(keys[10:2000], 0) == []
        assert is_whole(one.get(one.put(signed(3 * MB)))), "late answers are passed over"
        one.clear()


def test_objects_of_several_servers_are_waited_for(server):
    with NodeServer() as other, ZMQConnector.from_url(server.url) as here, ZMQConnector.from_url(other.url) as there:
        keys = [here.reserve(), there.reserve()]

        def put() -> float:
            assert until(lambda: there.status().gauges["waiting"] == 1)
            there.put(Frames([b"x"]), key=keys[1])
            return time.monotonic()

        (found, told), since = at_once([lambda: (here.wait_any(keys, 20), time.monotonic()), put])
        assert found == [keys[1]]
        assert told - since < 2
        assert here.wait_any(keys[:1], 0.05) == []


def test_a_link_closes_while_others_take_its_last_channel() -> None:
    class Raced(deque[Channel]):
        """Somebody takes what is left between the look and the taking."""

        def __bool__(self) -> bool:
            return True

    link = Link("127.0.0.1:1", 1.0, shared=False)
    link._idle = Raced()
    link.close()


def test_what_is_put_where_room_was_taken_back_goes(server: NodeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lost the client, which was copying; it says so when it is done, and puts it once more."""
    with ZMQConnector.from_url(f"{server.url}?ns=late") as one, ZMQConnector.from_url(f"{server.url}?shared=0") as two:
        link = one.servers.own()
        place = link.place(link.known().space)
        take, put = link._take, place.put
        lent: list[Channel] = []
        granted: list[Key] = []

        def lend(patience: float, ends: float) -> Channel:
            lent.append(take(patience, ends))
            return lent[-1]

        def copy_late(frames: Frames, *, key: Key) -> Key:
            granted.append(key)
            if len(granted) == 1:
                peers = len(two.status().peers)
                lent[-1].close()
                assert until(lambda: len(two.status().peers) < peers)
            return put(frames, key=key)  # type: ignore[no-any-return]  # of a connector

        monkeypatch.setattr(link, "_take", lend)
        monkeypatch.setattr(place, "put", copy_late)
        key = one.put(signed(MB), key=Key("object"))

        found = one.get(key)
        assert found is not None
        assert is_whole(found)
        assert list(map(place.exists, granted)) == [False, True]
