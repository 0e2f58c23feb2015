"""Lodgings: where a connector lives. Opens a root and a namespace in it at first use, and lets go as the process ends.

lodging = Lodging("/scratch/me", None)     # ephemeral: draws a name, does no I/O
lodging.name                               # "~3f9a2c1e77d0", to stand in a URL
lodging.open()                             # (Root, Namespace), made and owned; a process reaps a root at first use
lodging.find()                             # Namespace, nothing made; None when it is not there
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from proxyfab.errors import ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.osio.namespace import Namespace, disown, remove_owned
from proxyfab.osio.owner import running, this_process
from proxyfab.osio.root import Root


class Lodging:
    """Where a connector lives: a root's path and a namespace, opened at first use. Thread-safe and fork-safe.

    Attributes:
        known: The root, as soon as it was found or made.
        drawn: Whether the namespace's name was drawn here, not given.

    Args:
        path: Of the root; absolute.
        name: Of the namespace. None draws an ephemeral one that lives with this process; an ephemeral name from
            elsewhere is attached to, and made for its owner if need be.

    Raises:
        ConfigurationError: The name begins with `~` and tells no owner.
    """

    def __init__(self, path: str, name: str | None) -> None:
        self.path = path
        self.drawn = name is None
        self.name = _draw(path) if name is None else name
        self.known: Root | None = None
        self._found: tuple[Root, Namespace] | None = None
        self._pid = 0
        if self.name.startswith("~") and Namespace(path, self.name, network=False).writer() is None:
            raise ConfigurationError(f"{self.name!r} names no unnamed store; take the URL as the store gives it.")

    def root(self) -> Root | None:
        """The root; None when there is none at the path yet."""
        if self.known is None:
            self.known = Root.find(self.path)
            if self.known is not None:
                _reap_once(self.known)
        return self.known

    def find(self) -> Namespace | None:
        """The namespace; None when it is not there (yet, or any more)."""
        found = self._found  # another thread may forget it meanwhile (`reopen`)
        if found is None:
            root = self.root()
            if root is None:
                return None
            namespace = root.namespace(self.name)
            if not namespace.exists():
                return None
            self._found = found = root, namespace
        return found[1]

    def open(self) -> tuple[Root, Namespace]:
        """Root and namespace, made where they are missing.

        Raises:
            ConnectorError: The process that the namespace lives with has ended.
        """
        found = self._found
        if found is None or self._pid != os.getpid():
            self._found = found = self._make()
            self._pid = os.getpid()
        return found

    def reopen(self) -> tuple[Root, Namespace]:
        """Like `open`, after a directory was found to be gone: somebody removed it behind our back."""
        self._found = None
        return self.open()

    def _make(self) -> tuple[Root, Namespace]:
        self.known = root = Root.make(self.path)
        namespace = root.namespace(self.name)
        writer = namespace.writer()
        if writer is not None and running(writer) is False:
            raise ConnectorError(
                f"Cannot write to {namespace.path}: it lived with process {writer.pid}, which has ended. "
                "Name the store to keep objects beyond a process."
            )
        # Held over a few system calls: two threads must not both own it, and no fork may copy a lock in the making.
        with _making:
            if _leaving and writer == this_process().writer:
                _give_up(namespace)
            namespace.make()
        _end_with_multiprocessing()
        _reap_once(root)
        return root, namespace


_counter = itertools.count()
_drawn: list[tuple[str, str]] = []
"""Roots and names of the ephemeral namespaces of this process: others may make them, it may never have seen them."""


def _draw(path: str) -> str:
    name = f"~{this_process().writer.pack(next(_counter))}"
    _drawn.append((path, name))
    return name


_making = threading.RLock()  # reentrant: collecting garbage inside may end somebody who opens a store
_leaving = False
_reaped: set[str] = set()
_sparing = False


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Roots that are used first in this block are not reaped: for a process that only looks, in its only thread."""
    global _sparing
    _sparing = True
    try:
        yield
    finally:
        _sparing = False


def _reap_once(root: Root) -> None:
    """Reap a root at its first use in this process. That it fails must not spoil what the caller wants."""
    if root.path not in _reaped and not _sparing:
        _reaped.add(root.path)
        with contextlib.suppress(ProxyfabError):
            root.reap()


def _give_up(namespace: Namespace) -> NoReturn:
    """This process is ending and has removed its namespaces: what it made now would be left behind."""
    if threading.current_thread() is not threading.main_thread():
        raise SystemExit  # a daemon that is still at work is about to be stopped anyway, and this ends it silently
    raise ConnectorError(f"Cannot make {namespace.path}: this process is ending. Name the store, or put earlier.")


def _leave() -> None:
    """Remove every namespace that lives with this process, whoever made it: at its end."""
    global _leaving
    with _making:
        _leaving = True
    remove_owned()
    while _drawn:
        path, name = _drawn.pop()
        with contextlib.suppress(ProxyfabError, OSError):
            Namespace(path, name, network=False).remove()


def _end_with_multiprocessing() -> None:
    """A child of multiprocessing may end by `os._exit`, which skips atexit but runs multiprocessing's finalizers."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _leave, exitpriority=-100)


def _in_child() -> None:
    global _leaving
    _leaving = False
    _making.release()
    _drawn.clear()
    disown()


atexit.register(_leave)
os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_in_child)
