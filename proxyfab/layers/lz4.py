"""`lz4+`: compresses by LZ4 where it pays. Faster than most disks and networks, and it halves what repeats itself.

https://lz4.org, block format; needs the package `lz4`.
"""

from __future__ import annotations

from typing import ClassVar

import lz4.block

from proxyfab.errors import IntegrityError
from proxyfab.layers.packing import PackingLayer


class Lz4Layer(PackingLayer):
    """Compresses by LZ4. Thread-safe and fork-safe as the child is.

    Args:
        child: Where the packed bytes lie; this connector closes it.
    """

    name: ClassVar[str] = "lz4"

    def pack(self, chunk: memoryview) -> bytes:
        return lz4.block.compress(chunk, store_size=False)  # type: ignore[no-any-return]

    def unpack(self, packed: memoryview, target: memoryview) -> bool:
        try:
            chunk = lz4.block.decompress(packed, uncompressed_size=target.nbytes)
        except lz4.block.LZ4BlockError as error:
            raise IntegrityError(f"A chunk is no LZ4 block of {target.nbytes} bytes: it is damaged.") from error
        if len(chunk) != target.nbytes:
            return False
        target[:] = chunk  # a copy, warm in the processor's cache: the library cannot unpack into memory of ours
        return True
