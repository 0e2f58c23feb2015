"""Targets: names as text that comes from elsewhere: URLs, keys, tokens, owners. Each asserts what must hold."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from proxyfab import registry
from proxyfab.errors import ConfigurationError, IntegrityError
from proxyfab.keys import Key, as_key
from proxyfab.opening import open_connector
from proxyfab.osio.namespace import _Card
from proxyfab.osio.owner import Writer
from proxyfab.ref import Ref
from proxyfab.spec import ConnectorSpec, StoreSpec, nbytes


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def url_seeds() -> Iterable[bytes]:
    """Good inputs."""
    yield b"shm://name"
    yield b"file:///scratch/me?ns=run7&visible=1#inline=0&cache=1.5GiB&serializer=safe"
    yield b"retry+redis://user:secret@host:6379,other/3?password=env:NAME&cluster=1#seal=encrypt:k"
    yield b"zmq://[::1]:5555?ns=a&timeout=5&shared=0"
    yield b"memory://~abc"


@cache
def _names(group: str) -> frozenset[str]:
    return frozenset(registry.names(group))


def read_url(data: bytes) -> None:
    """A URL of a store, both ways, and the connector it names."""
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


def key_seeds() -> Iterable[bytes]:
    """Good inputs."""
    yield b"abc@shm"
    yield b"00112233445566778899aabbccddeeff@~yt7ap3aabkiqaaatyikqaaaa"
    yield b"id@space/0123456789ab/127.0.0.1:5555"
    yield b"~" + Writer("01234567", 1, 2).pack(3).encode()
    yield b'{"proxyfab": 1, "pid": 3, "host": "h", "locked": true}'


def read_key(data: bytes) -> None:
    """A key, and what stands in one."""
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


def token_seeds() -> Iterable[bytes]:
    """Good inputs."""
    from msgpack import packb

    packed = ["plain", "builtins:list", None, "", b"\x91\x01"]
    for place in (["id", "where", None], ["", "", packed]):
        fields = ["shm://name", *place, 5, "builtins:list", "77", 0]
        yield b"pf1." + base64.urlsafe_b64encode(packb(fields)).rstrip(b"=")
        yield b"\0" + packb(fields)


def read_token(data: bytes) -> None:
    """A token as it is, or, behind a zero, the fields of one."""
    if data[:1] == b"\0":
        data = b"pf1." + base64.urlsafe_b64encode(data[1:]).rstrip(b"=")
    found = Ref.from_token(_text(data))
    with suppress(IntegrityError):
        assert Ref.from_token(found.to_token()).key == found.key
