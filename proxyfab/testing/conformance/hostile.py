"""Bytes that somebody damaged: an IntegrityError or missing, never a crash, wrong bytes or a huge allocation."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.keys import Key
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import plain
from proxyfab.wire.payload import Payload, decode, encode

Edit = Callable[[bytes], bytes]
ROOM = 2**30
"""Bytes of address space that reading a damaged object of some kilobytes may take."""


def flip(position: int, bit: int = 0) -> Edit:
    """Flips one bit."""
    return lambda raw: raw[:position] + bytes([raw[position] ^ 1 << bit]) + raw[position + 1 :]


def overwrite(position: int, with_what: bytes) -> Edit:
    """Overwrites some bytes."""
    return lambda raw: raw[:position] + with_what + raw[position + len(with_what) :]


EDITS: dict[str, Edit] = {
    "empty": lambda raw: b"",
    "one byte": lambda raw: raw[:1],
    "half a header": lambda raw: raw[:30],
    "header only": lambda raw: raw[:64],
    "cut in the middle": lambda raw: raw[: len(raw) // 2],
    "last byte gone": lambda raw: raw[:-1],
    "zeros": lambda raw: bytes(len(raw)),
    "a page of zeros at the end": lambda raw: raw[:-4096] + bytes(4096),
    "noise": lambda raw: plain(len(raw), 1),
    "somebody's text": lambda raw: b"Dear diary, " * (len(raw) // 12),
    "giant numbers in the header": overwrite(8, b"\xff" * 40),
    "giant numbers behind the magic": lambda raw: raw[:8] + b"\x00\x00\x00\x00\x00\x00\x00\x7f" * 7 + raw[64:],
    "giant numbers in the payload's header": overwrite(72, b"\xff" * 48),
    "header of one, twice": lambda raw: raw[:64] + raw,
}


class HostileTests(Suite):
    """What is on a disk may be damaged; the checksums of the wire format, or the connector's own, notice."""

    @pytest.fixture
    def bounded(self) -> Iterator[None]:
        """No room for an allocation that a damaged header asks for."""
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
        yield
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    @pytest.fixture
    def victim(self, connect: Open) -> Callable[[Edit], None]:
        """Puts an object, damages it, and checks that nobody gets wrong bytes from it."""
        self.claim("can_damage")

        def check(edit: Edit) -> None:
            one = connect()
            data = plain(20_000)
            payload = Payload("raw", "builtins:bytes", None, (memoryview(data),))
            key = one.put(encode(payload, checksum=True))
            bystander = one.put(Frames([b"bystander"]))
            self.damage(one, key, edit)
            for connector in (one, connect(url=one.spec)):
                assert self.read(connector, key) in (None, data)
                assert connector.get(bystander) == Frames([b"bystander"])
            self.look_around(one, key)

        return check

    def read(self, connector: Any, key: Key) -> bytes | None:
        """The object's data, or None when it is missing or the damage was noticed."""
        try:
            frames = connector.get(key)
            return None if frames is None else b"".join(decode(frames).buffers)
        except IntegrityError:
            return None

    def look_around(self, connector: Any, key: Key) -> None:
        """Every other operation survives a damaged object, and it can be got rid of."""
        for call in (connector.stat, connector.exists, lambda key: connector.get_range(key, 5, 10)):
            try:
                call(key)
            except IntegrityError:
                pass
        if self.scans:
            list(connector.scan())
        if self.reaps:
            connector.reap(dry_run=True)
        try:
            connector.evict(key)
        except IntegrityError:
            pass
        connector.put(Frames([b"new"]), key=key, replace=True)
        assert connector.get(key) == Frames([b"new"])
        connector.clear()
        assert connector.get(key) is None

    @pytest.mark.parametrize("damage", EDITS)
    def test_damage_is_noticed(self, victim: Callable[[Edit], None], bounded: None, damage: str) -> None:
        victim(EDITS[damage])

    def test_any_flipped_bit_is_noticed(self, victim: Callable[[Edit], None], bounded: None) -> None:
        dice = random.Random(1)
        for position in [*range(0, 64, 5), *range(64, 256, 13), *(dice.randrange(256, 20_000) for _ in range(5))]:
            victim(flip(position, dice.randrange(8)))
