"""The limits: what a copy, a new file and a mapping cost when there is no library around them."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from benchmarks.harness import Place
from benchmarks.memory import stored
from benchmarks.payloads import views
from benchmarks.systems import System


class Memcpy(System):
    """put: one memcpy into memory that was written before. get: another one out of it."""

    alone = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._warm = np.zeros(0, np.uint8)
        self._out = np.zeros(0, np.uint8)

    def put(self, obj: Any) -> int:
        pieces = [np.frombuffer(view, np.uint8) for view in views(obj)]
        nbytes = sum(piece.nbytes for piece in pieces)
        if self._warm.nbytes != nbytes:
            self._warm, self._out = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
        start = 0
        for piece in pieces:
            np.copyto(self._warm[start : start + piece.nbytes], piece)
            start += piece.nbytes
        return nbytes

    def get(self, token: int) -> Any:
        np.copyto(self._out, self._warm)
        return self._out.view(np.float64)


class _NewFile(System):
    """put: write() into a new file. get: map it. Nothing is serialized and nothing is renamed."""

    folder = ""
    _drawn = 0

    def put(self, obj: Any) -> str:
        self._drawn += 1
        path = os.path.join(self.folder, f"raw-{os.getpid()}-{self._drawn}")
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            for view in views(obj):
                _write(file, view)
        finally:
            os.close(file)
        return path

    def get(self, token: str) -> Any:
        file = os.open(token, os.O_RDONLY)
        try:
            return np.frombuffer(mmap.mmap(file, 0, prot=mmap.PROT_READ), np.float64)
        finally:
            os.close(file)

    def drop(self, token: str) -> None:
        os.unlink(token)

    def stored(self) -> int:
        return stored(self.folder)


class TmpfsFile(_NewFile):
    """On tmpfs."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.folder = place.tmpfs


class DiskFile(_NewFile):
    """On a disk; what is read comes from the page cache, what is written goes there, without fsync."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.folder = place.disk


def _write(file: int, view: memoryview) -> None:
    while view.nbytes:
        view = view[os.write(file, view) :]
