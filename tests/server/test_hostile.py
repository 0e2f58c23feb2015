"""Whoever knocks: noise, port scans, half-open and silent peers, floods. The server lives, and its memory stays."""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.keys import Key
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import until
from proxyfab.wire.flow import PIPELINED
from proxyfab.wire.messages import CHUNK, MAX_MESSAGE, NOBODY, encode
from proxyfab.wire.side import NONCE, Reading, written
from tests.server.raw import Raw, RawSide

MB = 2**20


def lives(server) -> bool:
    with ZMQConnector.from_url(server.url + "?shared=0") as connector:
        key = connector.put(signed(3 * MB))
        return is_whole(connector.get(key)) and connector.evict(key)


def test_malformed_messages_are_answered_and_end_nothing(node_server, context):
    one = Raw(context, node_server)
    dice = random.Random(1)
    for number in range(300):
        parts = [dice.randbytes(dice.randrange(100)) for _ in range(dice.randrange(1, 4))]
        one.socket.send_multipart(parts)
        answer = one.hear()
        assert (answer.verb, answer.request, answer.text("kind")) == ("error", NOBODY, "IntegrityError"), number
    assert one.ask("exists", {"ns": "n", "ids": ["k"]}).fields["found"] == [False]
    one.close()
    assert lives(node_server)


WRONG = {
    "unknown verb": ("explode", {}, "ConfigurationError"),
    "no fields": ("get", {}, "IntegrityError"),
    "ids are numbers": ("get", {"ns": "n", "ids": [1]}, "IntegrityError"),
    "namespace up": ("put", {"ns": "../up", "ids": ["k"], "sizes": [0]}, "ConfigurationError"),
    "namespace empty": ("upload", {"ns": "", "id": "k", "size": 5}, "ConfigurationError"),
    "id with a line break": ("upload", {"ns": "n", "id": "k\n", "size": 5}, "ConfigurationError"),
    "negative size": ("upload", {"ns": "n", "id": "k", "size": -5}, "IntegrityError"),
    "giant size": ("upload", {"ns": "n", "id": "k", "size": 1 << 61}, "CapacityError"),
    "sizes that lie": ("put", {"ns": "n", "ids": ["k"], "sizes": [100]}, "IntegrityError"),
    "more sizes than ids": ("put", {"ns": "n", "ids": ["k"], "sizes": [0, 0]}, "IntegrityError"),
    "ttl nan": ("put", {"ns": "n", "ids": ["k"], "sizes": [0], "ttl": float("nan")}, "ConfigurationError"),
    "ttl text": ("put", {"ns": "n", "ids": ["k"], "sizes": [0], "ttl": "5"}, "IntegrityError"),
    "commit of nothing": ("commit", {"grant": b"x" * 16}, "ConnectorError"),
    "commit of a number": ("commit", {"grant": 5}, "IntegrityError"),
    "wait for nothing": ("wait", {"ns": "n", "ids": []}, "IntegrityError"),
    "swap of nothing": ("swap", {"ns": "n", "ids": []}, "IntegrityError"),
    "swap that lies": ("swap", {"ns": "n", "ids": ["k"], "old": 5}, "IntegrityError"),
    "scan of a list": ("scan", {"ns": []}, "IntegrityError"),
    "leave of numbers": ("leave", {"spaces": 5}, "IntegrityError"),
    "offset text": ("get", {"ns": "n", "ids": ["k"], "offset": "x", "length": 1}, "IntegrityError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused_in_words(node_server, raw, name):
    verb, fields, kind = WRONG[name]
    answer = raw().ask(verb, fields, request=os.urandom(16))

    assert (answer.verb, answer.fields.get("kind")) == ("error", kind), answer
    assert answer.text("text")
    assert lives(node_server)


def test_chunks_that_nobody_asked_for(node_server, raw):
    one = raw()
    one.say("data", {"o": 0}, bytes(1000))
    one.say("ack", {"n": 5})
    one.say("cancel", {})
    one.say("upload", {"ns": "n", "id": "k", "size": 3 * CHUNK}, request=b"u" * 16)
    assert one.hear().verb == "go"
    one.say("data", {"o": CHUNK}, bytes(CHUNK), request=b"u" * 16)
    assert one.hear().fields["kind"] == "IntegrityError"
    one.say("data", {"o": 0}, bytes(CHUNK), request=b"u" * 16)
    assert one.ask("exists", {"ns": "n", "ids": ["k"]}, request=b"e" * 16).fields["found"] == [False]


def test_a_frame_above_the_limit_ends_its_connection_only(node_server, context):
    one = Raw(context, node_server)
    one.socket.send_multipart([encode("put", NOBODY, {}), bytes(MAX_MESSAGE + 1)])
    assert lives(node_server)
    one.close()


_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"


@pytest.mark.parametrize("nbytes", [200, MB])
def test_a_message_that_does_not_end_is_not_waited_for(node_server, nbytes):
    before = node_server.memory()
    size = b"\x03" + nbytes.to_bytes(8, "big") if nbytes > 255 else b"\x01" + bytes([nbytes])
    frame = (size + bytes(nbytes)) * max(1, 2**16 // nbytes)
    with socket.create_connection(("127.0.0.1", node_server.port)) as one:
        one.settimeout(3)
        one.sendall(_GREETING + b"\x04" + bytes([len(_READY)]) + _READY)
        said = b""
        while b"ROUTER" not in said:
            said += one.recv(4096)
        with ZMQConnector.from_url(node_server.url) as connector:
            floods = connector.status().counters["floods"]
            with pytest.raises(OSError):  # noqa: PT011 - a reset, a broken pipe, or nobody takes a byte any more
                while True:
                    one.sendall(frame)
            assert until(lambda: connector.status().counters["floods"] == floods + 1)
    assert until(lambda: node_server.memory() < before + 256 * MB), "small frames leave holes behind"
    assert lives(node_server)


# -- beside ZeroMQ ---------------------------------------------------------------------------------------------------

_HELLO = written("hello", NOBODY, {"nonce": bytes(NONCE), "proof": bytes(32)})
STRANGERS = {
    "noise": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a giant header": b"\xff\xff\xff\x7f" + bytes(4),
    "a giant body": (30).to_bytes(4, "little") + b"\xff\xff\xff\x7f" + bytes(30),
    "a body before hello": _HELLO[:4] + (100).to_bytes(4, "little") + _HELLO[8:] + bytes(100),
    "no token": _HELLO,
    "another verb": written("clear", NOBODY, {"ns": "n"}),
    "a ping": written("ping", NOBODY, {}),
    "an older hello": written("hello", NOBODY, {"version": 1, "name": "x"}),
    "a header that is none": (4).to_bytes(4, "little") + bytes(4) + b"\xc1\xc1\xc1\xc1",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_who_does_not_know_the_token_is_told_so_and_goes(node_server, stream, name):
    one = stream()
    one.settimeout(10)
    one.sendall(STRANGERS[name])
    reading = Reading()
    while received := one.recv_into(reading.target):
        reading.took(received)
    answer = reading.next()
    assert answer is not None
    assert (answer.verb, answer.request) == ("error", NOBODY)
    assert answer.text("kind") in ("AccessDenied", "IntegrityError")
    assert lives(node_server)


def test_who_says_nothing_is_sent_away_and_many_keep_nobody_out(node_server, stream):
    silent = [stream() for _ in range(200)]
    assert lives(node_server)
    for one in silent:
        one.settimeout(20)
        with contextlib.suppress(ConnectionError):
            assert one.recv(1) == b""


@pytest.mark.parametrize("rest", [b"", b"\x05", b"\0" * 8, b"GET / HTTP/1.1\r\n", bytes(range(256)) * 300])
def test_what_makes_no_sense_ends_its_own_stream(node_server, context, rest):
    one = RawSide(context, node_server, "unix")
    other = RawSide(context, node_server, "unix")
    one.stream.sendall(rest)
    one.stream.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while one.hear():
            pass
    one.close()
    assert other.ask("exists", {"ns": "n", "ids": ["k"]}).fields["found"] == [False]
    other.close()
    assert lives(node_server)


def test_who_asks_again_and_again_and_never_reads_is_not_listened_to(node_server, context):
    """What waits for him is bounded by what he could say, and after a while he is taken to be gone."""
    with ZMQConnector.from_url(node_server.url + "?ns=unread") as connector:
        connector.put(Frames([bytes(MB - 100)]), key=Key("k"))
        before, peers = node_server.memory(), len(connector.status().peers)
        one = RawSide(context, node_server, "unix")
        one.stream.settimeout(1.0)
        asked = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while asked < 100_000:
                one.say("get", {"ns": "unread", "ids": ["k"]}, request=asked.to_bytes(16, "big"))
                asked += 1
        assert 10 < asked < 100_000
        assert node_server.memory() < before + 16 * MB
        assert until(lambda: len(connector.status().peers) == peers, 15)
        one.close()
        connector.clear()
    assert lives(node_server)


def _begin(one: RawSide) -> None:
    """Most of a put."""
    said = written("put", b"r" * 16, {"ns": "half", "ids": ["k"], "sizes": [2 * MB]}, 2 * MB)
    one.stream.sendall(said + b"x" * (2 * MB - 1))


def test_who_falls_silent_in_the_middle_of_a_message_goes(node_server, context):
    with ZMQConnector.from_url(node_server.url) as connector:
        before, peers = node_server.memory(), len(connector.status().peers)
        idle = RawSide(context, node_server, "unix")
        halfway = [RawSide(context, node_server, way) for way in ("unix", "tcp") * 20]
        try:
            for one in halfway:
                _begin(one)
            assert until(lambda: len(connector.status().peers) <= peers + 1, 60)
            assert node_server.memory() < before + 20 * MB
            assert idle.ask("exists", {"ns": "n", "ids": ["k"]}).verb == "ok", "who is in the middle of nothing may be"
        finally:
            for one in (idle, *halfway):
                one.close()


def test_who_goes_in_the_middle_of_a_message_leaves_nothing(node_server, context):
    with ZMQConnector.from_url(node_server.url) as connector:
        before, peers = node_server.memory(), len(connector.status().peers)
        for _ in range(60):
            one = RawSide(context, node_server, "unix")
            _begin(one)
            one.close()
        assert until(lambda: len(connector.status().peers) <= peers)
        assert node_server.memory() < before + 20 * MB
    assert lives(node_server)


def test_port_scans_and_half_open_peers(node_server):
    before = node_server.memory()
    sockets = []
    for number in range(200):
        one = socket.create_connection(("127.0.0.1", node_server.port))
        if number % 4 == 0:
            one.close()
            continue
        if number % 4 == 1:
            one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        elif number % 4 == 2:
            one.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03")
        sockets.append(one)
    assert lives(node_server)
    for one in sockets:
        one.close()
    assert lives(node_server)
    assert node_server.memory() < before + 32 * MB


@pytest.mark.parametrize(
    "said",
    [
        b"\x01\0\x06\0hello",  # ZMTP 1.0: the length of a name, then a message
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x05\0\0\0\x05hello",  # ZMTP 2.0
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(512),  # TLS says hello
    ],
)
def test_who_speaks_an_old_zmtp_or_another_protocol(node_server, said):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", node_server.port)) as one:
            one.sendall(said)
            one.shutdown(socket.SHUT_WR)
            while one.recv(1000):
                """Until the server has read all of it."""
    assert lives(node_server)


def test_a_flood_of_hellos(node_server, raw):
    before = node_server.memory()
    for _ in range(20):
        one = raw()
        for number in range(500):
            one.say("hello", {"name": "x" * 1000, "process": f"p{number}"}, request=(number + 1).to_bytes(16, "big"))
            if number % PIPELINED == 0:  # who reads no answers is disconnected
                while one.hear().request != (number + 1).to_bytes(16, "big"):
                    pass
        one.close()
    assert lives(node_server)
    assert node_server.memory() < before + 32 * MB


def test_who_asks_and_never_reads_costs_a_window(node_server, raw):
    with ZMQConnector.from_url(node_server.url + "?shared=0&ns=slow") as connector:
        connector.put(Frames([bytes(200 * MB)]))
        (stat,) = connector.scan()
        before = node_server.memory()
        for _ in range(10):
            one = raw()
            for number in range(20):
                fields = {"ns": "slow", "ids": [stat.key.id], "window": 1 << 62}
                one.say("get", fields, request=(number + 1).to_bytes(16, "big"))
        assert lives(node_server)
        assert node_server.memory() < before + 64 * MB
        assert connector.clear() == 1


def test_who_uploads_and_goes_leaves_nothing(node_server, raw):
    before = node_server.memory()
    with ZMQConnector.from_url(node_server.url + "?ns=gone") as connector:
        for number in range(5):
            one = raw()
            one.say("upload", {"ns": "gone", "id": f"k{number}", "size": 64 * MB}, request=bytes([number]) * 16)
            assert one.hear().verb == "go"
            for offset in range(0, 12 * MB, CHUNK):
                one.say("data", {"o": offset}, bytes(CHUNK), request=bytes([number]) * 16)
            while one.hear().count("n", 0) < 8 * MB:
                pass
            one.close()
        assert until(lambda: connector.status().gauges["uploading_bytes"] == 0)
        assert connector.exists_many([connector.reserve().at("") for _ in range(1)]) == [False]
        assert list(connector.scan()) == []
    assert until(lambda: node_server.memory() < before + 32 * MB)
