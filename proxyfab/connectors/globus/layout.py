"""Layout: where an object lies at a site, and how one that is arriving is told from one that has arrived.

    <site>/objects/<namespace>/<fan>/<name>    whole: written here, or taken in from below
    <site>/incoming/<namespace>/<fan>/<name>   what a transfer writes, in place and in any order
    <site>/outbox/<namespace>/<writer>.jsonl   what is still to be sent (`journal`)

Promises: an object ends with a digest of all its bytes, and what arrives is read whole, verified, and only then written
under `objects`. So what lies there is whole, whatever a transfer does.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from xxhash import xxh3_128

from proxyfab.buffers import Frames
from proxyfab.connectors.globus.sites import Site
from proxyfab.errors import IntegrityError
from proxyfab.osio.files import translate
from proxyfab.osio.objects import fan_of, name_of, read_object
from proxyfab.wire.slot import Slot

TRAILER = 24
_MARK = b"PFABWHOL"
_END = struct.Struct("<8s16s")


class Item(NamedTuple):
    """One object: the namespace and the id."""

    space: str
    id: str


def stored(root: str, item: Item) -> str:
    """The path of a whole object under a site's directory, as any machine names it."""
    return f"{root}/objects/{item.space}/{fan_of(item.id)}/{name_of(item.id)}"


def arriving(root: str, item: Item) -> str:
    """The path that transfers write to."""
    return f"{root}/incoming/{item.space}/{fan_of(item.id)}/{name_of(item.id)}"


def closed_with_digest(frames: Frames) -> Frames:
    """The frames and their digest behind them."""
    digest = xxh3_128()
    for view in frames.views:
        digest.update(view)
    return Frames((*frames.views, _END.pack(_MARK, digest.digest())))


def arrived(site: Site, item: Item) -> tuple[Slot, memoryview] | None:
    """What has arrived whole, digest and all; None while nothing has, or not all of it."""
    path = arriving(site.local, item)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            slot, payload = read_object(fd, path, item.id, mapped=False)
        finally:
            os.close(fd)
    except (FileNotFoundError, IntegrityError):
        return None
    except OSError as error:
        raise translate(error, "read", path) from error
    return (slot, payload) if _is_whole(payload) else None


def _is_whole(payload: memoryview) -> bool:
    if len(payload) < TRAILER:
        return False
    mark, digest = _END.unpack(payload[-TRAILER:])
    return bool(mark == _MARK and digest == xxh3_128(payload[:-TRAILER]).digest())


def let_go(site: Site, item: Item) -> bool:
    """Remove what has arrived, or is about to; whether there was anything."""
    path = arriving(site.local, item)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise translate(error, "remove", path) from error
    return True


def incoming(site: Site, space: str) -> Iterator[str]:
    """Paths of all that arrives, or has, in a namespace."""
    with contextlib.suppress(FileNotFoundError):
        for fan in os.scandir(f"{site.local}/incoming/{space}"):
            if fan.is_dir(follow_symlinks=False):
                yield from (entry.path for entry in os.scandir(fan.path) if entry.is_file(follow_symlinks=False))
