"""Lodgings: where a connector lives. Opens a root and a namespace in it at first use, and lets go as the process ends.

lodging = Lodging("/scratch/me", None)     # ephemeral: draws a name, does no I/O
lodging.name                               # "~3f9a2c1e77d0", to stand in a URL
lodging.open()                             # (Root, Namespace), made and owned; a process reaps a root at first use
lodging.find()                             # Namespace, nothing made; None when it is not there
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref

from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.osio.namespace import Namespace, disown, remove_owned
from proxyfab.osio.root import Root


class Lodging:
    """Where a connector lives: a root's path and a namespace, opened at first use. Thread-safe and fork-safe.

    Args:
        path: Of the root; absolute.
        name: Of the namespace. None draws an ephemeral one that lives with this process; an ephemeral name from
            elsewhere is attached to and never made.
    """

    def __init__(self, path: str, name: str | None) -> None:
        self.path = path
        self.name = f"~{os.urandom(6).hex()}" if name is None else name
        self._draws = os.getpid() if name is None else 0
        self._found: tuple[Root, Namespace] | None = None
        if name is None:
            _drawn.add(self)

    @property
    def owned(self) -> bool:
        """Whether the namespace lives with the calling process through this lodging."""
        return self._draws == os.getpid()

    @property
    def made(self) -> bool:
        """Whether it was found or made already."""
        return self._found is not None

    def root(self) -> Root | None:
        """The root; None when there is none at the path yet."""
        if self._found is not None:
            return self._found[0]
        root = Root.find(self.path)
        if root is not None:
            _reap_once(root)
        return root

    def find(self) -> Namespace | None:
        """The namespace; None when it is not there (yet, or any more)."""
        if self._found is None:
            root = self.root()
            if root is None:
                return None
            namespace = root.namespace(self.name)
            if not namespace.exists():
                return None
            self._found = root, namespace
        return self._found[1]

    def open(self) -> tuple[Root, Namespace]:
        """Root and namespace, made where they are missing.

        Raises:
            ConnectorError: The namespace is another process's and is not there.
        """
        if self._found is None:
            self._found = self._make()
        return self._found

    def reopen(self) -> tuple[Root, Namespace]:
        """Like `open`, after a directory was found to be gone: somebody removed it behind our back."""
        self._found = None
        return self.open()

    def _make(self) -> tuple[Root, Namespace]:
        root = Root.make(self.path)
        namespace = root.namespace(self.name)
        if namespace.ephemeral and not self.owned:
            if not namespace.exists():
                raise ConnectorError(
                    f"{namespace.path} is not there: the process that it lives with has ended, or has not used it yet. "
                    "Name the store to keep objects beyond a process."
                )
        else:
            # Held over a few system calls: two threads must not both own it, and no fork may copy a lock in the making.
            with _making:
                namespace.make(own=namespace.ephemeral)
            if namespace.ephemeral:
                _end_with_multiprocessing()
        _reap_once(root)
        return root, namespace


_drawn: weakref.WeakSet[Lodging] = weakref.WeakSet()
_making = threading.Lock()
_reaped: set[str] = set()


def _reap_once(root: Root) -> None:
    """Reap a root at its first use in this process. That it fails must not spoil what the caller wants."""
    if root.path not in _reaped:
        _reaped.add(root.path)
        with contextlib.suppress(ProxyfabError):
            root.reap()


def _end_with_multiprocessing() -> None:
    """A child forked by multiprocessing ends by `os._exit`, which skips atexit but runs multiprocessing's finalizers."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, remove_owned, exitpriority=-100)


def _before_fork() -> None:
    """Make what was drawn and not made yet: it shall live with the parent, even if a child writes first."""
    for lodging in _snapshot():
        if lodging.owned and not lodging.made:
            with contextlib.suppress(ProxyfabError):  # it will be said at first use
                lodging.open()
    _making.acquire()


def _snapshot() -> list[Lodging]:
    while True:
        try:
            return list(_drawn)
        except RuntimeError:  # another thread drew one meanwhile
            continue


def _in_child() -> None:
    _making.release()
    _drawn.clear()
    disown()


atexit.register(remove_owned)
os.register_at_fork(before=_before_fork, after_in_parent=_making.release, after_in_child=_in_child)
