"""The places that are put to the test by kills and soaks, each with what it promises; real ones, on free ports.

with subject("shm", directory) as one:
    ...
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from proxyfab.errors import ConfigurationError
from proxyfab.testing.kills import Subject
from proxyfab.testing.leaks import SHARED, stray_places
from proxyfab.testing.verdict import Promise

DEADLINE = 5.0
"""Seconds that a call may take, by the places' own options where they have one."""
_SMALL = 256 * 1024


@contextmanager
def subject(name: str, directory: Path) -> Iterator[Subject]:
    """A place of its own, by its short name; its server, where it has one, ends with the block."""
    if name not in _MAKERS:
        raise ConfigurationError(f"There is no {name!r} to kill; there are {', '.join(_MAKERS)}.")
    with _MAKERS[name](directory) as made:
        yield made


def names() -> list[str]:
    """Every place that can be put to the test."""
    return list(_MAKERS)


@contextmanager
def _shm(directory: Path) -> Iterator[Subject]:
    shared = str(SHARED) if os.access(SHARED, os.W_OK) else str(directory)
    with (
        tempfile.TemporaryDirectory(prefix="proxyfab-kills-", dir=shared) as root,
        _environment("PROXYFAB_SHM_DIR", root),
    ):
        left = partial(_remains, Path(root))
        yield Subject("shm", "shm://kills", Promise(DEADLINE), owned="shm://", leftovers=left)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _file(directory: Path) -> Iterator[Subject]:
    root = directory / "objects"
    url = f"file://{root}"
    yield Subject("file", f"{url}?ns=kills", Promise(DEADLINE), owned=url, leftovers=partial(_remains, root))


def _remains(root: Path) -> list[str]:
    """What dead processes left under a root."""
    files = [path for path in root.rglob("*") if path.is_file()]
    large = [f"{path} ({path.stat().st_size} bytes)" for path in files if path.stat().st_size > _SMALL]
    return [*large, *stray_places(root)]


_MAKERS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {"shm": _shm, "file": _file}
