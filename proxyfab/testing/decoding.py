"""What a decoder under test is, and numbers and pieces out of any bytes, so that a fuzzer decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


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
