"""What a subclass of ConnectorTests says about its connector, and the fixtures that every part of the suite uses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from proxyfab.abc import BaseConnector
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key

Open = Callable[..., Any]


class Suite:
    """Statements and fixtures. Each statement is checked; what is not claimed is not tested, and the report says so."""

    connector: ClassVar[type[BaseConnector]]
    """The class under test; it must be importable in a fresh interpreter if it crosses processes."""

    crosses_processes: ClassVar[bool] = True
    """Another process of this machine that opens the same spec finds the same objects."""

    reclaims: ClassVar[bool] = True
    """What an unnamed place holds is reclaimed when its process has ended, however it ended."""

    on_disk: ClassVar[bool] = True
    """Its bytes lie under the directory given to `url_at`, so that a full and a read-only one can be tried."""

    recovers: ClassVar[bool] = True
    """An evict works on a full disk, and the room it gives back can be used."""

    forks_under_load: ClassVar[bool] = True
    """A child may be forked while another thread is inside an operation."""

    interruptible: ClassVar[bool] = True
    """An interrupt (Ctrl-C) at any instruction leaves nothing torn and no lock taken."""

    interrupt_seconds: ClassVar[float] = 1.0
    """How long each of the tests of that goes on; a connector has some thousand instructions, a second tries 100, and
    each run others."""

    leases: ClassVar[bool] = True
    """It has `renew` (SupportsLease)."""

    scans: ClassVar[bool] = True
    """It has `scan` (SupportsScan)."""

    reaps: ClassVar[bool] = True
    """It has `reap` (SupportsReap)."""

    expires_unseen: ClassVar[bool] = False
    """What expired goes by itself, so that `reap` has nothing of it to take back."""

    swaps: ClassVar[bool] = True
    """It has `compare_and_set` (SupportsCompareAndSet)."""

    reads_neighbours: ClassVar[bool] = True
    """A connector reads any key of its place, whichever namespace it belongs to."""

    can_damage: ClassVar[bool] = False
    """`damage` is written, so that hostile bytes can be tried."""

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The URL of a fresh place without a namespace, under `directory` where the bytes lie in files.

        `directory` may not exist yet. Where the place is told by the environment, set it with `monkeypatch`: child
        processes inherit it.
        """
        raise NotImplementedError

    def open(self, url: str, name: str | None = None) -> Any:
        """A connector at `url`; a name makes its namespace persistent."""
        return self.connector.from_url(url, name=name)

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        """Behind the connector's back: replace everything that is stored for `key`, headers too, by `edit(of it)`."""
        raise NotImplementedError

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where a connector on disk puts its bytes; it does not exist yet."""
        return tmp_path / "place"

    @pytest.fixture
    def url(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The URL of this test's place."""
        return self.url_at(place, monkeypatch)

    @pytest.fixture
    def connect(self, url: str) -> Iterator[Open]:
        """Opens connectors at this test's place; their objects are cleared and they are closed when it ends."""
        opened: list[Any] = []

        def connect(name: str | None = None, url: str = url) -> Any:
            opened.append(self.open(url, name))
            return opened[-1]

        yield connect
        for connector in opened:
            connector.close()
            with contextlib.suppress(ProxyfabError), self.open(connector.spec) as again:  # some tests break the place
                again.clear()

    @pytest.fixture
    def one(self, connect: Open) -> Any:
        """A fresh connector with a namespace of its own."""
        return connect()

    def claim(self, ability: str) -> None:
        """Go on only where the statement `ability` is true."""
        if not getattr(self, ability):
            pytest.skip(f"{self.connector.__name__} does not claim {ability}")
