"""Roots: directories in which connectors keep namespaces. A root is known by its marker file and by nothing else.

Rules:
1. A root may lie in a directory that holds other things. Only the marker, temporaries whose names tell their writer,
   directories that carry our own `.owner` file and directories that we renamed to remove them are ever changed or
   removed; links are not followed there.
2. A marker is written whole or not at all, and first come wins; its random tag stands in keys, so that a key of another
   root is refused with a sentence instead of found missing.
3. The marker says how many directories a namespace's objects fan out to. One of before it did is refused where objects
   lie in directories that nobody would look into.
4. Reaping takes only what surely nobody has: see `namespace.Namespace.state`. What cannot be judged, or removed, is
   left and said, and the rest is gone on with.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator

from proxyfab.abc import Reclaimed
from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError
from proxyfab.osio import mounts
from proxyfab.osio.files import (
    TEMPORARY,
    NoLinks,
    discard,
    is_abandoned,
    link_new,
    make_directory,
    read_small,
    remove_tree,
    sync_directory,
    temporary_name,
    translate,
    tree_size,
    write_all,
)
from proxyfab.osio.namespace import DOOMED, NAME, OWNER, Namespace, State
from proxyfab.osio.objects import FANS

MARKER = ".proxyfab"
VERSION = 1
_TAG = re.compile(r"[0-9a-f]{8}")
_OLD_FAN = re.compile(r"[1-9a-f][0-9a-f]")
_DOOMED = re.compile(rf"{re.escape(DOOMED)}{NAME}(?P<remover>{re.escape(TEMPORARY)}[0-9a-f]+(-\d+){{3}})")


class Root:
    """An open root.

    Attributes:
        path: Absolute.
        tag: 8 hexadecimal digits, drawn when the root was made.
        kind: The file system's type, as `mounts.kind` tells it.
        network: Whether other machines may see it, so that locks, notices and mappings are worth less.
    """

    __slots__ = ("kind", "network", "path", "tag")

    def __init__(self, path: str, tag: str) -> None:
        self.path = path
        self.tag = tag
        self.kind = mounts.kind(path)
        self.network = mounts.is_network(self.kind)

    @classmethod
    def find(cls, path: str) -> Root | None:
        """The root at `path`; None when there is no marker."""
        tag = _read_tag(path)
        return None if tag is None else cls(path, tag)

    @classmethod
    def make(cls, path: str) -> Root:
        """The root at `path`, made with its parents where it is missing."""
        found = cls.find(path)
        if found is not None:
            return found
        try:
            make_directory(path, parents=True)
            _write_marker(path)
            sync_directory(path)
            sync_directory(os.path.dirname(path))
        except OSError as error:
            raise translate(error, "make the directory", path) from error
        made = cls.find(path)
        if made is None:
            raise ConnectorError(f"Cannot read {path}/{MARKER}, which was just written; check the file system.")
        return made

    def namespace(self, name: str) -> Namespace:
        """The namespace of that name, whether it exists or not; touches nothing."""
        return Namespace(self.path, name, network=self.network)

    def namespaces(self) -> Iterator[Namespace]:
        """Every namespace that lies here."""
        for name in sorted(_names(self.path)):
            if not name.startswith(".") and os.path.exists(f"{self.path}/{name}/{OWNER}"):
                yield self.namespace(name)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        """Remove the namespaces whose owner has ended, and what an interrupted removal left.

        Also lists, with 0 bytes, what nobody here can judge or remove, and why.
        """
        taken = []
        for name in _names(self.path):
            try:
                doomed = _DOOMED.fullmatch(name)
                if doomed is not None:
                    taken.extend(self._finish(name, doomed["remover"], dry_run))
                elif name.startswith(TEMPORARY):
                    taken.extend(self._drop(name, dry_run))
                elif self.namespace(name).writer() is not None:
                    taken.extend(self._judge(self.namespace(name), dry_run))
            except (ProxyfabError, OSError) as error:
                taken.append(left(f"{self.path}/{name}", error))
        return taken

    def _judge(self, namespace: Namespace, dry_run: bool) -> list[Reclaimed]:
        with namespace.state() as (state, why):
            if state is State.UNKNOWN:
                return [left(namespace.path, why)]
            if state is not State.DEAD:
                return []
            if dry_run:
                return [Reclaimed(namespace.path, tree_size(namespace.path).nbytes, why)]
            removed = namespace.remove()
            return [] if removed is None else [Reclaimed(namespace.path, removed.nbytes, why)]

    def _finish(self, name: str, remover: str, dry_run: bool) -> list[Reclaimed]:
        path = f"{self.path}/{name}"
        try:
            begun = os.lstat(path).st_ctime
        except FileNotFoundError:
            return []
        if not is_abandoned(remover, begun, time.time()):
            return []
        removed = tree_size(path) if dry_run else remove_tree(path)
        return [Reclaimed(path, removed.nbytes, "its removal was interrupted")]

    def _drop(self, name: str, dry_run: bool) -> list[Reclaimed]:
        path = f"{self.path}/{name}"
        try:
            status = os.lstat(path)
            if not is_abandoned(name, status.st_mtime, time.time()):
                return []
            if not dry_run:
                os.unlink(path)
        except FileNotFoundError:
            return []
        return [Reclaimed(path, status.st_size, "its writer ended before it was complete")]


def left(path: str, why: object) -> Reclaimed:
    """What `reap` says of something that it could not take."""
    return Reclaimed(f"{path} (left)", 0, str(why))


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise translate(error, "list", path) from error


def _read_tag(path: str) -> str | None:
    marker = f"{path}/{MARKER}"
    try:
        text = read_small(marker)
    except IntegrityError as error:
        raise _no_marker(marker) from error
    except OSError as error:
        raise translate(error, "read", marker) from error
    if text is None:
        return None
    try:
        content = json.loads(text)
        version, tag, fans = int(content["proxyfab"]), str(content["tag"]), int(content.get("fans", 0))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _no_marker(marker) from error
    if version != VERSION or fans not in (0, FANS):
        raise ConnectorError(
            f"{path} has layout version {version} with {fans} directories and this proxyfab knows {VERSION} with "
            f"{FANS}; upgrade proxyfab."
        )
    old = "" if fans else _old_fan(path)
    if old:
        raise ConnectorError(
            f"{path} was written by an older proxyfab: its objects in {old} would not be found. Move what lies in the "
            f"directories 10 to ff of each namespace to the one of 00 to 0f with the same last digit ({old} to "
            f"{old[:-2]}0{old[-1]}), while nobody uses them."
        )
    if not _TAG.fullmatch(tag):
        raise _no_marker(marker)
    return tag


def _old_fan(path: str) -> str:
    """A directory in which a proxyfab that fanned out to 256 has left objects; `""` where there is none."""
    for name in _names(path):
        space = f"{path}/{name}"
        if not name.startswith(".") and os.path.exists(f"{space}/{OWNER}"):
            for fan in filter(_OLD_FAN.fullmatch, _names(space)):
                if os.path.isdir(f"{space}/{fan}") and _names(f"{space}/{fan}"):
                    return f"{space}/{fan}"
    return ""


def _no_marker(path: str) -> ConnectorError:
    return ConnectorError(f"{path} is not a marker of proxyfab; choose another path, or remove that file.")


def _write_marker(path: str) -> None:
    """Whole or not at all; whoever comes second keeps the first one's."""
    temporary = f"{path}/{temporary_name()}"
    content = json.dumps({"proxyfab": VERSION, "tag": os.urandom(4).hex(), "fans": FANS}).encode()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        write_all(fd, [content])
        os.fsync(fd)  # a power cut must not take the marker from under what namespaces keep
        link_new(temporary, f"{path}/{MARKER}")
    except FileExistsError:
        pass
    except NoLinks:
        os.rename(temporary, f"{path}/{MARKER}")  # two that make one root at the same instant are not told apart here
    finally:
        os.close(fd)
        discard(temporary)
