"""PackingLayer: compresses what is put, where it pays, and unpacks what is got; `lz4+` and `zstd+` are made of it.

Promises: what does not compress, which a sample from several places tells, is stored as it is and read in place; no
object grows by more than its header and table (64 bytes and 4 for each MiB). Large objects are packed and unpacked in
chunks, by several threads where there are several processors, into memory that is taken once. A declared size is
checked before memory is taken for it. A range moves and unpacks only the chunks it touches. What is readable through
the layer only says so to whoever reads it without, and the other way round.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from proxyfab.abc import BaseConnector, Stat, Swap, check_range, check_swap
from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.keys import Key
from proxyfab.layers.base import Layer
from proxyfab.osio.memory import allocate
from proxyfab.parallel import each
from proxyfab.wire.packed import (
    CHUNK,
    HEADER,
    Chunk,
    Form,
    as_it_is,
    assemble,
    cut,
    is_packed,
    parse,
    pays,
    places,
    table_end,
)

_LITTLE = 256
_FIRST = 4096
"""Bytes that a range read begins with: header and table of what is smaller than a gigabyte."""


class PackingLayer(Layer):
    """What all compressing layers share; a subclass has `pack` and `unpack`. Thread-safe and fork-safe as the child is.

    Args:
        child: Where the packed bytes lie; this connector closes it.
    """

    def pack(self, chunk: memoryview) -> bytes:
        """The chunk, compressed. Called by several threads at once."""
        raise NotImplementedError

    def unpack(self, packed: memoryview, target: memoryview) -> bool:
        """Fill `target` by what `pack` made; False unless it is that to the byte. Called by several threads at once.

        Raises:
            IntegrityError: `packed` cannot be what `pack` made.
        """
        raise NotImplementedError

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return False  # what was unpacked once is worth keeping

    # -- one object ----------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        return super().put(self._packed(frames), key=key, ttl=ttl, replace=replace)

    def get(self, key: Key) -> Frames | None:
        return self._unpacked(super().get(key), key)

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        try:
            return self._range(key, offset, length)
        except IntegrityError:  # perhaps replaced between two reads: the whole of what lies there now tells
            whole = self.get(key)
            return None if whole is None else whole.slice(offset, length)

    def stat(self, key: Key) -> Stat | None:
        found = super().stat(key)
        return None if found is None else self._as_put(found, key)

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        there = None
        if old is not None:
            there = super().get(key)
            if there is None or self._unpacked(there, key) != old:
                return False
        packed = None if new is None else self._packed(new)
        return super().compare_and_set(key, there, packed, ttl=ttl)  # exactly what was compared must still lie there

    def compare_and_set_many(self, swaps: Sequence[Swap]) -> list[bool]:
        return BaseConnector.compare_and_set_many(self, swaps)  # one by one: each is looked at as it lies there

    # -- many ----------------------------------------------------------------------------------------------------

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        return super().put_many([self._packed(frames) for frames in many], keys=keys, ttl=ttl, replace=replace)

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        return [self._unpacked(frames, key) for frames, key in zip(super().get_many(keys), keys, strict=True)]

    def scan(self) -> Iterator[Stat]:
        """Sizes are those of what was put, which costs a look at each header."""
        return (self._as_put(stat, stat.key) for stat in super().scan())

    def _as_put(self, stat: Stat, key: Key) -> Stat:
        head = super().get_range(key, 0, HEADER)
        if head is None or not is_packed(head):
            return stat
        return stat._replace(nbytes=int.from_bytes(head.slice(8, 8).join(), "little"))

    # -- packing -------------------------------------------------------------------------------------------------

    def _packed(self, frames: Frames) -> Frames:
        nonce = int.from_bytes(os.urandom(8), "little")
        if not self.worth_packing(frames):
            return as_it_is(self.name, frames, nonce)
        chunks = cut(frames)
        packed: list[bytes | None] = [None] * len(chunks)

        def pack(number: int) -> None:
            small = self.pack(chunks[number])
            packed[number] = small if len(small) < chunks[number].nbytes else None

        each(pack, len(chunks), CHUNK)
        return assemble(self.name, chunks, packed, nonce)

    def worth_packing(self, frames: Frames) -> bool:
        """Whether a sample of it says that packing pays; the same answer for the same bytes."""
        if frames.nbytes < _LITTLE:
            return False
        sample = [frames.slice(offset, length).join() for offset, length in places(frames.nbytes)]
        return pays(sum(part.nbytes for part in sample), sum(len(self.pack(part)) for part in sample))

    def _unpacked(self, frames: Frames | None, key: Key) -> Frames | None:
        if frames is None:
            return None
        try:
            form = parse(frames, frames.nbytes, self.name)
            if form.chunks is None:
                return frames.slice(HEADER, form.nbytes)
            return Frames([self._joined(frames, 0, form.chunks)])
        except IntegrityError as error:
            raise IntegrityError(f"{key} in {self.spec} cannot be unpacked. {error}") from error

    def _joined(self, frames: Frames, begin: int, chunks: Sequence[Chunk]) -> memoryview:
        """The content of consecutive chunks; `frames` holds the object's bytes from `begin` on."""
        block = allocate(sum(chunk.nbytes for chunk in chunks))

        def unpack(number: int) -> None:
            chunk = chunks[number]
            stored = frames.slice(chunk.offset - begin, chunk.stored)
            target = block[number * CHUNK : number * CHUNK + chunk.nbytes]
            if not chunk.packed:
                stored.copy_into(target)
            elif not self.unpack(stored.join(), target):
                raise IntegrityError(f"A chunk is not the {chunk.nbytes} bytes that it was: it is damaged.")

        each(unpack, len(chunks), CHUNK)
        return block.toreadonly()

    # -- ranges --------------------------------------------------------------------------------------------------

    def _range(self, key: Key, offset: int, length: int) -> Frames | None:
        part: Frames | None
        found = self._form(key)
        if found is None:
            return None
        form, head = found
        length = max(min(length, form.nbytes - offset), 0)
        if not length:
            return Frames()
        if form.chunks is None:
            part, shift = self.child.get_range(key, HEADER + offset, length), 0
        else:
            touched = form.chunks[offset // CHUNK : (offset + length - 1) // CHUNK + 1]
            low, high = touched[0].offset, touched[-1].offset + touched[-1].stored
            part, shift = self.child.get_range(key, low, high - low), offset % CHUNK
            if part is not None and part.nbytes == high - low:
                part = Frames([self._joined(part, low, touched)])
        if part is None or self.child.get_range(key, 0, HEADER) != head.slice(0, HEADER):
            raise IntegrityError("It changed between two reads.")
        return part.slice(shift, length)

    def _form(self, key: Key) -> tuple[Form, Frames] | None:
        """The form of an object and the bytes it was read from; None when the object is missing."""
        stat = self.child.stat(key)
        head = None if stat is None else self.child.get_range(key, 0, _FIRST)
        if stat is None or head is None:
            return None
        end = table_end(head, self.name)
        if end > head.nbytes:
            head = self.child.get_range(key, 0, end) if end <= stat.nbytes else head
        return None if head is None else (parse(head, stat.nbytes, self.name), head)
