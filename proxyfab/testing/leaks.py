"""What a test must not leave behind: file descriptors, threads, child processes, shared memory, keys.

`no_leaks` is a pytest fixture; import it in a conftest.py (and make it autouse there, or ask for it by name).
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxyfab.osio.shared import cool
from proxyfab.testing.processes import until

GRACE = 3.0
"""Seconds for what ends by itself soon."""

LOOKS = 10
"""How often what seems to be left is looked for at least; on a busy machine one look may last for seconds."""

KEPT_FILES = re.compile(r"/(\.owner(\.lock)?|\.leases)( \(deleted\))?$|\.[ot]tf$")
"""An unnamed place is locked for as long as its process lives; that is how others know. A root's leases are one file,
which is open while any store of it is. Who draws keeps his fonts."""

KEPT_THREADS = re.compile(r"^proxyfab-(background|futures)")
"""They end by themselves when they have idled for ten seconds."""

SHARED = Path("/dev/shm")


class Belongings(NamedTuple):
    """What this process has open."""

    files: Counter[str]
    threads: frozenset[threading.Thread]
    children: frozenset[int]
    shared: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        """A snapshot."""
        threads = frozenset(thread for thread in threading.enumerate() if not KEPT_THREADS.match(thread.name))
        return cls(_files(), threads, _children(), _shared())

    def since(self, before: Belongings) -> list[str]:
        """What is here and was not before, in words."""
        return [
            *(f"file descriptor of {path}" for path in (self.files - before.files).elements()),
            *(f"thread {thread.name!r}" for thread in self.threads - before.threads),
            *(f"child process {pid}" for pid in self.children - before.children),
            *(f"shared memory {path}" for path in self.shared - before.shared),
        ]


def _helpers() -> tuple[set[int], set[str]]:
    """Processes that multiprocessing starts once and keeps, and its descriptors to them."""
    pids, descriptors = set(), set()
    for module, attribute in (("resource_tracker", "_resource_tracker"), ("forkserver", "_forkserver")):
        helper = getattr(sys.modules.get(f"multiprocessing.{module}"), attribute, None)
        for name, value in vars(helper).items() if helper is not None else ():
            if name.endswith("pid") and value is not None:
                pids.add(value)
            elif name.endswith("fd") and value is not None:
                descriptors.add(str(value))
    return pids, descriptors


def _files() -> Counter[str]:
    found: Counter[str] = Counter()
    helpers = _helpers()[1]
    for number in os.listdir("/proc/self/fd"):
        if number in helpers:
            continue
        with contextlib.suppress(OSError):  # the descriptor of this very listing is closed by now
            target = os.readlink(f"/proc/self/fd/{number}")
            if not KEPT_FILES.search(target):
                found[re.sub(r"\d+", "N", target) if target.startswith("anon_inode") else target] += 1
    return found


def _children() -> frozenset[int]:
    pids: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", "rb", 0) as file:  # or it has ended
            pids.update(map(int, file.read().split()))
    return frozenset(pids - _helpers()[0])


def _shared() -> frozenset[str]:
    """Objects of named places in shared memory; /dev/shm as a whole is changed by others at any time."""
    root = Path(os.environ.get("PROXYFAB_SHM_DIR") or SHARED / f"proxyfab-{os.getuid()}")
    found: set[str] = set()
    for top, inner, names in os.walk(root):
        inner[:] = [name for name in inner if "~" not in name]  # unnamed places: no look at what is in them
        found.update(f"{top}/{name}" for name in names if not name.startswith(".") and "~" not in name)
    return frozenset(found)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves a file descriptor, a thread, a child process or an object in shared memory behind."""
    before = Belongings.now()
    yield
    left = Counter(Belongings.now().since(before))

    def gone() -> bool:
        """What is there at every look is left behind; threads that end by themselves open this and that meanwhile."""
        nonlocal left
        gc.collect()  # cycles hold mapped views; only a leak that survives is one
        cool()  # what is kept warm for the next reader is none
        left &= Counter(Belongings.now().since(before))
        return not left

    for _ in range(LOOKS if left else 0):
        if until(gone, GRACE / LOOKS):
            break
    assert sorted(map(_told, left)) == [], "this test left something behind"


def _told(what: str) -> str:
    """With its two ends, where it is a connection of TCP that is still there."""
    inode = re.search(r"socket:\[(\d+)\]$", what)
    for table in ("tcp", "tcp6") if inode else ():
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if inode and fields[9] == inode[1]:
                here, there = (int(end.rpartition(":")[2], 16) for end in fields[1:3])
                return f"{what}, from port {here} to port {there}"
    return what


@contextlib.contextmanager
def leaked_keys(connector: Any) -> Iterator[list[str]]:
    """A list that holds, after the block, the ids of objects that the block put and did not evict.

    The connector must be able to `scan`.
    """
    before = {str(stat.key) for stat in connector.scan()}
    left: list[str] = []
    yield left
    left.extend(sorted({str(stat.key) for stat in connector.scan()} - before))


def stray_places(root: Path) -> list[str]:
    """Unnamed namespaces under `root` that have no owner any more, or one that is not this process."""
    mine = f'"pid": {os.getpid()}'
    owners = {path.parent: path.read_text(errors="replace") for path in root.glob("~*/.owner")}
    return sorted(str(place) for place in root.glob("~*") if mine not in owners.get(place, ""))
