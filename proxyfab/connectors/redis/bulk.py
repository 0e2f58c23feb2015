"""Objects on one link: put by scatter-gather, got in place, in pieces that server and client work on at once.

A large value is asked for in ranges of `STEP`, `WINDOW` of them on their way, because a server copies a whole reply
before it sends its first byte: 100 MB arrive in less than half the time of one GET here, and the server needs a few MB
for it instead of 100 a reader. That it was one object is told by its token, which is looked at again behind the last
piece. Values above `chunk` lie in keys that no other object ever has, and that nobody sees before the first key names
them: who has got them all needs not ask.

Promises: one copy of the payload in this process, from the socket to where it stays; what is returned is one object,
whole. Each function leaves the link without anything under way, or raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import chain, islice
from time import monotonic, time
from typing import NamedTuple

from redis import exceptions

from proxyfab.buffers import Frames
from proxyfab.connectors.redis.errors import Torn, parted, together
from proxyfab.connectors.redis.header import Header, chunk_name, drawn_token, is_whole, unpack
from proxyfab.errors import IntegrityError
from proxyfab.osio.warm import received
from proxyfab.resp.link import JOINED, Link, Part, pack
from proxyfab.resp.parser import Reply, checked
from proxyfab.wire.slot import SIZE

FIRST = 2**20
"""Bytes asked for before anything is known."""
STEP = 2 * 2**20
WINDOW = 3
PATIENT = 256 * 2**20
"""Bytes that may take as long as a call: larger objects have as many times that long."""
LEASE = 120_000
"""Milliseconds, at least, for which chunks that nobody named yet stay; extended with each further chunk."""
EXTENDED = 10_000
"""Chunks whose lease is extended with one question."""
MOST_TTL = 10**15
ASK = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b%b"


class Writing(NamedTuple):
    """One object to be put."""

    name: bytes
    frames: Frames
    id_hash: int
    milliseconds: int | None
    replace: bool
    chunk: int

    @property
    def chunked(self) -> bool:
        """Whether it needs keys besides its first."""
        return self.frames.nbytes > self.chunk


def milliseconds(ttl: float | None) -> int | None:
    """A time to live as Redis counts it; what is beyond its years is for ever."""
    return None if ttl is None or ttl * 1000 >= MOST_TTL else max(int(ttl * 1000), 1)


# -- get ----------------------------------------------------------------------------------------------------------


def ask_range(name: bytes, start: int, end: int) -> bytes:
    """The command for the bytes [start, end) of a key."""
    return ASK % (len(name), name, range_words(start, end - 1))


@lru_cache(64)
def range_words(first: int, last: int) -> bytes:
    """The end of such a command."""
    return b"\r\n$%d\r\n%d\r\n$%d\r\n%d\r\n" % (_digits(first), first, _digits(last), last)


def get(link: Link, name: bytes, id_hash: int, first: int = FIRST) -> Frames | None:
    """The object under a key; None when there is none. Its first bytes, so many, come as they are at one moment."""
    link.ask(ask_range(name, 0, first))
    found = _first(link, name, id_hash, first)
    return found.finish(link) if isinstance(found, Half) else found


def get_range(link: Link, name: bytes, id_hash: int, offset: int, length: int) -> Frames | None:
    """Bytes of an object, without moving the others."""
    some_of_it = ask_range(name, SIZE + offset, SIZE + offset + min(max(length, 1), FIRST))
    raw, some = link.calls([ask_range(name, 0, SIZE), some_of_it])
    if not raw:
        return None
    header = unpack(raw, id_hash)
    length = max(min(length, header.length - offset), 0)
    if not header.chunk and length <= len(some):
        return Frames((memoryview(some)[:length],))
    target, have = received.take(length), 0 if header.chunk else len(some)
    target[:have] = memoryview(some)[:have]
    Rest(name, header, offset + have, offset + length).receive(link, target[have:], raw)
    return Frames((target.toreadonly(),))


class Half(NamedTuple):
    """An object whose first piece has arrived."""

    raw: bytes
    target: memoryview
    have: int
    rest: Rest

    def finish(self, link: Link) -> Frames:
        """Receive the rest."""
        self.rest.receive(link, self.target[self.have :], self.raw)
        return Frames.known((self.target.toreadonly(),), len(self.target))


def first_piece(data: Reply, name: bytes, id_hash: int, asked: int) -> Frames | Half | None:
    """What lies in the first bytes of a key, which were asked for."""
    if not data:
        return None
    if is_whole(checked(data), id_hash):
        return Frames.known((memoryview(data)[SIZE:],), len(data) - SIZE)
    header = unpack(data, id_hash, len(data) if len(data) < asked else None)
    target, have = received.take(header.length), len(data) - SIZE
    target[:have] = data[SIZE:]
    return Half(bytes(data[:SIZE]), target, have, Rest(name, header, have, header.length))


def _first(link: Link, name: bytes, id_hash: int, asked: int) -> Frames | Half | None:
    """What the first range brought: all, or the beginning with room for the rest, which is asked for before it came."""
    parser = link.parser
    data = parser.buffered()
    if data is not None:
        return first_piece(data, name, id_hash, asked)
    length = parser.bulk_length()
    if not length:  # nothing lies there, and to say so took the server two segments
        parser.end_bulk()
        return None
    raw = parser.read_bytes(min(length, SIZE))
    header = unpack(raw, id_hash, length if length < asked else None)
    rest = Rest(name, header, length - SIZE, header.length)
    if header.length > length - SIZE:
        rest.ask(link, WINDOW)
    target = received.take(header.length)
    parser.read_into(target[: length - SIZE])
    parser.end_bulk()
    if header.length == length - SIZE:
        return Frames.known((target.toreadonly(),), header.length)
    return Half(raw, target, length - SIZE, rest)


class Rest:
    """The bytes [start, end) of an object, asked for in pieces, and then whether they were all of the same one."""

    def __init__(self, name: bytes, header: Header, start: int, end: int) -> None:
        self._header = header
        self._commands = chain(_pieces(name, header, start, end), [(ask_range(name, 0, SIZE), 0)])
        self._under_way: deque[int] = deque()

    def ask(self, link: Link, count: int) -> None:
        """Have so many more pieces on their way."""
        for command, length in islice(self._commands, count):
            self._under_way.append(length)
            link.ask(command)

    def receive(self, link: Link, target: memoryview, raw: bytes) -> None:
        """Fill `target`, all of it, with what belongs to the object whose header is `raw`.

        Raises:
            Torn: It was evicted or replaced before all of it had come.
            TryAgainError: It lies in chunks, some of them on another node.
            IntegrityError: A part of it is missing.
        """
        chunked = bool(self._header.chunk)
        with together() if chunked else nullcontext():
            whole, now = self._received(link, target)
        if chunked and whole == len(target):
            return  # their names are drawn anew with each object: these are of one, whatever came after it
        if now != raw:
            raise Torn
        if whole < len(target):
            if chunked and link.before:
                raise parted()
            raise IntegrityError(f"{len(target) - whole} of its {self._header.length} bytes are missing")

    def _received(self, link: Link, target: memoryview) -> tuple[int, Reply]:
        """How many bytes have come, each where it belongs, and what the header was behind the last of them."""
        parser, waiting = link.parser, self._under_way
        seconds = max(parser.deadline - monotonic(), 0.0)
        at = whole = 0
        self.ask(link, WINDOW - len(waiting))
        while expected := waiting.popleft():
            length = parser.bulk_length()
            if length > expected:
                raise exceptions.InvalidResponse(f"{length} bytes came where {expected} were asked for")
            parser.read_into(target[at : at + length])
            parser.end_bulk()
            whole += length
            at += expected
            if at // PATIENT != (at - expected) // PATIENT:
                link.begin(seconds)
            self.ask(link, 1)
        return whole, checked(parser.read())


def _pieces(name: bytes, header: Header, offset: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Commands for the bytes [offset, end) of an object, and how many bytes each brings."""
    while offset < end:
        if header.chunk:
            number, start = divmod(offset, header.chunk)
            step = min(STEP, end - offset, header.chunk - start)
            yield ask_range(chunk_name(name, header.token, number), start, start + step), step
        else:
            step = min(STEP, end - offset)
            yield ask_range(name, SIZE + offset, SIZE + offset + step), step
        offset += step


# -- put ----------------------------------------------------------------------------------------------------------


def put(link: Link, writing: Writing, header: Header) -> bool:
    """Store an object; False when another one lies under its key and is not to be replaced."""
    if writing.chunked:
        return _put_chunks(link, writing, header)
    parts, nbytes = set_command(writing, header)
    if writing.replace:
        before = ask_range(writing.name, 0, SIZE) + link.before
        link.send([before, *parts], nbytes + len(before))
        old, done = link.parser.read(), link.parser.read()
        checked(done)
        drop_chunks(link, writing.name, old)
    else:
        link.send(parts, nbytes)
        done = checked(link.parser.read())
    return bool(done) or is_mine(link, writing.name, header.pack())


def new_header(writing: Writing) -> Header:
    """The header of one putting; kept when it is tried again, so that it is known as the same."""
    chunk = writing.chunk if writing.chunked else 0
    return Header(writing.frames.nbytes, time(), drawn_token(), writing.id_hash, chunk)


def set_command(writing: Writing, header: Header) -> tuple[list[Part], int]:
    """A SET in parts, payload as it is unless it is small, and their bytes."""
    name, _, _, left, replace, _ = writing
    length = SIZE + header.stored
    words = 3 + (not replace) + 2 * (left is not None)
    start = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (words, len(name), name, length, header.pack())
    end = b"\r\n" if replace else b"\r\n$2\r\nNX\r\n"
    if left is not None:
        end += b"$2\r\nPX\r\n$%d\r\n%d\r\n" % (_digits(left), left)
    nbytes = len(start) + header.stored + len(end)
    parts: list[Part] = [start, *([] if header.chunk else writing.frames.views), end]
    return ([b"".join(parts)] if nbytes <= JOINED else parts), nbytes  # a small copy costs less than a vector


def is_mine(link: Link, name: bytes, header: bytes) -> bool:
    """Whether what lies there came from this very putting, whose first answer was lost."""
    return bool(link.calls([ask_range(name, 0, SIZE)], lenient=True)[0] == header)


def _put_chunks(link: Link, writing: Writing, header: Header) -> bool:
    """Chunks first, under a lease; then, at once, the key that names them, and their lease off.

    Chunks are watched, and so is a key that must be free: nothing is decided on what another client has changed.
    """
    name = writing.name
    names = [chunk_name(name, header.token, number) for number in range(header.chunks)]
    old, there = link.calls([pack(b"WATCH", name), ask_range(name, 0, SIZE), pack(b"EXISTS", name)], lenient=True)[1:]
    checked(there)
    if old == header.pack() or (there and not writing.replace):
        link.call(b"UNWATCH")
        return bool(old == header.pack())
    if writing.replace:
        link.call(b"UNWATCH")
    drop = [pack(b"UNLINK", chunk) for chunk in names]
    try:
        with together() if there else nullcontext():
            _send_chunks(link, names, writing.frames, header.chunk)
            if _publish(link, writing, header, names):
                return True
    except exceptions.OutOfMemoryError:  # those that found room would keep others out for as long as their lease
        link.calls(drop, lenient=True)
        raise
    link.calls(drop, lenient=True)
    if not writing.replace and link.calls([ask_range(name, 0, SIZE)])[0]:
        return False  # somebody put there meanwhile
    raise Torn  # somebody cleared meanwhile


def _send_chunks(link: Link, names: list[bytes], frames: Frames, size: int) -> None:
    """Store the pieces of an object, all of them under a lease that does not end while others are on their way."""
    seconds = max(link.parser.deadline - monotonic(), 0.0)
    lease = max(LEASE, int(2000 * seconds))
    extended = monotonic()
    for number, (name, part) in enumerate(zip(names, _cut(frames, size), strict=True)):
        link.begin(seconds)  # each chunk may take as long as a call
        start = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, part.nbytes)
        end = b"\r\n$2\r\nPX\r\n$%d\r\n%d\r\n" % (_digits(lease), lease)
        link.send([start, *part.views, end], len(start) + part.nbytes + len(end))
        checked(link.parser.read())
        if monotonic() - extended > lease / 4000:
            for at in range(0, number + 1, EXTENDED):
                link.begin(seconds)
                some = names[at : min(at + EXTENDED, number + 1)]
                link.calls([pack(b"PEXPIRE", before, b"%d" % lease) for before in some], lenient=True)
            extended = monotonic()


def _cut(frames: Frames, size: int) -> Iterator[Frames]:
    """The same bytes, `size` of them at a time."""
    views: list[memoryview] = []
    room = size
    for view in frames.views:
        while len(view) >= room:
            yield Frames([*views, view[:room]])
            views, view, room = [], view[room:], size
        if len(view):
            views.append(view)
            room -= len(view)
    if views:
        yield Frames(views)


def _publish(link: Link, writing: Writing, header: Header, names: list[bytes]) -> bool:
    """Name the chunks; False when one of them has gone, or the key is not free any more."""
    left = writing.milliseconds
    keep = [pack(b"PERSIST", name) if left is None else pack(b"PEXPIRE", name, b"%d" % left) for name in names]
    if link.before:  # where a slot arrives, no transaction may make a key beside others; `reap` knows who dies here
        link.calls(keep)
        keep = []
    link.call(b"WATCH", *names)
    if link.call(b"EXISTS", *names) < len(names):
        link.call(b"UNWATCH")
        return False
    parts, nbytes = set_command(writing, header)
    before = b"".join([*keep, ask_range(writing.name, 0, SIZE)])
    done = link.transaction([before, *parts], len(before) + nbytes, len(keep) + 2)
    if done is None:
        return False
    drop_chunks(link, writing.name, done[len(keep)])
    return True


def drop_chunks(link: Link, name: bytes, old: Reply) -> None:
    """Delete the keys that a replaced object had besides its first; those on another node are left to `reap`."""
    names = chunks_of(name, old)
    if names:
        link.calls([pack(b"UNLINK", chunk) for chunk in names], lenient=True)


def chunks_of(name: bytes, raw: Reply) -> list[bytes]:
    """Keys that an object with this header has besides its first; none where it is no header."""
    if not isinstance(raw, (bytes, memoryview)):
        return []
    try:
        header = unpack(raw, None)
    except IntegrityError:
        return []
    return [chunk_name(name, header.token, number) for number in range(header.chunks)]


def _digits(number: int) -> int:
    return len(str(number))
