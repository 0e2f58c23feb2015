"""`zstd+`: compresses by Zstandard where it pays. Denser than LZ4 and slower: for places that are far away, or small.

RFC 8878; needs the package `zstandard`.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import zstandard

from proxyfab.errors import IntegrityError
from proxyfab.layers.packing import PackingLayer


class ZstdLayer(PackingLayer):
    """Compresses by Zstandard. Thread-safe and fork-safe as the child is.

    Args:
        child: Where the packed bytes lie; this connector closes it.
        level: 1 (fast) to 19 (dense); any level reads what any other wrote.
    """

    name: ClassVar[str] = "zstd"

    def __init__(self, child: Any, *, level: int = 1) -> None:
        super().__init__(child)
        self.level = level
        self._mine = threading.local()  # a compressor may be used by one thread at a time

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.plain or type(self), self.child, self.level)

    def pack(self, chunk: memoryview) -> bytes:
        compressor = getattr(self._mine, "compressor", None)
        if compressor is None:
            compressor = self._mine.compressor = zstandard.ZstdCompressor(level=self.level)
        return compressor.compress(chunk)  # type: ignore[no-any-return]

    def unpack(self, packed: memoryview, target: memoryview) -> bool:
        try:
            # The frame tells its size, which the library holds it to; what it unpacks to never leaves `target`.
            if zstandard.frame_content_size(packed) != target.nbytes:
                return False
            with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                return reader.readinto(target) == target.nbytes  # type: ignore[no-any-return]
        except zstandard.ZstdError as error:
            raise IntegrityError(f"A chunk is no Zstandard frame of {target.nbytes} bytes: it is damaged.") from error


def _rebuild(kind: Any, child: Any, level: int) -> ZstdLayer:
    return kind(child, level=level)  # type: ignore[no-any-return]
