"""Many objects at once, most of them small: no round trip waits, and next to nothing is done for each in Python.

Some are asked for, or sent, while others are looked at, or made ready, so that server and client work at once. What a
server may have to hold in memory for us is bounded: `BATCH` times `FIRST` bytes, twice. What another node of a cluster
should be asked (`ELSEWHERE`) is left to the caller, who asks one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, time

from redis.exceptions import ResponseError

from proxyfab.buffers import Frames
from proxyfab.connectors.redis.bulk import ASK, PATIENT, Half, ask_range, drop_chunks, first_piece, is_mine, range_words
from proxyfab.connectors.redis.errors import Torn
from proxyfab.connectors.redis.header import drawn_token, is_whole, pack_header
from proxyfab.resp.errors import ELSEWHERE
from proxyfab.resp.link import JOINED, Link, Part
from proxyfab.resp.parser import checked
from proxyfab.wire.slot import SIZE

BATCH = 128
FIRST = 64 * 1024
_SET = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b"


@contextmanager
def _still_here() -> Iterator[None]:
    """Around what is done for one object of a batch, once its key was found here.

    Raises:
        Torn: It has moved to another node meanwhile.
    """
    try:
        yield
    except ELSEWHERE as error:
        raise Torn from error


def get_many(link: Link, names: Sequence[bytes], hashes: Sequence[int]) -> list[Frames | ResponseError | None]:
    """The objects under several keys; for one that is on another node the error that says so."""
    starts = range(0, len(names), BATCH)
    found: list[Frames | Half | ResponseError | None] = []
    words = range_words(0, FIRST - 1)
    for start in (*starts, None):
        if start is not None:
            link.ask(b"".join([ASK % (len(name), name, words) for name in names[start : start + BATCH]]))
        if start == 0:
            continue  # the second part is asked for before the first is looked at
        at = len(found)
        replies = link.parser.many(min(BATCH, len(names) - at))
        found += _looked_at(replies, names[at : at + BATCH], hashes[at : at + BATCH])
    pace = _Pace(link)
    with _still_here():
        return [pace.then(len(item.target), item.finish(link)) if isinstance(item, Half) else item for item in found]


class _Pace:
    """Gives a call as many seconds again for each further `PATIENT` bytes that have moved."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._seconds = max(link.parser.deadline - monotonic(), 0.0)
        self._moved = 0

    def then(self, nbytes: int, frames: Frames | None = None) -> Frames | None:
        """So many bytes have moved; hands on what they are."""
        self._moved += nbytes
        if self._moved >= PATIENT:
            self._moved = 0
            self._link.begin(self._seconds)
        return frames


def _cut(items: Sequence[tuple[bytes, Frames, bytes]]) -> Iterator[list[tuple[bytes, Frames, bytes]]]:
    """The items in batches: so many, and so many bytes, as are sent at once."""
    batch: list[tuple[bytes, Frames, bytes]] = []
    nbytes = 0
    for item in items:
        if batch and (len(batch) == BATCH or nbytes + item[1].nbytes > PATIENT):
            yield batch
            batch, nbytes = [], 0
        batch.append(item)
        nbytes += item[1].nbytes
    if batch:
        yield batch


def _looked_at(
    replies: Iterable[object], names: Iterable[bytes], hashes: Iterable[int]
) -> Iterable[Frames | Half | ResponseError | None]:
    known = Frames.known
    for data, name, id_hash in zip(replies, names, hashes, strict=True):
        if type(data) is bytes and is_whole(data, id_hash):
            yield known((memoryview(data)[SIZE:],), len(data) - SIZE)
        elif isinstance(data, ELSEWHERE):
            yield data
        else:
            yield first_piece(checked(data), name, id_hash, FIRST)


def new_headers(many: Sequence[Frames], hashes: Iterable[int]) -> list[bytes]:
    """Headers for objects in one piece each; kept when they are put again, so that they are known as the same."""
    token, now = drawn_token(), time()
    return [
        pack_header(frames.nbytes, now, (token + number) % 2**64, id_hash)
        for number, (frames, id_hash) in enumerate(zip(many, hashes, strict=True))
    ]


def put_many(
    link: Link, items: Sequence[tuple[bytes, Frames, bytes]], milliseconds: int | None, *, replace: bool
) -> list[bool | ResponseError]:
    """Store objects (key, bytes, header) in one piece each; which of them found their key free or replaced it.

    For one whose key is on another node the error that says so.
    """
    end = b"\r\n" if replace else b"\r\n$2\r\nNX\r\n"
    if milliseconds is not None:
        end += b"$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(milliseconds)), milliseconds)
    words = 3 + (not replace) + 2 * (milliseconds is not None)
    pace = _Pace(link)
    for batch in _cut(items):
        parts: list[Part] = []
        for name, frames, header in batch:
            if replace:
                parts.append(ask_range(name, 0, SIZE))
            parts.append(_SET % (words, len(name), name, SIZE + frames.nbytes, header))
            parts += frames.views
            parts.append(end)
        total = sum(map(len, parts))
        if total <= JOINED * BATCH // 4:
            parts = [b"".join(parts)]  # a copy of small ones costs less than a vector
        link.send(parts, total)
        pace.then(total)
    replies = link.parser.many(len(items) * (2 if replace else 1))
    stored = replies[1::2] if replace else replies
    if replace:
        for item, old, reply in zip(items, replies[::2], stored, strict=True):
            if reply == b"OK":
                drop_chunks(link, item[0], old)
    if stored.count(b"OK") == len(items):
        return [True] * len(items)
    for reply in stored:
        if not isinstance(reply, ELSEWHERE):
            checked(reply)
    with _still_here():
        return [_done(link, item, reply) for item, reply in zip(items, stored, strict=True)]


def _done(link: Link, item: tuple[bytes, Frames, bytes], reply: object) -> bool | ResponseError:
    if isinstance(reply, ELSEWHERE):
        return reply
    return reply is not None or is_mine(link, item[0], item[2])
