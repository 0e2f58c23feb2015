"""Namespaces: one directory each, persistent under a name, or ephemeral and alive as long as the process that made it.

Rules:
1. A namespace is ours when it holds an `.owner` file (JSON). It is written whole, by rename, before anything else.
2. The name of an ephemeral namespace (`~` and 24 characters) tells its owner: machine, process id, start time. So
   whoever writes first may make it, a forked child or a worker that was sent the URL, and it is still its owner's.
3. As soon as it uses it the owner holds an exclusive flock on `.owner` for life.
   All that it owns under one root share one file, by hard links: stores do not eat into the limit on open files.
   A forked child closes its copy, so that only the owner's end frees the lock, and frees it even after SIGKILL.
4. Whoever gets the lock and finds nothing that speaks for life may remove the namespace (`Root.reap`).
5. At normal exit the owner removes what it owns. `close()` of a connector never does.

Connectors do not come here directly: `osio.lodging` opens root and namespace for them, and keeps rule 5.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from proxyfab.errors import AccessDenied, IntegrityError, ProxyfabError
from proxyfab.osio.files import (
    TEMPORARY,
    Removed,
    is_abandoned,
    make_directory,
    names_it,
    open_file,
    read_small,
    remove_tree,
    sync_directory,
    temporary_name,
    translate,
    write_all,
)
from proxyfab.osio.owner import Writer, running, this_process, try_lock
from proxyfab.trace import here

OWNER = ".owner"
DOOMED = ".gone-"
NAME = r"(?:~[a-z2-7]{24}|[A-Za-z0-9][A-Za-z0-9._-]{0,63})"
"""What a namespace can be called: a regular expression. Nothing else that comes in a key becomes a part of a path."""
_NAME = re.compile(NAME)


def is_name(text: str) -> bool:
    """Whether a namespace can be called that."""
    return _NAME.fullmatch(text) is not None


class State(enum.Enum):
    """What is known of a namespace's owner."""

    NAMED = "named"
    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    MISSING = "missing"


class Verdict(NamedTuple):
    """A state and, in words, what it rests on."""

    state: State
    why: str


class Namespace:
    """One namespace's directory. Holds nothing open; ownership is the process's (`_owned`)."""

    __slots__ = ("name", "network", "path")

    def __init__(self, root: str, name: str, *, network: bool) -> None:
        self.name = name
        self.path = f"{root}/{name}"
        self.network = network

    @property
    def ephemeral(self) -> bool:
        """Whether it lives with a process."""
        return self.name.startswith("~")

    def exists(self) -> bool:
        """Whether it is there and ours."""
        return os.path.exists(f"{self.path}/{OWNER}")

    def writer(self) -> Writer | None:
        """The process that an ephemeral namespace lives with; None for a named one."""
        try:
            return Writer.unpack(self.name[1:]) if self.ephemeral else None
        except ValueError:
            return None

    def owner(self) -> str:
        """The process that an ephemeral namespace lives with as `pid@host`, `""` for a named or missing one."""
        try:
            return _Card.parse(read_small(f"{self.path}/{OWNER}") or b"").owner
        except (OSError, IntegrityError):
            return ""

    def make(self) -> None:
        """Make it, and own it if it is to live with this process. One that is there already is kept.

        Raises:
            AccessDenied: A directory of this name is there and is not ours, or may not be made.
        """
        own = self.writer() == this_process().writer
        try:
            while not self.exists() or (own and self.path not in _owned):
                try:
                    make_directory(self.path)
                    self._settle(own)
                except FileNotFoundError:  # a reaper took the still empty directory
                    if not os.path.isdir(os.path.dirname(self.path)):
                        raise
        except OSError as error:
            raise translate(error, "make the namespace", self.path) from error

    def _settle(self, own: bool) -> None:
        strangers = [name for name in os.listdir(self.path) if not name.startswith(".")]
        if strangers and not self.exists():
            raise AccessDenied(
                f"{self.path} holds others' files ({strangers[0]!r}) and no {OWNER}; choose another name or path."
            )
        if not own:
            os.close(self._sign(own))
        elif not self._share():
            self._keep(self._sign(own))
        if not self.ephemeral:
            sync_directory(self.path)
            sync_directory(os.path.dirname(self.path))

    def _sign(self, own: bool) -> int:
        """Write the owner file; its descriptor, which holds the lock if it is our own."""
        temporary = f"{self.path}/{temporary_name()}"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            if own:
                try_lock(fd)  # before the file has a name that a reaper looks at
            write_all(fd, [_Card.of(self.writer(), own).pack()])
            if not self.ephemeral:
                os.fsync(fd)
            os.rename(temporary, f"{self.path}/{OWNER}")
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return fd

    def _share(self) -> bool:
        """Take the owner file of another namespace that this process owns here: they say the same, and one descriptor,
        with its lock, does for any number of unnamed stores.
        """
        root = os.path.dirname(self.path)
        other = next((path for path in reversed(_owned) if path != self.path and os.path.dirname(path) == root), None)
        if other is None:
            return False
        temporary = f"{self.path}/{temporary_name()}"
        try:
            os.link(f"{other}/{OWNER}", temporary)
        except OSError:  # it was removed behind our back, has too many names, or there are no links here
            return False
        if not names_it(temporary, _owned[other]):
            os.unlink(temporary)
            return False
        os.rename(temporary, f"{self.path}/{OWNER}")
        self._keep(_owned[other])
        return True

    def _keep(self, fd: int) -> None:
        """Hold an owner file open for the life of this process, and with it the lock."""
        before = _owned.pop(self.path, fd)
        _owned[self.path] = fd
        if before not in _owned.values():
            os.close(before)

    @contextlib.contextmanager
    def state(self) -> Iterator[Verdict]:
        """Whether its owner lives. As long as the block runs no other reaper gets the same answer DEAD."""
        path = f"{self.path}/{OWNER}"
        if os.path.islink(self.path):
            yield Verdict(State.UNKNOWN, "it is a symbolic link, which proxyfab never makes; remove it by hand")
            return
        try:
            fd = open_file(path, os.O_RDWR)
        except IntegrityError as error:
            yield Verdict(State.UNKNOWN, str(error))
            return
        except OSError as error:
            yield Verdict(State.UNKNOWN, str(translate(error, "open", path)))
            return
        if fd is None:
            _remove_unsettled(self.path)
            yield Verdict(State.MISSING, "it has no owner file")
            return
        try:
            locked = try_lock(fd)
            # Read what was locked: meanwhile another file may have taken its name.
            yield self._judge(_Card.parse(os.pread(fd, 4096, 0)), locked)
        finally:
            os.close(fd)

    def remove(self) -> Removed | None:
        """Remove it with all it holds, at once in the eyes of others; None when somebody else did.

        It is renamed first, so that a removal that is interrupted leaves nothing that looks alive.
        """
        parent, name = os.path.split(self.path)
        doomed = f"{parent}/{DOOMED}{name}{temporary_name()}"
        try:
            os.rename(self.path, doomed)
            return remove_tree(doomed)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, "remove", self.path) from error

    def _judge(self, card: _Card, locked: bool | None) -> Verdict:
        writer = self.writer()
        if writer is None:
            return Verdict(State.NAMED, "a named namespace stays until it is cleared")
        if locked is False:
            return Verdict(State.ALIVE, f"its owner {card.owner} holds its lock")
        if locked and card.locked and not self.network:
            return Verdict(State.DEAD, f"its owner {card.owner} has ended")
        found = running(writer)
        if found is not None:
            return Verdict(
                State.ALIVE if found else State.DEAD, f"its owner {card.owner} {'runs' if found else 'has ended'}"
            )
        if locked and card.locked and card.host == here():
            # This host's name, a free lock and another boot: the machine was started anew since.
            return Verdict(State.DEAD, f"its owner {card.owner} ended before this machine or container was started")
        return Verdict(State.UNKNOWN, f"its owner {card.owner} cannot be looked up from {here()}; reap there")


class _Card(NamedTuple):
    """What an `.owner` file says."""

    pid: int = 0
    host: str = ""
    locked: bool = False
    """The owner itself wrote this and held the lock before; otherwise somebody did who was first to write."""

    @property
    def owner(self) -> str:
        return f"{self.pid}@{self.host}" if self.pid else ""

    @classmethod
    def of(cls, writer: Writer | None, own: bool) -> _Card:
        if writer is None:
            return cls()
        # Another process of the same machine has the same host's name.
        return cls(writer.pid, here() if writer.machine == this_process().writer.machine else "", own)

    def pack(self) -> bytes:
        made = round(time.time(), 3)
        command = this_process().command if self.locked else ""
        return json.dumps({"proxyfab": 1, "made": made, "command": command, **self._asdict()}).encode()

    @classmethod
    def parse(cls, text: bytes) -> _Card:
        """Damaged ones say nothing."""
        try:
            content = json.loads(text)
            return cls(int(content["pid"]), str(content["host"]), bool(content["locked"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return cls()


_owned: dict[str, int] = {}
"""Paths of the namespaces that live with this process, and the descriptors of their owner files; one may serve many."""


def _remove_unsettled(path: str) -> None:
    """Remove an empty directory whose maker was killed in between; one that is alive makes it again."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path)):  # read to its end, or it would be closed by the collector only
            if entry.name.startswith(TEMPORARY) and is_abandoned(entry.name, entry.stat().st_mtime, time.time()):
                os.unlink(entry.path)
        os.rmdir(path)


def remove_owned() -> None:
    """Remove every namespace that lives with this process: at its end."""
    for path in list(_owned):
        with contextlib.suppress(ProxyfabError, OSError):
            Namespace(*os.path.split(path), network=False).remove()
    disown()


def disown() -> None:
    """Let go of the locks: in a forked child without freeing them for its parent, whose namespaces stay."""
    for fd in set(_owned.values()):
        with contextlib.suppress(OSError):
            os.close(fd)
    _owned.clear()
