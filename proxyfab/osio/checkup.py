"""What is wrong with a directory that is, or would become, a root; and a base for connectors that lodge in one.

Promises: changes nothing, makes nothing, follows the path as an open would; ends with the first thing that fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from proxyfab.abc import BaseConnector, Finding
from proxyfab.errors import ProxyfabError
from proxyfab.osio import mounts
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.root import Root

LITTLE = 256 * 2**20
"""Bytes free below which large objects soon find no room."""
_MANY = 10


class Lodged(BaseConnector):
    """A connector that lives in a root, and can say what is wrong with it."""

    _lodging: Lodging

    def diagnose(self) -> Iterator[Finding]:
        """Look at the directory; see `abc.SupportsDiagnosis`."""
        return examine(self._lodging.path)

    @property
    def chosen(self) -> bool:
        """Whether it was made for a namespace that somebody named; else it drew one of its own."""
        return not self._lodging.drawn

    def absence(self) -> str:
        """What is not there, the root or the chosen namespace, as a sentence; `""` where nothing is missing.

        Raises:
            ConnectorError: What lies there is not for this version, or cannot be read.
        """
        path, name = self._lodging.path, self._lodging.name
        root = Root.find(path)
        if root is None and not os.path.lexists(path):
            return f"{path} does not exist"
        if root is None:
            return f"{path} is no place of a store: none has put anything there"
        if not self.chosen or root.namespace(name).exists():
            return ""
        if name.startswith("~"):
            return f"{path} holds nothing of {name}: its process has ended, or has put nothing there"
        named = [space.name for space in root.namespaces() if not space.ephemeral]
        there = f"there are {', '.join(named[:_MANY])}{', ...' * (len(named) > _MANY)}" if named else "none has a name"
        return f"{path} holds no store {name!r}: {there}"


def examine(path: str) -> Iterator[Finding]:
    """Findings `directory`, `permission`, `version`, `file system` and `room`, until one fails.

    Args:
        path: Of the root; absolute. Need not exist.
    """
    for step in (_directory, _permission, _version, _file_system, _room):
        finding = step(path)
        yield finding
        if finding.state == "fail":
            return


def _directory(path: str) -> Finding:
    near = nearest(path)
    if not os.path.isdir(near):
        return Finding("directory", "fail", f"{near} is not a directory; choose another path, or move it away")
    if os.path.isdir(path):
        return Finding("directory", "ok", path)
    return Finding("directory", "warn", f"{path} does not exist yet; the first put makes it, in {near}")


def _version(path: str) -> Finding:
    try:
        root = Root.find(path)
    except (ProxyfabError, OSError) as error:
        return Finding("version", "fail", str(error))
    if root is None:
        return Finding("version", "ok", "no objects were ever put there")
    return Finding("version", "ok", f"laid out as this proxyfab does it (tag {root.tag})")


def _permission(path: str) -> Finding:
    near = nearest(path)
    if os.access(near, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return Finding("permission", "ok", f"user {os.geteuid()} may read and write {near}")
    if os.statvfs(near).f_flag & os.ST_RDONLY:
        return Finding("permission", "fail", f"{near} is mounted read-only; mount it for writing, or choose another")
    status = os.stat(near)
    detail = (
        f"user {os.geteuid()} may not read and write {near} (mode {status.st_mode & 0o7777:04o}, owner "
        f"{status.st_uid}); let its owner allow it, or choose a directory of yours"
    )
    return Finding("permission", "fail", detail)


def _file_system(path: str) -> Finding:
    kind = mounts.kind(path)
    if not mounts.is_network(kind):
        return Finding("file system", "ok", f"{kind}, of this machine alone")
    shared = "other machines may see it; objects are read, not mapped, and notices of new ones are slower"
    return Finding("file system", "ok", f"{kind or 'unknown'}: {shared}")


def _room(path: str) -> Finding:
    near = nearest(path)
    status = os.statvfs(near)
    free = status.f_bavail * status.f_frsize
    if status.f_files and not status.f_favail:
        detail = f"no inode of {status.f_files} is free, of which each object needs one; remove files there"
        return Finding("room", "fail", detail)
    seen = f"{free / 2**20:,.0f} MiB free on the file system of {near}"
    if free < status.f_frsize:
        hint = "evict objects, run `proxyfab gc`, remove other files or give it more room"
        return Finding("room", "fail", f"{seen}; {hint}")
    if free < LITTLE:
        return Finding("room", "warn", f"{seen}; large objects may find no room")
    return Finding("room", "ok", seen)


def nearest(path: str) -> str:
    """The path itself or, where nothing lies, the nearest parent: where it would be made."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path
