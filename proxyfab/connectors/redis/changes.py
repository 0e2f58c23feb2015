"""Changes of an object that depend on what lies there: its expiry, and its content if it is still what one believes.

Promises: of several who compare and set at once one wins, by Redis's own WATCH; each function leaves the link without
anything under way, or raises.
"""

from __future__ import annotations

from contextlib import nullcontext

from proxyfab.buffers import Frames
from proxyfab.connectors.redis.bulk import Writing, ask_range, chunks_of, drop_chunks, get, set_command
from proxyfab.connectors.redis.errors import together
from proxyfab.connectors.redis.header import Header
from proxyfab.resp.link import Link, Part, pack
from proxyfab.wire.slot import SIZE


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
