"""Places that are full, read-only, short of file descriptors, or no place at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.testing import roles
from proxyfab.testing.conformance.base import Open, Suite
from proxyfab.testing.content import signed
from proxyfab.testing.processes import run

Mount = Callable[[str], Path]


@contextmanager
def small_disks(directory: Path) -> Iterator[Mount]:
    """A function that mounts a small tmpfs in `directory` with given options; skips where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = directory / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "proxyfab-test", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0:
            pytest.skip(f"mounting a small tmpfs is not allowed here: {done.stderr.strip()}")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=30)


class DiskTests(Suite):
    """Nothing acknowledged is lost and nothing partial is seen when there is no room; room that comes back is used."""

    @pytest.fixture
    def mount(self, tmp_path: Path) -> Iterator[Mount]:
        """Mounts a small tmpfs with given options; needs root."""
        self.claim("on_disk")
        with small_disks(tmp_path) as mount:
            yield mount

    @pytest.mark.parametrize("nbytes", [100_000, 1_300_000])
    def test_a_full_disk(self, mount: Mount, monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
        """In a process of its own: writing to mapped memory without room would kill it."""
        place = mount("size=8m") / "place"
        one = self.open(self.url_at(place, monkeypatch), "full")
        report = run(roles.fill, one, nbytes, 200, self.recovers)
        one.close()

        assert 1 < report["stored"] < 200
        assert str(place) in report["error"] or one.spec in report["error"]
        assert report["whole"]
        assert not report["partial"]
        if self.recovers:
            assert report["evicted"]
            assert report["stored_again"] >= report["stored"], "a failed or evicted put left something behind"
            assert report["whole_again"]

    def test_an_object_larger_than_the_disk(self, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
        one = self.open(self.url_at(mount("size=8m") / "place", monkeypatch), "full")
        report = run(roles.fill, one, 20_000_000, 2, False)
        small = run(roles.fill, one, 1_300_000, 3, False)
        one.close()

        assert report["stored"] == 0
        assert report["error"]
        assert not report["partial"]
        assert small["stored"] == 3

    def test_a_disk_without_inodes(self, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
        one = self.open(self.url_at(mount("size=8m,nr_inodes=60") / "place", monkeypatch), "full")
        report = run(roles.fill, one, 10_000, 200, self.recovers)
        one.close()

        assert report["stored"] == 200 or (report["stored"] > 1 and report["error"])
        assert report["whole"]
        if self.recovers:
            assert report["stored_again"] >= 1

    def test_a_read_only_disk(self, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = mount("size=8m")
        url = self.url_at(disk / "place", monkeypatch)
        with self.open(url, "kept") as one:
            key = one.put(signed(100))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=30)
        with self.open(url, "kept") as one:
            for call in (lambda: one.put(signed(100)), lambda: one.evict(key), one.clear):
                with pytest.raises(ProxyfabError, match="disk"):
                    call()
            assert one.get(key) == signed(100)
            assert one.exists(key)

    def test_a_place_below_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.claim("on_disk")
        (tmp_path / "file").write_text("not a directory")
        with self.open(self.url_at(tmp_path / "file" / "place", monkeypatch)) as one:
            with pytest.raises(ProxyfabError, match="file"):
                one.put(Frames([b"x"]))
            with pytest.raises(ProxyfabError, match="file"):
                one.clear()

    def test_few_file_descriptors(self, one: Any) -> None:
        """Holding more objects than there may be open files works or is refused, and harms nothing."""
        self.claim("crosses_processes")
        keys = [one.put(signed(20_000, seed)) for seed in range(200)]
        held, well = run(roles.few_descriptors, one, keys, 64)

        assert held > 0
        assert well

    def test_files_of_others_cannot_be_read(self, place: Path, connect: Open) -> None:
        self.claim("on_disk")
        connect().put(signed(100))
        connect("named").put(signed(100_000))
        modes = {path: path.stat().st_mode & 0o777 for path in place.rglob("*")}
        inside = {path: mode for path, mode in modes.items() if mode & 0o077 and _reachable(path, place, modes)}

        assert modes
        assert inside == {}, "others must not reach objects: directories 0700, files 0600"


def _reachable(path: Path, top: Path, modes: dict[Path, int]) -> bool:
    """Whether others may walk to `path` from `top`, and read there."""
    above = [parent for parent in path.parents if parent != top and top in parent.parents]
    return all(modes[parent] & 0o011 for parent in above)
