"""Targets: binary forms that come from files, sockets and servers. Each takes any bytes and asserts what must hold."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any
from zlib import crc32

from proxyfab import registry
from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import AccessDenied, IntegrityError
from proxyfab.keys import Key
from proxyfab.serialize.objects import dumps, loads
from proxyfab.testing.decoding import Script
from proxyfab.wire import flow, messages, owned, packed, payload, sealed, side, slot
from proxyfab.wire.layout import ALIGNMENT
from proxyfab.wire.streams import same_stream

# -- payloads ----------------------------------------------------------------------------------------------------------

_OBJECTS = (
    None,
    b"bytes",
    "text",
    [1, (2.5, {"a": {3}})],
    {"k": [True, 2**70, 1 + 2j]},
    bytearray(70),
    memoryview(b"m"),
)


def payload_seeds() -> Iterable[bytes]:
    """Good inputs."""
    for obj in _OBJECTS:
        for checksum in (True, False):
            yield payload.encode(dumps(obj, mode="safe"), checksum=checksum).tobytes()
    yield payload.encode(payload.Payload("numpy", "t", ["<f8", [2, 3], True], [bytes(48)]), checksum=True).tobytes()
    yield payload.encode(payload.Payload("c", "t", None, [b"a" * 70, b"", b"b"]), checksum=True).tobytes()


def read_payload(data: bytes) -> None:
    """A payload, whole and cut in two."""
    whole = payload.decode(Frames([data]))
    third = len(data) // 3
    cut = payload.decode(Frames([data[:third], data[third:]]))
    assert [bytes(view) for view in whole.buffers] == [bytes(view) for view in cut.buffers]
    assert whole.nbytes == sum(len(view) for view in whole.buffers) <= len(data)
    again = payload.decode(payload.encode(whole, checksum=True))
    assert (again.codec, again.type, again.nbytes) == (whole.codec, whole.type, whole.nbytes)


def forged(fields: bytes, data: bytes = b"", flags: int = 0) -> bytes:
    """A payload with any metadata and a head that is right."""
    body = fields + bytes(-(32 + len(fields)) % ALIGNMENT)
    total = 32 + len(body) + len(data)
    header = struct.pack("<4sBBBBQQI", b"PFAB", 1, flags, 0, 1, total, 0, len(fields))
    return header + struct.pack("<I", crc32(body, crc32(header))) + body + data


def forged_seeds() -> Iterable[bytes]:
    """Good inputs."""
    for seed in payload_seeds():
        length = int.from_bytes(seed[24:28], "little")
        start = 32 + length + -(32 + length) % 64
        yield length.to_bytes(2, "little") + seed[32 : 32 + length] + seed[start:]


def read_forged(data: bytes) -> None:
    """A payload with a right head and any metadata."""
    script = Script(data)
    read_payload(forged(script.take(script.number(0xFFFF)), script.rest()))


def read_object(data: bytes) -> None:
    """What safe mode makes of a payload that somebody forged."""
    script = Script(data)
    loads(payload.decode(Frames([forged(script.take(script.number(0xFFFF)), script.rest())])), mode="safe")


def stream_seeds() -> Iterable[bytes]:
    """Good inputs."""
    import pickle

    yield pickle.dumps([b"x" * 300, "y" * 70000, bytearray(9)], protocol=5)
    yield b"\x80\x05\x95\x02\0\0\0\0\0\0\0N.\x97\x98"


def read_stream(data: bytes) -> None:
    """A pickle stream, as digests see it."""
    once = same_stream(memoryview(data))
    assert len(once) <= len(data) + 8


# -- headers -----------------------------------------------------------------------------------------------------------


def slot_seeds() -> Iterable[bytes]:
    """Good inputs."""
    yield slot.pack(slot.Slot(100, 1.0, 2.0, 3, 4, 5)) + bytes(104)
    yield slot.pack(slot.Slot(0, 1.0, 0.0, 3))


def read_slot(data: bytes) -> None:
    """A header of an object file, as it is and with a right checksum."""
    for header in (data, data[:60] + struct.pack("<I", crc32(data[:60])) + data[64:]):
        try:
            found = slot.unpack(header, available=len(header))
        except IntegrityError:
            continue
        assert found.total <= len(header)
        assert found.alive(0.0) in (True, False)
    slot.unpack(data)


def owned_seeds() -> Iterable[bytes]:
    """Good inputs."""
    claim = owned.Claim("s@w", 1, "1@host", 0.5)
    yield owned.encode(owned.Record("d@w", 0, 1, 30.0, owned.Seat(claim, "t", "u"), owned.Seat(), (claim, claim)))


def read_owned(data: bytes) -> None:
    """The record of an owned object, with and without its mark."""
    for body in (data, owned.MAGIC + data):
        try:
            record = owned.decode(body)
        except IntegrityError:
            continue
        assert owned.decode(owned.encode(record)) == record
        assert 0 < record.lease < record.ttl
    owned.decode(data)


_KEY = bytes(range(32))
_REALM, _NAME = "realm", "name"


def _opener(algorithm: int) -> Any:
    """A Seal whose key does not come from a keyring."""
    from proxyfab.seal import MODES, Seal

    mode = {accepted[-1]: mode for mode, accepted in reversed(MODES.items())}.get(algorithm, "encrypt")
    made = Seal(mode, "k")
    made._secret = made._public = _KEY
    if mode == "ed25519":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        made._public = Ed25519PrivateKey.from_private_bytes(_KEY).public_key().public_bytes_raw()
    return made


def seal_seeds() -> Iterable[bytes]:
    """Good inputs."""
    for algorithm in sealed.ALGORITHMS:
        for content in (b"", b"secret", bytes(200)):
            yield _opener(algorithm).seal(Frames([content]), _REALM, _NAME, bits=6).tobytes()


def read_seal(data: bytes) -> None:
    """Sealed bytes, of which only good ones may open."""
    header = sealed.Header.parse(Frames([data]))
    assert header.total >= header.nbytes
    assert sealed.is_sealed(Frames([data]))
    opener = _opener(header.algorithm)
    opened = opener.open(Frames([data]), _REALM, _NAME)
    # Whoever has no key cannot write what opens: the seeds are the only inputs that come here.
    assert opened.tobytes() in (b"", b"secret", bytes(200))
    part = opener.open_range(Frames([data]).slice, 3, 60, _REALM, _NAME)
    assert part.tobytes() == opened.tobytes()[3:63]


# -- messages ----------------------------------------------------------------------------------------------------------


def message_seeds() -> Iterable[bytes]:
    """Good inputs."""
    fields: list[dict[str, Any]] = [
        {},
        {"key": "k", "space": "s", "size": 5, "ttl": 1.5, "replace": True},
        {"keys": [["s", "a"], ["s", "b"]], "sizes": [1, 2], "offset": 1 << 20},
        {"items": [[1, [2, [3]]], {"a": {"b": None}}]},
    ]
    for number, one in enumerate(fields):
        header = messages.encode("put", bytes(16), one)
        yield bytes([number]) + len(header).to_bytes(2, "little") + header + b"body" * number


def read_message(data: bytes) -> None:
    """A message in several parts, and all its fields asked for in every way."""
    script = Script(data)
    pieces = script.number(5)
    parts: list[bytes | memoryview] = [script.take(script.number(0xFFFF))]
    parts += [memoryview(script.take(script.number(9))) for _ in range(pieces)]
    message = messages.decode(parts)
    assert message.nbytes == sum(map(len, parts[1:]))
    again = messages.decode([messages.encode(message.verb, message.request, message.fields)])
    assert again.verb == message.verb
    asked: list[Callable[[str], Any]] = [
        message.text,
        message.count,
        message.seconds,
        message.items,
        message.counts,
        message.flag,
    ]
    with suppress(IntegrityError):
        message.names()
    for name in [*message.fields, "absent"]:
        for ask in asked:
            try:
                ask(name)
            except IntegrityError:
                pass
    assert len(b"".join(messages.pieces(message.body, script.number(9), script.number(20)))) <= message.nbytes


def side_seeds() -> Iterable[bytes]:
    """Good inputs."""
    small, ping = side.written("put", bytes(16), {"ids": ["k"]}, 4), side.written("ping", bytes(16), {})
    for step, nbytes in ((0, 300), (7, 3000), (255, 70_000)):
        yield bytes([step]) + ping + small + b"body" + ping
        yield bytes([step]) + side.written("data", bytes(16), {"o": 0}, nbytes) + bytes(nbytes) + ping


def read_side(data: bytes) -> None:
    """A stream of messages, in pieces of any size; bodies are where they belong, and nothing is lost."""
    script = Script(data)
    step = script.number(255) + 1
    stream = script.rest()
    reading, at = side.Reading(), 0
    while at < len(stream):
        target = reading.target
        assert 0 < target.nbytes <= messages.MAX_BODY
        piece = stream[at : at + min(step, target.nbytes)]
        target[: len(piece)] = piece
        at += len(piece)
        reading.took(len(piece))
        while (message := reading.next()) is not None:
            assert message.nbytes <= messages.MAX_BODY
            if message.body:
                assert b"".join(message.body) in stream
            with suppress(AccessDenied):
                side.opened(bytes(side.TOKEN), message)


def flow_seeds() -> Iterable[bytes]:
    """Good inputs."""
    yield bytes([200, 50, 9, 0, 1, 2, 0, 1, 2, 0, 3, 1, 0, 0, 1, 2])
    yield bytes(range(60))


def read_flow(data: bytes) -> None:
    """Two sides that talk as the input says; an honest one is never worse off than its window."""
    script = Script(data)
    size, window, chunk = script.number(255), script.number(63) + 1, script.number(31) + 1
    sending, receiving = flow.Sending(size, window, chunk), flow.Receiving(size, window)
    under_way: list[flow.Piece] = []
    while script.more:
        choice = script.number(3)
        if choice == 0 and (piece := sending.next()) is not None:
            under_way.append(piece)
        elif choice == 1 and under_way:
            receiving.take(*under_way.pop(0))
            sending.ack(receiving.received)
        elif choice == 2:
            sending.ack(script.number(255))
        elif choice == 3:
            receiving.take(script.number(255), script.number(255))
        assert sending.received <= sending.sent <= size
        assert receiving.received <= size
        assert sending.sent - sending.received <= max(window, chunk)


# -- Redis -------------------------------------------------------------------------------------------------------------


def redis_header_seeds() -> Iterable[bytes]:
    """Good inputs."""
    from proxyfab.connectors.redis import header

    yield header.Header(100, 1.0, 2, 3).pack() + bytes(100)
    yield header.Header(1000, 1.0, 2, 3, 100).pack()
    name = header.object_name(header.space_prefix("s"), "a{b}%c")
    yield name
    yield header.chunk_name(name, 77, 3)


def read_redis_header(data: bytes) -> None:
    """A header of an object in Redis, and names of keys there."""
    from proxyfab.connectors.redis import header

    header.namespace_of(data)
    parts = header.object_parts(data)
    assert parts is None or all(isinstance(part, str) for part in parts)
    header.chunk_parts(data)
    right = data[:60] + struct.pack("<I", crc32(data[:60])) + data[64:]
    found = header.unpack(right, None, len(data))
    assert found.stored <= len(data)
    header.unpack(data, 3)


def reply_seeds() -> Iterable[bytes]:
    """Good inputs."""
    yield b"+OK\r\n:12\r\n$5\r\nhello\r\n$-1\r\n-ERR no\r\n*2\r\n$1\r\na\r\n:1\r\n"
    yield b"%1\r\n+a\r\n:1\r\n>2\r\n+x\r\n_\r\n~1\r\n#t\r\n,1.5\r\n(123\r\n=7\r\ntxt:abc\r\n!5\r\nERR x\r\n"


def read_reply(data: bytes) -> None:
    """What a peer that calls itself Redis says, through a real socket."""
    from proxyfab.resp.parser import InPlaceParser

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data[:65536])
        theirs.shutdown(socket.SHUT_WR)
        parser = InPlaceParser()
        parser._sock = ours
        parser.deadline = time.monotonic() + 5
        for _ in range(len(data) + 1):
            parser.read()


# -- compressed ----------------------------------------------------------------------------------------------------

_LAYERS = ("lz4", "zstd")


@cache
def _layer(name: str) -> Any:
    return registry.load("layers", name)(MemoryConnector())


def packed_seeds() -> Iterable[bytes]:
    """Good inputs."""
    for number, name in enumerate(_LAYERS):
        for content in (b"", b"plain", b"repeats " * 2000, bytes(1_100_000)):
            layer = _layer(name)
            key = layer.put(Frames([content]))
            yield bytes([number]) + layer.child.get(key).tobytes()
            layer.evict(key)


def read_packed(data: bytes) -> None:
    """What lies below a compressing layer was damaged, or written by somebody who means harm."""
    layer = _layer(_LAYERS[data[0] % 2 if data else 0])
    body = bytearray(data[1:])
    key = Key("k")
    for forge in (False, True):
        if forge and len(body) >= packed.HEADER:
            count = min(int.from_bytes(body[20:24], "little"), len(body) // 4)
            table = bytes(body[packed.HEADER : packed.HEADER + 4 * count])
            body[60:64] = struct.pack("<I", crc32(table, crc32(body[:60])))
        layer.child.put(Frames([bytes(body)]), key=key, replace=True)
        try:
            found = layer.get(key)
            assert found.nbytes <= packed.DENSEST * len(data)
            assert layer.get_range(key, 3, 10).tobytes() == found.tobytes()[3:13]
        except IntegrityError:
            if forge:
                raise
