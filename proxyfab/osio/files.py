"""Files: errors in words, names for temporary files that tell who writes them, and writes that end.

Promises: `translate` is the one place where an OSError becomes an error of proxyfab. A temporary's name carries its
writer, so that whoever finds one knows whether it may go. `write_all` joins nothing and returns when all is written.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from proxyfab.buffers import Made
from proxyfab.errors import AccessDenied, CapacityError, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.osio.owner import Writer, running, this_process

Part: TypeAlias = memoryview | bytes | Made
PIECE = 16 * 2**20
"""Bytes a single write call is given at most: between two pieces Python handles signals."""
_IOV_MAX = 1024
TEMPORARY = ".t-"
OLD = 24 * 3600.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}
_NO_FILE = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR}
_HINTS = {
    errno.ENOSPC: "free some space, evict objects or run `proxyfab gc`",
    errno.EDQUOT: "the quota is used up: evict objects or ask for more",
    errno.EFBIG: "the file system or `ulimit -f` allows no larger file",
    errno.ENOMEM: "the machine is out of memory",
    errno.EACCES: "check the permissions and the user",
    errno.EPERM: "check the permissions and the user",
    errno.EROFS: "the file system is mounted read-only; choose another path",
    errno.EMFILE: "this process has too many open files (`ulimit -n`); let go of objects or raise the limit",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EIO: "the device reports a failure; check the disk or the mount",
    errno.ESTALE: "the file server has lost this directory; remount it or choose another path",
}


def translate(error: OSError, doing: str, path: str) -> ProxyfabError:
    """The error of proxyfab that says what failed on which path and what to do; raise it `from error`.

    Args:
        error: What the operating system said.
        doing: What was tried, as in "Cannot {doing} /path": `"write"`, `"open"`.
        path: On what.

    Raises:
        ProxyfabError: `error` itself, where it is one already: many of ours are OSErrors too.
    """
    if isinstance(error, ProxyfabError):
        raise error
    number = error.errno or 0
    kind = CapacityError if number in _FULL else AccessDenied if number in _REFUSED else ConnectorError
    hint = _HINTS.get(number, "check that the directory is mounted and healthy")
    return kind(f"Cannot {doing} {path}: {error.strerror or error}; {hint}.")


def write_all(fd: int, parts: Sequence[Part], written: Callable[[int, int, int], None] | None = None) -> int:
    """Write all parts one behind the other, from where the file stands, without joining them; returns how many bytes.

    Args:
        fd: A file; where the caller does not say otherwise an empty one.
        parts: One-dimensional views of bytes, or what is made meanwhile.
        written: Called as `written(fd, offset, length)` behind each piece of at most PIECE bytes.
    """
    if Made in map(type, parts):
        return _write_made(fd, parts, written)
    views: Sequence[memoryview | bytes] = parts  # type: ignore[assignment]  # as was just seen
    done = 0
    if written is None and len(views) <= _IOV_MAX:  # nearly always one call does it
        total = sum([len(part) for part in views])
        if total <= PIECE:
            done = os.writev(fd, views)
            if done == total:
                return total
    for batch in _pieces(views, done):
        length = _write_batch(fd, batch)
        if written is not None:
            written(fd, done, length)
        done += length
    return done


def laid(parts: Sequence[Part], offset: int = 0) -> Iterator[tuple[int, memoryview | bytes]]:
    """Each piece of what is written one behind the other, and where; a piece is over when the next one is asked for."""
    for part in parts:
        if isinstance(part, Made):
            for low, piece in part.pieces():
                yield offset + low, piece
        else:
            yield offset, part
        offset += len(part)


def write_at(fd: int, piece: memoryview | bytes, offset: int) -> None:
    """Write all of a piece at an offset."""
    done = os.pwrite(fd, piece, offset)
    while done < len(piece):
        done += os.pwrite(fd, memoryview(piece)[done:], offset + done)


def _write_made(fd: int, parts: Sequence[Part], written: Callable[[int, int, int], None] | None) -> int:
    start = os.lseek(fd, 0, os.SEEK_CUR)
    for offset, piece in laid(parts, start):
        write_at(fd, piece, offset)
        if written is not None:
            written(fd, offset, len(piece))
    return sum([len(part) for part in parts])


def _write_batch(fd: int, batch: list[memoryview]) -> int:
    total = 0
    while batch:
        done = os.writev(fd, batch)
        total += done
        while batch and done >= batch[0].nbytes:
            done -= batch.pop(0).nbytes
        if batch and done:
            batch[0] = batch[0][done:]
    return total


def _pieces(parts: Sequence[memoryview | bytes], skip: int) -> Iterator[list[memoryview]]:
    """The parts behind `skip` bytes in batches of at most PIECE bytes and 1,024 views."""
    batch: list[memoryview] = []
    room = PIECE
    for part in parts:
        view = memoryview(part)
        if skip >= view.nbytes:
            skip -= view.nbytes
            continue
        view, skip = view[skip:], 0
        while view.nbytes:
            batch.append(view[:room])
            view = view[room:]
            room -= batch[-1].nbytes
            if not room or len(batch) == _IOV_MAX:
                yield batch
                batch, room = [], PIECE
    if batch:
        yield batch


_counter = itertools.count()
_prefix = ""
_prefix_pid = 0


def temporary_name() -> str:
    """A name that no other thread, process or machine uses, and that tells who writes: `.t-machine-pid-start-n`."""
    global _prefix, _prefix_pid
    if _prefix_pid != os.getpid():
        writer = this_process().writer
        _prefix = f"{TEMPORARY}{writer.machine}-{writer.pid}-{writer.start}-"
        _prefix_pid = writer.pid
    return f"{_prefix}{next(_counter)}"


def is_abandoned(name: str, modified: float, now: float) -> bool:
    """Whether the temporary `name` has lost its writer.

    A writer of this machine is looked up. Of another machine, or of this one before it was started anew, nothing is
    known; then a file that has not grown for a day is taken for abandoned.
    """
    try:
        machine, pid, start, _ = name.removeprefix(TEMPORARY).split("-")
        found = running(Writer(machine, int(pid), int(start)))
    except ValueError:
        return False  # not one of ours
    return now - modified > OLD if found is None else not found


def open_file(path: str, flags: int = os.O_RDONLY) -> int | None:
    """A descriptor of a regular file; None when there is none. Follows no link and waits for no pipe's other end.

    Raises:
        IntegrityError: Something else has that name.
        OSError: What the operating system says.
    """
    fd = open_anything(path, flags)
    if fd is not None:
        try:
            check_regular(fd, path)
        except BaseException:
            os.close(fd)
            raise
    return fd


_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_anything(path: str, flags: int = os.O_RDONLY) -> int | None:
    """Like `open_file` for who calls `check_regular` when what was read makes no sense: that saves a system call."""
    fds: list[int] = []
    try:
        fds.extend(map(os.open, (path,), (flags | _SAFELY,)))  # opened and recorded by one call: see `osio.leases`
        return fds[0]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from error
        raise
    except BaseException:
        if fds:
            os.close(fds[0])
        raise


NEW = (os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,)
MODE = (0o600,)
"""How a new file is opened, for `map`."""


def check_regular(fd: int, path: str) -> None:
    """Raise IntegrityError when the open file is a directory, a pipe or a device."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise _no_file(path)


def _no_file(path: str) -> IntegrityError:
    return IntegrityError(f"{path} is no regular file, so proxyfab did not make it; remove it by hand.")


def read_small(path: str) -> bytes | None:
    """The first 4 KiB of a regular file; None when there is none, an error where a part of the path is no directory."""
    fd = open_file(path)
    if fd is None:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)
        return None
    try:
        return os.pread(fd, 4096, 0)
    finally:
        os.close(fd)


def names_it(path: str, fd: int) -> bool:
    """Whether `path` names the open file."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return found.st_ino == mine.st_ino and found.st_dev == mine.st_dev


def sync_directory(path: str) -> None:
    """Bring a directory's names to the disk, as far as its permissions allow (0711 is usual for a parent of homes)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have nothing to sync here
            raise
    finally:
        os.close(fd)


class NoLinks(Exception):
    """This file system knows no hard links."""


def link_new(source: str, target: str) -> None:
    """Give a complete file a second name that must be free.

    Raises:
        FileExistsError: It is taken.
        NoLinks: The file system cannot; look for another way.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NoLinks(target) from error
        raise


def discard(path: str) -> None:
    """Unlink, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Removed(NamedTuple):
    """What a removal came to."""

    files: int
    nbytes: int


def tree_size(path: str) -> Removed:
    """Files and bytes under a directory, links not followed; what vanishes meanwhile is not counted."""
    return _walk(path, None, remove=False)


def remove_tree(path: str) -> Removed:
    """Remove a directory with all it holds, links not followed; what others remove meanwhile is no error."""
    return _walk(path, None, remove=True)


def _walk(name: str, parent: int | None, *, remove: bool) -> Removed:
    """Everything by descriptor: whoever puts a link in the place of a directory meanwhile leads us nowhere."""
    files = nbytes = 0
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return Removed(0, 0)
    try:
        with os.scandir(fd) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    inner = _walk(entry.name, fd, remove=remove)
                else:
                    inner = _leaf(entry, fd, remove)
                files, nbytes = files + inner.files, nbytes + inner.nbytes
    finally:
        os.close(fd)
    if remove:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=parent)
    return Removed(files, nbytes)


def _leaf(entry: os.DirEntry[str], directory: int, remove: bool) -> Removed:
    try:
        size = entry.stat(follow_symlinks=False).st_size
        if remove:
            os.unlink(entry.name, dir_fd=directory)
    except FileNotFoundError:
        return Removed(0, 0)
    return Removed(0 if entry.name.startswith(".") else 1, size)


def make_directory(path: str, *, parents: bool = False) -> None:
    """Make a directory for this user only, whatever the umask; one that is there already stays as it is."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        if not parents or os.path.dirname(path) in ("", path):
            raise
        make_directory(os.path.dirname(path), parents=True)
        make_directory(path)
        return
    if stat.S_IMODE(os.lstat(path).st_mode) & 0o700 != 0o700:  # an umask that takes the owner's own bits
        os.chmod(path, 0o700)
