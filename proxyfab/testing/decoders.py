"""Every decoder of bytes from outside, with what may come out of it: the result it promises, or a declared error.

One table for two uses: properties in the test suite, and long runs with coverage guidance (`make fuzz`). A target takes
any bytes, makes of them what an enemy or an accident would send, and asserts what must hold of the answer. Where a
checksum would turn everything away at the door, a second target writes correct ones.

Promises: no input leads to I/O beyond a socket pair, to an import chosen by the input, or to unpickling.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple
from zlib import crc32

from proxyfab import registry
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, ConnectorError, IntegrityError, SealError, SerializationError
from proxyfab.keys import Key, as_key
from proxyfab.opening import open_connector
from proxyfab.osio.namespace import _Card
from proxyfab.osio.owner import Writer
from proxyfab.serialize.objects import dumps, loads
from proxyfab.spec import ConnectorSpec, StoreSpec, nbytes
from proxyfab.wire import flow, messages, payload, sealed, slot
from proxyfab.wire.streams import same_stream


class Decoder(NamedTuple):
    """A decoder under test.

    Args:
        name: What it is called on the command line.
        read: Gives it bytes and asserts what must hold.
        seeds: Good inputs to begin with.
        declared: Errors that may come out.
    """

    name: str
    read: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    declared: tuple[type[Exception], ...]

    def __call__(self, data: bytes) -> bool:
        """Whether it took the bytes; False when it declared what is wrong with them."""
        try:
            self.read(data)
        except self.declared:
            return False
        return True


class Script:
    """Numbers and pieces out of bytes, so that a fuzzer decides; zeros where they have ended."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, most: int) -> int:
        """From 0 to `most`."""
        width = max((most.bit_length() + 7) // 8, 1)
        return int.from_bytes(self.take(width).ljust(width, b"\0"), "little") % (most + 1)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        piece = self.data[self.at : self.at + length]
        self.at += length
        return piece

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.data))

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self.at < len(self.data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


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


def _payloads() -> Iterable[bytes]:
    for obj in _OBJECTS:
        for checksum in (True, False):
            yield payload.encode(dumps(obj, mode="safe"), checksum=checksum).tobytes()
    yield payload.encode(payload.Payload("numpy", "t", ["<f8", [2, 3], True], [bytes(48)]), checksum=True).tobytes()
    yield payload.encode(payload.Payload("c", "t", None, [b"a" * 70, b"", b"b"]), checksum=True).tobytes()


def _payload(data: bytes) -> None:
    whole = payload.decode(Frames([data]))
    third = len(data) // 3
    cut = payload.decode(Frames([data[:third], data[third:]]))
    assert [bytes(view) for view in whole.buffers] == [bytes(view) for view in cut.buffers]
    assert whole.nbytes == sum(len(view) for view in whole.buffers) <= len(data)
    again = payload.decode(payload.encode(whole, checksum=True))
    assert (again.codec, again.type, again.nbytes) == (whole.codec, whole.type, whole.nbytes)


def forged(fields: bytes, data: bytes = b"", flags: int = 0) -> bytes:
    """A payload with any metadata and a head that is right."""
    body = fields + bytes(-(32 + len(fields)) % payload.ALIGNMENT)
    total = 32 + len(body) + len(data)
    header = struct.pack("<4sBBBBQQI", b"PFAB", 1, flags, 0, 1, total, 0, len(fields))
    return header + struct.pack("<I", crc32(body, crc32(header))) + body + data


def _forged_seeds() -> Iterable[bytes]:
    for seed in _payloads():
        length = int.from_bytes(seed[24:28], "little")
        start = 32 + length + -(32 + length) % 64
        yield length.to_bytes(2, "little") + seed[32 : 32 + length] + seed[start:]


def _forged(data: bytes) -> None:
    script = Script(data)
    _payload(forged(script.take(script.number(0xFFFF)), script.rest()))


def _object(data: bytes) -> None:
    """What safe mode makes of a payload that somebody forged."""
    script = Script(data)
    loads(payload.decode(Frames([forged(script.take(script.number(0xFFFF)), script.rest())])), mode="safe")


def _streams() -> Iterable[bytes]:
    import pickle

    yield pickle.dumps([b"x" * 300, "y" * 70000, bytearray(9)], protocol=5)
    yield b"\x80\x05\x95\x02\0\0\0\0\0\0\0N.\x97\x98"


def _stream(data: bytes) -> None:
    once = same_stream(memoryview(data))
    assert len(once) <= len(data) + 8


# -- headers -----------------------------------------------------------------------------------------------------------


def _slots() -> Iterable[bytes]:
    yield slot.pack(slot.Slot(100, 1.0, 2.0, 3, 4, 5)) + bytes(104)
    yield slot.pack(slot.Slot(0, 1.0, 0.0, 3))


def _slot(data: bytes) -> None:
    for header in (data, data[:60] + struct.pack("<I", crc32(data[:60])) + data[64:]):
        try:
            found = slot.unpack(header, available=len(header))
        except IntegrityError:
            continue
        assert found.total <= len(header)
        assert found.alive(0.0) in (True, False)
    slot.unpack(data)


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


def _seals() -> Iterable[bytes]:
    for algorithm in sealed.ALGORITHMS:
        for content in (b"", b"secret", bytes(200)):
            yield _opener(algorithm).seal(Frames([content]), _REALM, _NAME, bits=6).tobytes()


def _seal(data: bytes) -> None:
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


def _messages() -> Iterable[bytes]:
    fields: list[dict[str, Any]] = [
        {},
        {"key": "k", "space": "s", "size": 5, "ttl": 1.5, "replace": True},
        {"keys": [["s", "a"], ["s", "b"]], "sizes": [1, 2], "offset": 1 << 20},
        {"items": [[1, [2, [3]]], {"a": {"b": None}}]},
    ]
    for number, one in enumerate(fields):
        header = messages.encode("put", bytes(16), one)
        yield bytes([number]) + len(header).to_bytes(2, "little") + header + b"body" * number


def _message(data: bytes) -> None:
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


def _flows() -> Iterable[bytes]:
    yield bytes([200, 50, 9, 0, 1, 2, 0, 1, 2, 0, 3, 1, 0, 0, 1, 2])
    yield bytes(range(60))


def _flow(data: bytes) -> None:
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


def _redis_headers() -> Iterable[bytes]:
    from proxyfab.connectors.redis import header

    yield header.Header(100, 1.0, 2, 3).pack() + bytes(100)
    yield header.Header(1000, 1.0, 2, 3, 100).pack()
    name = header.object_name(header.space_prefix("s"), "a{b}%c")
    yield name
    yield header.chunk_name(name, 77, 3)


def _redis_header(data: bytes) -> None:
    from proxyfab.connectors.redis import header

    header.namespace_of(data)
    parts = header.object_parts(data)
    assert parts is None or all(isinstance(part, str) for part in parts)
    header.chunk_parts(data)
    right = data[:60] + struct.pack("<I", crc32(data[:60])) + data[64:]
    found = header.unpack(right, None, len(data))
    assert found.stored <= len(data)
    header.unpack(data, 3)


def _replies() -> Iterable[bytes]:
    yield b"+OK\r\n:12\r\n$5\r\nhello\r\n$-1\r\n-ERR no\r\n*2\r\n$1\r\na\r\n:1\r\n"
    yield b"%1\r\n+a\r\n:1\r\n>2\r\n+x\r\n_\r\n~1\r\n#t\r\n,1.5\r\n(123\r\n=7\r\ntxt:abc\r\n!5\r\nERR x\r\n"


def _reply(data: bytes) -> None:
    """What a peer that calls itself Redis says, through a real socket."""
    from proxyfab.connectors.redis.parser import InPlaceParser

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data[:65536])
        theirs.shutdown(socket.SHUT_WR)
        parser = InPlaceParser()
        parser._sock = ours
        parser.deadline = time.monotonic() + 5
        for _ in range(len(data) + 1):
            parser.read()


def _foreign() -> tuple[type[Exception], ...]:
    from proxyfab.connectors.redis.errors import FOREIGN

    return FOREIGN


# -- names -------------------------------------------------------------------------------------------------------------


def _urls() -> Iterable[bytes]:
    yield b"shm://name"
    yield b"file:///scratch/me?ns=run7&visible=1#inline=0&cache=1.5GiB&serializer=safe"
    yield b"retry+redis://user:secret@host:6379,other/3?password=env:NAME&cluster=1#seal=encrypt:k"
    yield b"zmq://[::1]:5555?ns=a&timeout=5&shared=0"
    yield b"memory://~abc"


@cache
def _names(group: str) -> frozenset[str]:
    return frozenset(registry.names(group))


def _url(data: bytes) -> None:
    text = _text(data)
    try:
        nbytes(text)
    except ConfigurationError:
        pass
    store = StoreSpec.parse(text)
    assert StoreSpec.parse(str(store)) == store
    spec = ConnectorSpec.parse(store.connector)
    assert ConnectorSpec.parse(str(spec)) == spec
    if spec.scheme in _names("connectors") and set(spec.layers) <= _names("layers"):
        connector = open_connector(store.connector)
        again = open_connector(connector.spec)
        assert again.spec == connector.spec


def _keys() -> Iterable[bytes]:
    yield b"abc@shm"
    yield b"00112233445566778899aabbccddeeff@~yt7ap3aabkiqaaatyikqaaaa"
    yield b"id@space/0123456789ab/127.0.0.1:5555"
    yield b"~" + Writer("01234567", 1, 2).pack(3).encode()
    yield b'{"proxyfab": 1, "pid": 3, "host": "h", "locked": true}'


def _key(data: bytes) -> None:
    from proxyfab.connectors.zmq.locator import Locator, endpoint

    text = _text(data)
    assert isinstance(_Card.parse(data).owner, str)
    try:
        Writer.unpack(text)
    except ValueError:
        pass
    key = as_key(text)
    assert Key.parse(str(key)) == key
    locator = Locator.of(key)
    assert Locator.of(Key("x", str(locator))) == locator
    assert endpoint(locator.address).startswith(("tcp://", "ipc:///"))


DECODERS = {
    decoder.name: decoder
    for decoder in (
        Decoder("payload", _payload, _payloads, (IntegrityError,)),
        Decoder("payload-forged", _forged, _forged_seeds, (IntegrityError, SerializationError)),
        Decoder("object", _object, _forged_seeds, (IntegrityError, SerializationError)),
        Decoder("stream", _stream, _streams, ()),
        Decoder("slot", _slot, _slots, (IntegrityError,)),
        Decoder("seal", _seal, _seals, (SealError,)),
        Decoder("message", _message, _messages, (IntegrityError,)),
        Decoder("flow", _flow, _flows, (IntegrityError,)),
        Decoder("redis-header", _redis_header, _redis_headers, (IntegrityError,)),
        Decoder("redis-reply", _reply, _replies, _foreign()),
        Decoder("url", _url, _urls, (ConfigurationError,)),
        Decoder("key", _key, _keys, (ConfigurationError, ConnectorError)),
    )
}
