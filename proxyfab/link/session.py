"""A link between two sites: requests and answers in letters, objects in segments, over streams that come and go.

Sans-IO. Both sides are alike: each may ask, and each answers. Transfers are numbered by who asks.

    ask     first number, keys, parts,     the answers to the keys may come in any order, each by itself; of those that
            head, tail                     have parts, first bytes and ends in turn, only these are wanted; keys that
                                           are lists may leave away what they all begin and end with
    have    number, size, digest           an object's segments come, or came
    some    numbers, sizes, digests        small objects: they are the letter's body, one behind the other
    none    number                         it is not there
    fail    number, words, kind            it could not be read
    stop    numbers                        nobody wants these any more, or they are here
    count   stream, bytes                  what arrived so far; fleeting
    ended   streams, bytes                 streams that broke for their reader, and how much of each he has; fleeting
    buried  streams                        this was heard; fleeting

Rules:
1. A letter is acted upon once, in no order that can be relied on: segments and letters of different streams overtake.
2. What a broken stream carried is sent again as soon as its reader said what he has, and not before.
3. That word is said again whenever a stream comes or goes, until it was heard: if it waited for the streams that may
   have carried it, as other letters do, two sides could wait for each other for ever.
4. Whatever bytes come in, events or an IntegrityError come out, which is to end the link.

Not thread-safe: the owner has one lock for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from proxyfab.errors import IntegrityError
from proxyfab.link.frames import LETTER
from proxyfab.link.receiving import Receiver
from proxyfab.link.sending import SEGMENT, Item, Segment, Sender
from proxyfab.wire import messages
from proxyfab.wire.messages import NOBODY, Message

SMALL = 64 << 10
"""Bytes of the largest object that travels in the letter which answers."""
_LENGTH = struct.Struct("!I")
_COUNT_EVERY = 4 << 20
"""Bytes after which a side says what arrived, so that the other can forget what it sent."""
_BATCH = 250
"""Keys of one letter at most: they must fit into its head."""
DIGEST = 16
"""Bytes of an object's digest."""
_ASKED = 125
"""Keys of one letter that asks: some 5 KB, which a stream that was idle sends at once, and others beside it more."""
_SHARED = 16
"""Parts of keys at most that a letter names once for all of them."""
_TOGETHER = 32 << 10
"""Bytes of small objects in one letter, about: several streams share what is more."""
_PARTS = 500
"""Parts of an object that are asked for one by one; of one that lacks more, all from the first to the last."""


_UNHEARD = 128 << 20
_UNHEARD_OF_ONE = 2 * _COUNT_EVERY
"""Bytes of letters that a side may leave unread, or without a word that it read them: in all, and of each stream."""
_STREAMS = 100_000
"""Streams of one link that the other side may give up."""


class Want(NamedTuple):
    """What the other side wants: to be answered by its number with `have`, `none` or `fail`."""

    transfer: int
    key: Any
    parts: tuple[tuple[int, int], ...] = ()
    """First byte and end of each part of it; none for all of it."""


class Asked(NamedTuple):
    """The other side wants objects."""

    wants: list[Want]
    nbytes: int
    """Of the letter that asks."""


class Has(NamedTuple):
    """An answer: an object is on its way, or here, if it is small."""

    transfer: int
    size: int
    digest: bytes
    value: memoryview | None


class Small(NamedTuple):
    """An answer that fits into a letter."""

    transfer: int
    digest: bytes
    nbytes: int
    views: Sequence[memoryview]


class Hasnt(NamedTuple):
    """An answer: an object is not there, or `why` it could not be read."""

    transfer: int
    why: str = ""
    kind: str = ""


class Dropped(NamedTuple):
    """The other side has what it wanted of these, or wants it no more: they need not be kept."""

    transfers: list[int]


class Broken(NamedTuple):
    """The other side has given a stream up: it is to be closed here, too."""

    stream: int


Event: TypeAlias = Asked | Has | Hasnt | Dropped | Broken


class Session:
    """One side of a link.

    Args:
        segment: Bytes of a segment at most.
    """

    def __init__(self, segment: int = SEGMENT) -> None:
        self.sender, self.receiver = Sender(segment), Receiver(segment)
        self._next = 0
        self._counted: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        """Streams that broke, with what they brought, of which the other side did not say that it heard."""
        self._known: set[int] = set()
        """Streams that were here."""
        self._given_up: set[int] = set()
        """Streams that the other side gave up, here or not."""

    def join(self, stream: int) -> bool:
        """A stream is there, or about to be dialled, with a number that none had before. False: it was given up."""
        if stream in self._given_up:
            return False
        self.sender.join(stream)
        self.receiver.join(stream)
        self._known.add(stream)
        self._counted[stream] = 0
        self._tell_ended()
        return True

    def leave(self, stream: int) -> None:
        """A stream broke: say what it brought. What it carried the other way is with the other side to say."""
        if self._counted.pop(stream, None) is not None:
            self._ended[stream] = self.receiver.leave(stream)
        self._tell_ended()

    def _tell_ended(self) -> None:
        ended = list(self._ended.items())
        for first in range(0, len(ended), _BATCH):
            some = ended[first : first + _BATCH]
            self._tell("ended", {"s": [each[0] for each in some], "n": [each[1] for each in some]}, fleeting=True)

    def take(self, stream: int, most: int = SEGMENT) -> Item | None:
        """What to send next on a stream that has room; None when there is nothing. See `Sender.take`."""
        return self.sender.take(stream, most)

    def ask(self, keys: Sequence[Any], parts: Sequence[Sequence[tuple[int, int]] | None] = ()) -> range:
        """Want objects. Returns their numbers, in the order of their keys.

        Args:
            keys: Of each what the other side finds it by: text, numbers, bytes, lists of them.
            parts: Of each first byte and end of the parts that are missing; None, or nothing at all, for all of it.
        """
        numbers = range(self._next, self._next + len(keys))
        self._next = numbers.stop
        whole = [place for place in range(len(keys)) if place >= len(parts) or parts[place] is None]
        for run in _runs(whole):
            self._tell("ask", {"t": numbers[run[0]], **_shared([keys[place] for place in run])})
        for place in sorted(set(range(len(keys))) - set(whole)):  # each in a letter of its own
            missing = parts[place] or ()
            some = missing if len(missing) <= _PARTS else [(missing[0][0], missing[-1][1])]
            self._tell(
                "ask", {"t": numbers[place], "keys": [keys[place]], "parts": [each for part in some for each in part]}
            )
        return numbers

    def stop(self, transfers: Sequence[int]) -> None:
        """Want nothing more of these: they are here, or nobody waits for them."""
        for transfer in transfers:
            self.receiver.forget(transfer)
        self._tell("stop", {"t": list(transfers)})

    def have(self, want: Want, size: int, digest: bytes) -> None:
        """Answer: an object is here. Its segments are in the queue from now on."""
        self._tell("have", {"t": want.transfer, "n": size, "d": digest})
        parts = [(first, min(end, size)) for first, end in want.parts] or [(0, size)]
        self.sender.offer(want.transfer, parts)

    def some(self, small: Sequence[Small]) -> None:
        """Answer: small objects, of `SMALL` bytes at most, all of each; as many to a letter as there is room for."""
        batch: list[Small] = []
        nbytes = 0
        for each in small:
            if batch and (nbytes + each.nbytes > _TOGETHER or len(batch) == _BATCH):
                self._tell_some(batch)
                batch, nbytes = [], 0
            batch.append(each)
            nbytes += each.nbytes
        if batch:
            self._tell_some(batch)

    def _tell_some(self, batch: Sequence[Small]) -> None:
        digests = b"".join([each.digest for each in batch])
        fields = {"t": [each.transfer for each in batch], "n": [each.nbytes for each in batch], "d": digests}
        self._tell("some", fields, [view for each in batch for view in each.views])

    def none(self, want: Want) -> None:
        """Answer: it is not here."""
        self._tell("none", {"t": want.transfer})

    def fail(self, want: Want, why: str, kind: str = "") -> None:
        """Answer: it could not be read."""
        self._tell("fail", {"t": want.transfer, "why": why[:4096], "kind": kind})

    def _tell(
        self, verb: str, fields: dict[str, Any], body: Sequence[memoryview] = (), *, fleeting: bool = False
    ) -> None:
        head = messages.encode(verb, NOBODY, fields)
        self.sender.tell(b"".join([_LENGTH.pack(len(head)), head, *body]), fleeting=fleeting)

    def arrived(self, stream: int, segment: Segment) -> bool:
        """Bytes of a segment are where they belong. Returns whether its object is complete now."""
        complete = self.receiver.landed(stream, segment).complete
        self._count(stream)
        return complete

    def _count(self, stream: int) -> None:
        received = self.receiver.received(stream)
        if received - self._counted[stream] >= _COUNT_EVERY:
            self._counted[stream] = received
            self._tell("count", {"s": stream, "n": received}, fleeting=True)

    def read(self, stream: int, letter: bytes | memoryview) -> list[Event]:
        """A letter came on a stream. Returns what it says to those who ask and answer.

        Raises:
            IntegrityError: It is malformed, or says what cannot be.
        """
        self.receiver.read(stream, len(letter))
        self._count(stream)
        if self.sender.unheard > _UNHEARD + _UNHEARD_OF_ONE * len(self._counted):
            raise IntegrityError("It asks, and does not read the answers, or never says that it did.")
        return self._heed(_opened(letter), len(letter))

    def _heed(self, letter: Message, nbytes: int) -> list[Event]:
        match letter.verb:
            case "ask":
                first, parts = letter.count("t"), _parts(letter)
                return [Asked([Want(first + place, key, parts) for place, key in enumerate(_keys(letter))], nbytes)]
            case "have":
                return [self._has(letter)]
            case "some":
                return list(_some(letter))
            case "none":
                return [Hasnt(letter.count("t"))]
            case "fail":
                return [Hasnt(letter.count("t"), letter.text("why"), letter.text("kind", ""))]
            case "stop":
                transfers = letter.counts("t")
                for transfer in transfers:
                    self.sender.withdraw(transfer)
                return [Dropped(transfers)]
            case "count":
                self.sender.confirm(letter.count("s"), letter.count("n"))
            case "ended":
                return self._bury(letter.counts("s"), letter.counts("n"))
            case "buried":
                for stream in letter.counts("s"):
                    self._ended.pop(stream, None)
        return []  # a verb that a newer side may have: nothing that has to be understood

    def _bury(self, streams: list[int], received: list[int]) -> list[Event]:
        if len(streams) > _BATCH or len(self._given_up) > _STREAMS:
            raise IntegrityError("A site gives up more streams than it can have had.")
        self._tell("buried", {"s": streams}, fleeting=True)
        told = [each for each in zip(streams, received, strict=False) if each[0] not in self._given_up]
        self._given_up.update(streams)
        for stream, bytes_ in told:
            if stream in self._known:
                self.sender.leave(stream, bytes_)
            else:
                self._ended[stream] = 0  # the other side knows it, and nothing came
        return [Broken(stream) for stream, _ in told if stream in self._counted]

    def _has(self, letter: Message) -> Has:
        digest = letter.fields.get("d")
        if not isinstance(digest, bytes):
            raise IntegrityError("The answer of a site names no digest.")
        return Has(letter.count("t"), letter.count("n"), digest, None)


def _some(letter: Message) -> Iterator[Has]:
    """The objects that a letter brings."""
    transfers, sizes, digests = letter.counts("t"), letter.counts("n"), letter.fields.get("d")
    if len(sizes) != len(transfers) or digests.__class__ is not bytes or len(digests) != DIGEST * len(transfers):
        raise IntegrityError("A letter brings objects, and does not say which.")
    if sum(sizes) != letter.nbytes:
        raise IntegrityError(f"A letter brings {letter.nbytes} bytes as objects of {sum(sizes)}.")
    body = letter.body[0] if letter.body else memoryview(b"")
    at = 0
    for number, (transfer, size) in enumerate(zip(transfers, sizes, strict=True)):
        yield Has(transfer, size, digests[number * DIGEST : (number + 1) * DIGEST], body[at : at + size])
        at += size


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Neighbours together, as many as a letter may name."""
    runs: list[list[int]] = []
    for place in places:
        if not runs or runs[-1][-1] != place - 1 or len(runs[-1]) == _ASKED:
            runs.append([])
        runs[-1].append(place)
    return runs


def _shared(keys: list[Any]) -> dict[str, Any]:
    """Fields of a letter that asks: what lists of one length begin and end with alike is named once."""
    if len(keys) < 2 or any(key.__class__ is not list or not 1 < len(key) == len(keys[0]) <= _SHARED for key in keys):
        return {"keys": keys}
    alike = [_is_text(parts[0]) and all(part == parts[0] for part in parts) for parts in zip(*keys, strict=True)]
    first = alike.index(False) if False in alike else len(alike)
    last = max(len(alike) - (alike[::-1].index(False) if False in alike else 0), first)
    return {"keys": [key[first:last] for key in keys], "head": keys[0][:first], "tail": keys[0][last:]}


def _is_text(part: Any) -> bool:
    """Text, or a list of nothing else: of other things some are equal and not the same, like 1 and True."""
    return part.__class__ is str or (part.__class__ is list and all(each.__class__ is str for each in part))


def _keys(letter: Message) -> list[Any]:
    """The keys of a letter that asks."""
    keys, shared = letter.items("keys", _BATCH), "head" in letter.fields
    if not shared:
        return keys
    head, tail = letter.items("head", _SHARED), letter.items("tail", _SHARED)
    if any(key.__class__ is not list for key in keys):
        raise IntegrityError("A letter asks by parts of keys that are none.")
    return [[*head, *key, *tail] for key in keys]


def _parts(letter: Message) -> tuple[tuple[int, int], ...]:
    """The parts that are wanted of the one object that a letter asks for."""
    if "parts" not in letter.fields:
        return ()
    flat = letter.counts("parts")
    parts = tuple(zip(flat[::2], flat[1::2], strict=False))
    if len(flat) % 2 or len(parts) > _PARTS or any(first >= end for first, end in parts):
        raise IntegrityError("A letter asks for parts of an object that are none.")
    return parts


def _opened(letter: bytes | memoryview) -> Message:
    view = memoryview(letter)
    if not _LENGTH.size <= view.nbytes <= LETTER:
        raise IntegrityError(f"A letter of {view.nbytes} bytes is none.")
    (head,) = _LENGTH.unpack(view[: _LENGTH.size])
    if head > view.nbytes - _LENGTH.size:
        raise IntegrityError(f"A letter of {view.nbytes} bytes has no head of {head}.")
    body = view[_LENGTH.size + head :]
    return messages.decode([view[_LENGTH.size : _LENGTH.size + head], *([body] if body.nbytes else [])])
