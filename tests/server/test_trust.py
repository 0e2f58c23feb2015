"""Who is let in by a node server, and what others are told."""

from __future__ import annotations

import socket

import pytest

from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.connectors.zmq.dealer import Dealer
from proxyfab.connectors.zmq.stream import Stream
from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.server.gate import check_binds
from proxyfab.server.options import Options
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.nodes import NodeServer
from proxyfab.zeromq.greeting import mechanism

MB = 2**20


@pytest.fixture
def keyring(tmp_path, monkeypatch) -> Keyring:
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    keyring = Keyring()
    keyring.make("curve", "server")
    keyring.make("curve", "client")
    return keyring


@pytest.mark.parametrize("bind", ["127.0.0.1:6600", "tcp://127.0.0.1", "tcp://127.0.0.1:66000", "udp://127.0.0.1:0"])
def test_what_is_no_endpoint_is_not_listened_at(bind):
    """ZeroMQ itself takes port 66000 for 464."""
    with pytest.raises(ConfigurationError, match="is no endpoint: write tcp://HOST:PORT"):
        check_binds(Options(bind=(bind,)))
    with pytest.raises(ConfigurationError, match="no address to advertise"):
        check_binds(Options(advertise="node7:66000"))


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0"])
def test_beyond_loopback_only_with_a_key(bind):
    with pytest.raises(AssertionError, match="--key"):
        NodeServer(bind=bind).start()


def test_curve_lets_in_who_is_on_the_list(keyring):
    client, server_key = keyring.curve("client")[0], keyring.curve("server")[0].decode()
    with NodeServer(["--key", "server", "--advertise", "node7:5555"], bind="tcp://0.0.0.0:0") as server:
        port = server.ready["endpoints"][0].rpartition(":")[2]
        keyring.know(f"tcp://127.0.0.1:{port}", server_key)
        with ZMQConnector.from_url(f"zmq://127.0.0.1:{port}?timeout=5") as one:
            with pytest.raises(AccessDenied, match="does not let this client's key in"):
                one.get(Key("k"))
            keyring.allow("server", client, "me")
            assert one.get(Key("k")) is None, "the list is read anew"
            key = one.put(signed(3 * MB))
            assert key.where.endswith("/node7:5555")
            assert is_whole(one.get(key))
        with ZMQConnector.from_url(f"zmq://127.0.0.1:{port}?shared=0") as one:
            assert is_whole(one.get(one.put(signed(3 * MB))))
            keys = one.put_many([signed(100)] * 100)
            assert all(map(is_whole, one.get_many(keys)))


def test_a_list_that_is_damaged_lets_nobody_in_and_ends_nothing(keyring, tmp_path):
    client, server_key = keyring.curve("client")[0], keyring.curve("server")[0].decode()
    allowed = tmp_path / "allowed"
    allowed.write_bytes(client + b" me\n")
    with NodeServer(["--key", "server", "--allow", str(allowed)]) as server:
        with ZMQConnector(server.url[6:], key=server_key, timeout=5, shared=False) as one:
            key = one.put(signed(3 * MB))
            for damaged in (b"\xff\xfe" + client, None):
                allowed.unlink() if damaged is None else allowed.write_bytes(damaged)
                with (
                    ZMQConnector(server.url[6:], key=server_key, timeout=5) as other,
                    pytest.raises(AccessDenied, match="does not let this client's key in"),
                ):
                    other.get(key)
            allowed.write_bytes(client)
            with ZMQConnector(server.url[6:], key=server_key, timeout=5) as other:
                assert is_whole(other.get(key))
            assert is_whole(one.get(key))


def test_the_wrong_key_and_no_key_are_told(keyring):
    keyring.allow("server", keyring.curve("client")[0], "me")
    other = keyring.make("curve", "other").public
    with NodeServer(["--key", "server"]) as server:
        with (
            ZMQConnector(server.url[6:], key=other, timeout=5) as one,
            pytest.raises(AccessDenied, match="another key"),
        ):
            one.get(Key("k"))
        with ZMQConnector(server.url[6:], timeout=5) as one, pytest.raises(AccessDenied, match="CURVE"):
            one.get(Key("k"))
        with ZMQConnector(server.url[6:], key=keyring.curve("server")[0].decode(), timeout=5) as one:
            assert one.get(Key("k")) is None
        with ZMQConnector.from_url(server.url + "?as=nobody", name=None) as one:
            keyring.know(server.url[6:], keyring.curve("server")[0])
            with pytest.raises(ConfigurationError, match="nobody"):
                one.get(Key("k"))


def test_what_a_server_wants_is_read_from_its_greeting(keyring, node_server):
    with NodeServer(["--key", "server"]) as guarded:
        assert mechanism(f"tcp://{guarded.url[6:]}", 5) == "CURVE"
    assert mechanism(f"tcp://{guarded.url[6:]}", 5) is None  # nobody there any more
    assert mechanism(f"tcp://{node_server.url[6:]}", 5) == "NULL"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert mechanism(f"tcp://127.0.0.1:{silent.getsockname()[1]}", 0.1) is None


def test_a_server_without_curve_is_not_spoken_to_with_it(keyring, node_server):
    key = keyring.curve("server")[0].decode()
    with ZMQConnector(node_server.url[6:], key=key, timeout=5) as one, pytest.raises(AccessDenied):
        one.get(Key("k"))


def test_with_a_key_nothing_that_others_can_read_is_offered_beside(keyring):
    """Who was let in gets a socket of his own user; no port, where nobody is asked for his key."""
    keyring.allow("server", keyring.curve("client")[0], "me")
    with NodeServer(["--key", "server"]) as server:
        keyring.know(server.url[6:], keyring.curve("server")[0])
        for options, way in (("", Stream), ("?side=tcp", Dealer)):
            with ZMQConnector.from_url(server.url + options) as one:
                assert one.get(Key("k")) is None
                channel = one.servers.own()._idle[-1]
                assert type(channel) is way
                assert "port" not in channel.welcome.fields.get("side", {})
                assert not isinstance(channel, Stream) or channel._socket.family is socket.AF_UNIX
