"""Namespaces: one directory each, persistent under a name, or ephemeral and alive as long as the process that made it.

Rules:
1. A namespace is ours when it holds an `.owner` file (JSON). It is written whole, by rename, before anything else.
2. The owner of an ephemeral namespace (`~` and 12 hexadecimal digits) holds an exclusive flock on `.owner` for life.
   A forked child closes its copy, so that only the owner's end frees the lock, and frees it even after SIGKILL.
3. Whoever gets the lock and finds nothing that speaks for life may remove the namespace (`Root.reap`).
4. At normal exit the owner removes what it owns. `close()` of a connector never does.
5. Before a fork every namespace drawn but not yet made is made, so that it is the parent's, whoever writes first.

Connectors do not come here directly: `osio.lodging` opens root and namespace for them, and keeps rules 4 and 5.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from proxyfab.errors import AccessDenied, ProxyfabError
from proxyfab.osio.files import (
    TEMPORARY,
    Removed,
    is_abandoned,
    make_directory,
    remove_tree,
    temporary_name,
    translate,
    write_all,
)
from proxyfab.osio.owner import Process, Writer, running, this_process, try_lock
from proxyfab.trace import here

OWNER = ".owner"
DOOMED = ".gone-"


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

    def owner(self) -> Process | None:
        """The process that an ephemeral namespace lives with; None for a named or missing one."""
        try:
            with open(f"{self.path}/{OWNER}", "rb") as file:
                content = json.loads(file.read(4096))
            if content["pid"] is None:
                return None
            writer = Writer(str(content["machine"]), int(content["pid"]), int(content["start"]))
            return Process(writer, str(content["host"]), str(content["command"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def make(self, *, own: bool) -> None:
        """Make it, for good or (`own`) to live with this process. One that is there already is kept and attached to.

        Raises:
            AccessDenied: A directory of this name is there and is not ours, or may not be made.
        """
        try:
            while not self.exists():
                make_directory(self.path)
                try:
                    self._settle(own)
                except FileNotFoundError:  # a reaper took the still empty directory
                    continue
        except OSError as error:
            raise translate(error, "make the namespace", self.path) from error

    def _settle(self, own: bool) -> None:
        strangers = [name for name in os.listdir(self.path) if not name.startswith(".")]
        if strangers and not self.exists():
            raise AccessDenied(
                f"{self.path} holds somebody else's files ({strangers[0]!r}) and no {OWNER}; choose another name or path."
            )
        temporary = f"{self.path}/{temporary_name()}"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            if own:
                try_lock(fd)  # before the file has a name that a reaper looks at
            write_all(fd, [_card(own)])
            os.rename(temporary, f"{self.path}/{OWNER}")
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if own:
            _owned[self.path] = fd  # open for the life of this process: it holds the lock
        else:
            os.close(fd)

    @contextlib.contextmanager
    def state(self) -> Iterator[Verdict]:
        """Whether its owner lives. As long as the block runs no other reaper gets the same answer DEAD."""
        try:
            fd = os.open(f"{self.path}/{OWNER}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            _remove_unsettled(self.path)
            yield Verdict(State.MISSING, "it has no owner file")
            return
        except OSError as error:
            yield Verdict(State.UNKNOWN, str(translate(error, "open", f"{self.path}/{OWNER}")))
            return
        try:
            yield self._judge(try_lock(fd))
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

    def _judge(self, locked: bool | None) -> Verdict:
        owner = self.owner()
        if not self.ephemeral:
            return Verdict(State.NAMED, "a named namespace stays until it is cleared")
        if locked is False:
            return Verdict(State.ALIVE, f"its owner {owner} holds its lock")
        if locked and not self.network:
            return Verdict(State.DEAD, f"its owner {owner} has ended")
        found = None if owner is None else running(owner.writer)
        if found is None and locked and owner is not None and owner.host == here():
            # This host's name, a free lock and another boot: the machine was started anew since.
            return Verdict(State.DEAD, f"its owner {owner} ended before this machine or container was started")
        if found is None:
            return Verdict(
                State.UNKNOWN, f"its owner {owner or '(unreadable)'} cannot be looked up from {here()}; reap there"
            )
        return Verdict(State.ALIVE if found else State.DEAD, f"its owner {owner} {'runs' if found else 'has ended'}")


_owned: dict[str, int] = {}


def _card(own: bool) -> bytes:
    process = this_process()
    content: dict[str, object] = {"proxyfab": 1, "made": round(time.time(), 3), "pid": None}
    if own:
        machine, pid, start = process.writer
        content |= {"machine": machine, "pid": pid, "start": start, "host": process.host, "command": process.command}
    return json.dumps(content).encode()


def _remove_unsettled(path: str) -> None:
    """Remove an empty directory whose maker was killed in between; one that is alive makes it again."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            if entry.name.startswith(TEMPORARY) and is_abandoned(entry.name, entry.stat().st_mtime, time.time()):
                os.unlink(entry.path)
        os.rmdir(path)


def remove_owned() -> None:
    """Remove every namespace that lives with this process: at its end."""
    for path in list(_owned):
        fd = _owned.pop(path)
        with contextlib.suppress(ProxyfabError, OSError):
            Namespace(*os.path.split(path), network=False).remove()
        os.close(fd)


def disown() -> None:
    """In a forked child: let go of the parent's locks without freeing them, and remove nothing of the parent's."""
    for fd in _owned.values():
        with contextlib.suppress(OSError):
            os.close(fd)
    _owned.clear()
