"""Whoever knocks: noise, port scans, half-open and silent peers, floods. The server lives, and its memory stays."""

from __future__ import annotations

import os
import random
import socket

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import until
from proxyfab.wire.messages import CHUNK, MAX_MESSAGE, NOBODY, encode

MB = 2**20


def lives(server) -> bool:
    with ZMQConnector.from_url(server.url + "?shared=0") as connector:
        key = connector.put(signed(3 * MB))
        return is_whole(connector.get(key)) and connector.evict(key)


def test_malformed_messages_are_answered_and_end_nothing(node_server, raw):
    one = raw()
    dice = random.Random(1)
    for number in range(300):
        parts = [dice.randbytes(dice.randrange(100)) for _ in range(dice.randrange(1, 4))]
        one.socket.send_multipart(parts)
        answer = one.hear()
        assert (answer.verb, answer.request, answer.text("kind")) == ("error", NOBODY, "IntegrityError"), number
    assert one.ask("exists", {"ns": "n", "ids": ["k"]}).fields["found"] == [False]
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


def test_a_frame_above_the_limit_ends_its_connection_only(node_server, raw):
    one = raw()
    one.socket.send_multipart([encode("put", NOBODY, {}), bytes(MAX_MESSAGE + 1)])
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


def test_a_flood_of_hellos(node_server, raw):
    before = node_server.memory()
    for _ in range(20):
        one = raw()
        for number in range(500):
            one.say("hello", {"name": "x" * 1000, "process": f"p{number}"}, request=number.to_bytes(16, "big"))
        assert one.hear().verb == "ok"
        one.socket.close(0)
    assert lives(node_server)
    assert node_server.memory() < before + 32 * MB


def test_who_asks_and_never_reads_costs_a_window(node_server, raw):
    with ZMQConnector.from_url(node_server.url + "?shared=0&ns=slow") as connector:
        connector.put(Frames([bytes(200 * MB)]))
        (stat,) = connector.scan()
        before = node_server.memory()
        for _ in range(10):
            one = raw()
            one.socket.rcvhwm = 1
            for number in range(20):
                fields = {"ns": "slow", "ids": [stat.key.id], "window": 1 << 62}
                one.say("get", fields, request=number.to_bytes(16, "big"))
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
            one.socket.close(0)
        assert until(lambda: connector.status().gauges["uploading_bytes"] == 0)
        assert connector.exists_many([connector.reserve().at("") for _ in range(1)]) == [False]
        assert list(connector.scan()) == []
    assert until(lambda: node_server.memory() < before + 32 * MB)
