"""erasure:// passes the suite, whole and with as many children down as it may bear."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.testing import ConnectorTests
from proxyfab.testing.conformance.base import Open
from proxyfab.testing.content import signed
from proxyfab.testing.processes import run


class TestInMemory(ConnectorTests):
    """Three children in this process."""

    connector = ErasureConnector
    crosses_processes = reclaims = on_disk = False
    reads_neighbours = False
    interrupt_seconds = 2.0

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "erasure://?k=2&m=1&small=1KiB&segment=1MiB&child=memory://&child=memory://&child=memory://"


@pytest.mark.slow
class TestFiles(ConnectorTests):
    """Three directories."""

    connector = ErasureConnector
    reads_neighbours = False
    recovers = False
    interrupt_seconds = 2.0

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        children = "&".join(f"child=file://{directory}/{number}" for number in range(3))
        return f"erasure://?k=2&m=1&small=1KiB&{children}"

    def test_the_next_opener_takes_back_what_a_killed_owner_left(self, url: str, connect: Open) -> None:
        """Of each child, whoever next uses that child."""
        spec, keys = self.orphan(url, kill=True)
        assert run(_visit, url) is True

        assert self.is_gone(spec, keys)
        assert connect().reap(dry_run=True) == []


def _visit(talk: object, url: str) -> bool:
    one = ErasureConnector.from_url(url)
    return one.evict(one.put(signed(10_000)))


@pytest.mark.slow
class TestShared(ConnectorTests):
    """Six places in shared memory, two of which cannot be used."""

    connector = ErasureConnector
    reads_neighbours = False
    recovers = False
    interrupt_seconds = 2.0

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory / "shm"))
        well = "&".join("child=shm://" for _ in range(4))
        return f"erasure://?k=4&m=2&small=1KiB&patience=10&child=file:///dev/null/a&{well}&child=file:///dev/null/b"

    def test_the_next_opener_takes_back_what_a_killed_owner_left(self, url: str, connect: Open) -> None:
        """Of each child, whoever next uses that child."""
        spec, keys = self.orphan(url, kill=True)
        assert run(_visit, url) is True

        assert self.is_gone(spec, keys)
        assert connect().reap(dry_run=True) == []
