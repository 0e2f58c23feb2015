"""KeyFiles: one directory of secrets, keys and lists of them, which nobody but this user can have written.

Rules:
1. Secret files are made with mode 0600 by the call that makes them, in a directory of mode 0700; a secret that others
   could read, and a list or directory that others could write, is refused before it is used.
2. A file is there whole or not at all. One that holds a key is never written again; a list is changed by one at a time.
3. What keys are, and what their files say, is for `keyring`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from proxyfab.errors import AccessDenied, ConnectorError, ProxyfabError
from proxyfab.secret import Hidden

_LARGEST = 64 << 10
_PATIENCE = 10.0


class KeyFiles:
    """Thread-safe; each call looks anew.

    Args:
        directory: Where they lie; it is made when something is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, path: Path, *, secret: bool) -> str:
        """A file's text, once it is known that nobody else could have written it, or read it where that is a secret.

        Raises:
            FileNotFoundError: There is none.
            AccessDenied: It is not trusted, or cannot be read.
        """
        self._guard(self._directory, os.stat(self._directory), 0o022)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError as error:
            raise AccessDenied(f"{path} cannot be read by this user: {error.strerror}.") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise AccessDenied(f"{path} is not a file; a key lies in one.")
            self._guard(path, status, 0o077 if secret else 0o022)
            return Hidden(os.read(descriptor, _LARGEST), "utf-8", "replace")
        finally:
            os.close(descriptor)

    def add(self, path: Path, text: str) -> bool:
        """Make a file that holds `text`; False, and nothing changes, where there is one."""
        fresh = self._fresh(text)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return False
        finally:
            fresh.unlink()
        return True

    def rows(self, path: Path) -> list[tuple[str, str]]:
        """The lines of a list, each with its first two words; none where there is no such list."""
        try:
            text = self.read(path, secret=False)
        except FileNotFoundError:
            return []
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("# ")]
        rows = [line.split() for line in lines]  # a key may begin with #, too
        return [(row[0], row[1] if len(row) > 1 else "") for row in rows]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread or process changes a list of this directory meanwhile; its lock is the directory's."""
        with _writing(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ends = time.monotonic() + _PATIENCE
            while not _locked(descriptor):
                if time.monotonic() > ends:
                    raise ConnectorError(f"Somebody has been changing {self._directory} for {_PATIENCE:.0f} s; end it.")
                time.sleep(0.005)
            yield
        finally:
            with suppress(OSError):  # a child that was forked meanwhile has the descriptor, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def write_rows(self, path: Path, rows: list[tuple[str, str]]) -> None:
        """Put a list in the place of the one that is there."""
        self._fresh("".join(f"{first} {second}\n" for first, second in rows)).replace(path)

    def _fresh(self, text: str) -> Path:
        """A new file in the directory that holds `text`, which nobody but this user can read from its first byte on."""
        path = self._directory / f".{secrets.token_hex(8)}"
        with _writing(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._guard(self._directory, os.stat(self._directory), 0o022)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o600)  # a narrow umask has taken away bits that we need
                file.write(text)
                file.flush()
                os.fsync(descriptor)
        return path

    def _guard(self, path: Path, status: os.stat_result, forbidden: int) -> None:
        if status.st_uid not in (os.geteuid(), 0):
            raise AccessDenied(f"{path} belongs to user {status.st_uid}, not to this one: keys are one's own.")
        if status.st_mode & forbidden:
            mode, verb = ("go-w", "write") if forbidden == 0o022 else ("go=", "read")
            raise AccessDenied(f"Others may {verb} {path}, so it holds no key to trust: chmod {mode} {path}")


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Says of what the system refuses that it was about keys, and where they may lie instead."""
    try:
        yield
    except ProxyfabError:  # some are OSErrors
        raise
    except OSError as error:
        told = AccessDenied if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ConnectorError
        text = f"Keys cannot be written to {directory}: {error.strerror}; set PROXYFAB_KEYS to a directory of your own."
        raise told(text) from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # some network file systems have no locks for directories
        return not isinstance(error, BlockingIOError)
    return True
