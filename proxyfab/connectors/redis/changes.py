"""Changes of an object that depend on what lies there: its expiry, and its content if it is still what one believes.

Promises: of several who compare and set at once one wins, by Redis's own WATCH; each function leaves the link without
anything under way, or raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from proxyfab.buffers import Frames
from proxyfab.connectors.redis.bulk import Writing, ask_range, chunks_of, drop_chunks, get, set_command
from proxyfab.connectors.redis.errors import together
from proxyfab.connectors.redis.header import Header, is_whole
from proxyfab.resp.link import Link, Part, pack
from proxyfab.resp.parser import Reply, checked
from proxyfab.wire.slot import SIZE

MOST = 256
"""Objects that are compared and set at once."""
_SMALL = 16 * 1024


class Change(NamedTuple):
    """One of several objects to compare and set."""

    writing: Writing
    old: Frames | None
    header: Header | None
    """None: it is to be deleted."""


def renew(link: Link, name: bytes, milliseconds: int | None) -> bool:
    """Move an object's expiry, and that of its chunks, all at once; False when it is missing."""
    while True:
        raw = link.calls([pack(b"WATCH", name), ask_range(name, 0, SIZE)])[1]
        if not raw:
            link.call(b"UNWATCH")
            return False
        chunks = chunks_of(name, raw)
        moved = b"".join([expire(one, milliseconds) for one in (*chunks, name)])
        with together() if chunks else nullcontext():
            if link.transaction([moved], len(moved), len(chunks) + 1) is not None:
                return True  # otherwise it was replaced since it was looked at, or somebody else moved its expiry


def compare_and_set(link: Link, writing: Writing, old: Frames | None, header: Header | None) -> bool:
    """Put an object, or delete what lies there where no header is given, if that is `old`; False if it is not.

    Whoever touched it since it was watched may have moved its expiry only, so that it is looked at anew.
    """
    while True:
        raw = link.calls([pack(b"WATCH", writing.name), ask_range(writing.name, 0, SIZE)])[1]
        if (get(link, writing.name, writing.id_hash) if raw else None) != old:
            link.call(b"UNWATCH")
            return False
        if _change(link, writing, header):
            drop_chunks(link, writing.name, raw)
            return True


def compare_and_set_many(link: Link, wanted: Sequence[Change]) -> list[bool | None]:
    """`compare_and_set` of small objects, all of those that are as believed at once, in two round trips.

    None for one that is to be asked for alone: it is large, or somebody touched one of those that were to change.
    """
    asked = [pack(b"WATCH", *[change.writing.name for change in wanted])]
    asked += [ask_range(change.writing.name, 0, _SMALL) for change in wanted]
    done = [_as_believed(raw, change) for raw, change in zip(link.calls(asked, lenient=True)[1:], wanted, strict=True)]
    parts: list[Part] = []
    for change, fits in zip(wanted, done, strict=True):
        if fits:
            writing, _, header = change
            parts += [pack(b"UNLINK", writing.name)] if header is None else set_command(writing, header)[0]
    if not parts:
        link.call(b"UNWATCH")
        return done
    found = link.transaction([b"".join(parts)], sum(map(len, parts)), done.count(True))
    for reply in found or []:
        checked(reply)
    return done if found is not None else [None if fits else fits for fits in done]


def _as_believed(raw: Reply, change: Change) -> bool | None:
    if raw and not is_whole(checked(raw), change.writing.id_hash):
        return None
    return (Frames((memoryview(raw)[SIZE:],)) if raw else None) == change.old


def _change(link: Link, writing: Writing, header: Header | None) -> bool:
    """Put or delete what is watched; False when somebody touched it."""
    parts: list[Part] = [pack(b"UNLINK", writing.name)]
    nbytes = len(parts[0])
    if header is not None:
        parts, nbytes = set_command(writing, header)
    return link.transaction(parts, nbytes, 1) is not None


def expire(name: bytes, milliseconds: int | None) -> bytes:
    """The command that moves a key's expiry."""
    if milliseconds is None:
        return pack(b"PERSIST", name)
    return pack(b"PEXPIRE", name, b"%d" % milliseconds)
