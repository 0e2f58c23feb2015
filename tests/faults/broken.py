"""Connectors that break their promises, for the harness to find: `torn://`, `lost://`, `risen://`, `slow://`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar

from proxyfab import registry
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.errors import KeyExists
from proxyfab.keys import Key
from proxyfab.spec import ConnectorSpec


class Plain(BaseConnector):
    """One file an object, kept well."""

    scheme: ClassVar[str] = "plain"

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Plain:
        return cls(ConnectorSpec.parse(url).path)

    @property
    def spec(self) -> str:
        return f"{self.scheme}://{self.directory}"

    def path(self, key: Key) -> Path:
        return self.directory / key.id

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        assert key is not None
        self.directory.mkdir(exist_ok=True)
        if self.path(key).exists() and not replace:
            raise KeyExists(f"{key} is there.")
        temporary = self.directory / f".{os.getpid()}"
        temporary.write_bytes(frames.join())
        temporary.replace(self.path(key))
        return key

    def get(self, key: Key) -> Frames | None:
        try:
            return Frames([self.path(key).read_bytes()])
        except FileNotFoundError:
            return None

    def evict(self, key: Key) -> bool:
        try:
            self.path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def clear(self) -> int:
        return sum(self.evict(Key(path.name)) for path in self.directory.iterdir())


class Torn(Plain):
    """Writes in place."""

    scheme = "torn"

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        assert key is not None
        self.directory.mkdir(exist_ok=True)
        with self.path(key).open("wb") as file:
            for view in frames:
                file.write(view)
        return key


class Lost(Plain):
    """Says done before it has done it."""

    scheme = "lost"
    later: tuple[Frames, Key] | None = None

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        assert key is not None
        if self.later is not None:
            super().put(self.later[0], key=self.later[1], replace=True)
        self.later = frames, key
        return key

    def get(self, key: Key) -> Frames | None:
        return self.later[0] if self.later is not None and self.later[1] == key else super().get(key)


class Risen(Plain):
    """Evicts only in the process that asked."""

    scheme = "risen"

    def evict(self, key: Key) -> bool:
        return self.path(key).exists()


class Slow(Plain):
    """Answers when it likes."""

    scheme = "slow"

    def get(self, key: Key) -> Frames | None:
        time.sleep(0.25)
        return super().get(key)


ENTRIES = {kind.scheme: (__name__, kind.__name__, "") for kind in (Plain, Torn, Lost, Risen, Slow)}
registry._BUILT_IN["connectors"].update(ENTRIES)  # processes that import this know them
