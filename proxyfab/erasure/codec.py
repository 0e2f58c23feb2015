"""Code(k, m): k + m shards of an object, of which any k give it back.

Rules:
1. A shard has ceil(size / k) bytes. Shards 0 to k - 1 are the object, cut; what the last of them lack is zero. Shards
   k to k + m - 1 are made as `field` says. All of this is what is stored, and never changes.
2. Data are not copied: shards are views of what was given, but for those that end in zeros, and an object is given back
   as views of its shards, but for those that had to be made. These are `GivenFrames`, each in memory of its own.
3. Which kernel works changes nothing in the bytes.

Leaves to others whether a shard is what it was: one wrong byte in a shard gives a wrong object.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from proxyfab.buffers import Buffer, Frames, GivenFrames
from proxyfab.erasure.field import MOST, making_rows
from proxyfab.erasure.kernels import kernel_named
from proxyfab.errors import ConfigurationError, IntegrityError

_SCATTERED = 64
"""Views on average in an object's shard above which it is joined: each costs the kernel a call."""


_MAPPED = 1 << 20
"""Bytes from which on zeroing takes a millisecond and more, with the interpreter's lock."""


def fresh(nbytes: int) -> memoryview:
    """Zeroed memory. Much of it is not touched before it is written to: that would keep other threads waiting."""
    if nbytes < _MAPPED:
        return memoryview(bytearray(nbytes))
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Code:
    """A systematic Reed-Solomon code. Immutable, thread-safe, fork-safe.

    Args:
        k: Shards that are needed, at least 1.
        m: Shards that may be lost, at least 0; k + m is at most 256.
        kernel: `"isal"`, `"numpy"`, `"python"`, or `""` for the fastest that is installed.
        memory: Where room for shards that are made comes from; what it holds is written over. It is nobody else's, as
            long as there is a view of it.

    Raises:
        ConfigurationError: k, m or the kernel's name make no sense.
        MissingDependency: What the kernel needs is not installed.
    """

    __slots__ = ("_kernel", "_memory", "k", "m")

    def __init__(self, k: int, m: int, *, kernel: str = "", memory: Callable[[int], memoryview] = fresh) -> None:
        if type(k) is not int or type(m) is not int or k < 1 or m < 0 or k + m > MOST:
            raise ConfigurationError(
                f"A code needs k >= 1 shards, m >= 0 more, and at most {MOST} in all, not k={k!r} and m={m!r}."
            )
        self.k = k
        self.m = m
        self._kernel = kernel_named(kernel)
        self._memory = memory

    def __repr__(self) -> str:
        return f"Code({self.k}, {self.m})"

    @property
    def n(self) -> int:
        """Shards in all."""
        return self.k + self.m

    def length(self, size: int) -> int:
        """Bytes of each shard of an object of `size` bytes."""
        return -(-size // self.k)

    def encode(self, data: Buffer | Frames) -> list[Frames]:
        """The shards of an object: k of data, then m of parity.

        Args:
            data: Any buffer of bytes or of elements, or Frames. It must not change while shards of it are in use.

        Raises:
            ConfigurationError: `data` is no buffer.
        """
        frames = _frames(data)
        parts = self._cut(frames)
        if not self.m:
            return parts
        return parts + self._made(tuple(range(self.k, self.n)), tuple(range(self.k)), parts, self.length(frames.nbytes))

    def decode(self, shards: Mapping[int, Buffer | Frames], size: int) -> Frames:
        """The object, from at least k shards by their numbers.

        Raises:
            ConfigurationError: A number, `size` or what should be a shard makes no sense.
            IntegrityError: There are fewer than k shards, or one is not as long as it should be.
        """
        missing = [index for index in range(self.k) if index not in shards]
        parts = [shards.get(index) for index in range(self.k)]
        made = dict(zip(missing, self.rebuild(shards, size, missing), strict=True))
        whole = [view for index, part in enumerate(parts) for view in (made[index] if part is None else _frames(part))]
        return Frames(whole).slice(0, size)

    def rebuild(self, shards: Mapping[int, Buffer | Frames], size: int, wanted: Sequence[int]) -> list[Frames]:
        """Shards `wanted` of an object of `size` bytes, each made of k others, data first.

        Raises:
            ConfigurationError: A number, `size` or what should be a shard makes no sense.
            IntegrityError: There are fewer than k shards, or one is not as long as it should be.
        """
        self._check(size, [*shards, *wanted])
        length = self.length(size)
        given = {index: _frames(shards[index]) for index in sorted(shards)}
        for index, shard in given.items():
            if shard.nbytes != length:
                raise IntegrityError(
                    f"Shard {index} has {shard.nbytes} bytes and not {length}, as an object of {size} bytes in "
                    f"{self.k} shards has: it was cut, or is not of this object. Leave it out."
                )
        if len(given) < self.k:
            raise IntegrityError(
                f"Of {self.n} shards only {len(given)} are here, and {self.k} are needed: the object cannot be rebuilt."
            )
        if not wanted:
            return []
        have = tuple(given)[: self.k]
        return self._made(tuple(wanted), have, [given[index] for index in have], length)

    def _check(self, size: int, indices: Sequence[int]) -> None:
        if type(size) is not int or size < 0:
            raise ConfigurationError(f"An object's size is a number of bytes, not {size!r}.")
        for index in indices:
            if type(index) is not int or not 0 <= index < self.n:
                raise ConfigurationError(f"Shards of {self!r} have the numbers 0 to {self.n - 1}, not {index!r}.")

    def _cut(self, frames: Frames) -> list[Frames]:
        """The object's parts; those that end in zeros are copies, the others views."""
        length = self.length(frames.nbytes)
        if len(frames) > _SCATTERED * self.k:
            frames = Frames([frames.join()])  # a copy: so many small views take longer to go through
        whole = frames.nbytes // length if length else 0
        if len(frames) == 1:
            view = frames.views[0]
            lows = range(0, whole * length, length or 1)
            parts = [Frames.known((view[low : low + length],), length) for low in lows]
        else:
            parts = [frames.slice(number * length, length) for number in range(whole)]
        if whole < self.k and length:
            padded = fresh((self.k - whole) * length)
            frames.slice(whole * length, length).copy_into(padded)
            parts += [Frames((padded[low : low + length].toreadonly(),)) for low in range(0, len(padded), length)]
        return parts or [Frames()] * self.k

    def _made(self, wanted: tuple[int, ...], have: tuple[int, ...], sources: list[Frames], length: int) -> list[Frames]:
        rows = making_rows(self.k, have, wanted)
        if not length:
            return [Frames()] * len(wanted)
        targets = [self._memory(length) for _ in wanted]  # each its own: who keeps one keeps no other
        for low, views in _runs(sources, length):
            high = low + len(views[0])
            self._kernel(rows, views, [target[low:high] for target in targets])
        return [GivenFrames.known((target.toreadonly(),), length) for target in targets]


def _frames(data: Buffer | Frames) -> Frames:
    if isinstance(data, Frames):
        return data
    try:
        if memoryview(data).format != "O":  # addresses of Python's objects are no data
            return Frames((data,))
    except TypeError:
        pass
    raise ConfigurationError(f"Only buffers can be cut into shards, and this {type(data).__name__} is none.")


def _runs(sources: list[Frames], length: int) -> Iterator[tuple[int, list[memoryview]]]:
    """Stretches in which every source is one view: offsets, and the views."""
    if all(len(frames) == 1 for frames in sources):
        yield 0, [frames.views[0] for frames in sources]
        return
    cuts = {0, length}
    for frames in sources:
        at = 0
        for view in frames.views:
            at += view.nbytes
            cuts.add(at)
    marks = sorted(cuts)
    for low, high in pairwise(marks):
        yield low, [frames.slice(low, high - low).views[0] for frames in sources]
