"""Roots: directories in which connectors keep namespaces. A root is known by its marker file and by nothing else.

Rules:
1. A root may lie in a directory that holds other things. Only the marker and directories that carry our own `.owner`
   file are ever changed or removed.
2. A marker is written whole or not at all, and first come wins; its random tag stands in keys, so that a key of another
   root is refused with a sentence instead of found missing.
3. Reaping takes only what surely nobody has: see `namespace.Namespace.state`. What cannot be judged is left and said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from proxyfab.abc import Reclaimed
from proxyfab.errors import ConnectorError
from proxyfab.osio import mounts
from proxyfab.osio.files import (
    NoLinks,
    discard,
    link_new,
    make_directory,
    remove_tree,
    sync_directory,
    temporary_name,
    translate,
    tree_size,
    write_all,
)
from proxyfab.osio.namespace import DOOMED, OWNER, Namespace, State

MARKER = ".proxyfab"
VERSION = 1


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

        Also lists, with 0 bytes, ephemeral namespaces that nobody here can judge, and why.
        """
        taken = []
        for name in _names(self.path):
            if name.startswith(DOOMED):
                taken.append(self._finish(name, dry_run))
            elif name.startswith("~"):
                taken.extend(self._judge(self.namespace(name), dry_run))
        return taken

    def _judge(self, namespace: Namespace, dry_run: bool) -> list[Reclaimed]:
        with namespace.state() as (state, why):
            if state is State.UNKNOWN:
                return [Reclaimed(f"{namespace.path} (left)", 0, why)]
            if state is not State.DEAD:
                return []
            if dry_run:
                return [Reclaimed(namespace.path, tree_size(namespace.path).nbytes, why)]
            removed = namespace.remove()
            return [] if removed is None else [Reclaimed(namespace.path, removed.nbytes, why)]

    def _finish(self, name: str, dry_run: bool) -> Reclaimed:
        path = f"{self.path}/{name}"
        removed = tree_size(path) if dry_run else remove_tree(path)
        return Reclaimed(path, removed.nbytes, "its removal was interrupted")


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
        with open(marker, "rb") as file:
            text = file.read(4096)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate(error, "read", marker) from error
    try:
        content = json.loads(text)
        version, tag = int(content["proxyfab"]), str(content["tag"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConnectorError(
            f"{marker} is not a marker of proxyfab; choose another path, or remove that file."
        ) from error
    if version != VERSION:
        raise ConnectorError(
            f"{path} has layout version {version} and this proxyfab knows {VERSION}; upgrade proxyfab."
        )
    return tag


def _write_marker(path: str) -> None:
    """Whole or not at all; whoever comes second keeps the first one's."""
    temporary = f"{path}/{temporary_name()}"
    content = json.dumps({"proxyfab": VERSION, "tag": os.urandom(4).hex()}).encode()
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
