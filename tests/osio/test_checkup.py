"""Directories that are well, missing, no directory, forbidden, read-only, full, or laid out by another version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.abc import Finding, SupportsDiagnosis
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.osio.checkup import examine
from proxyfab.testing.conformance.disks import Mount, small_disks
from proxyfab.testing.processes import in_fork

NOBODY = 65534


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small tmpfs with given options; needs root."""
    with small_disks(tmp_path) as mount:
        yield mount


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def test_a_directory_that_is_well_or_not_there_yet_and_nothing_is_made(tmp_path: Path) -> None:
    found = list(examine(f"{tmp_path}/new/place"))

    assert states(found) == {
        "directory": "warn",
        "permission": "ok",
        "version": "ok",
        "file system": "ok",
        "room": "ok",
    }
    assert "the first put makes it" in found[0].detail
    assert os.listdir(tmp_path) == []


def test_connectors_that_lodge_in_a_root_diagnose_it(tmp_path: Path) -> None:
    for connector in (FileConnector(tmp_path), SharedMemoryConnector(directory=str(tmp_path))):
        assert isinstance(connector, SupportsDiagnosis)
        assert list(connector.diagnose()) == list(examine(str(tmp_path)))


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    *_, last = examine(f"{tmp_path}/taken")

    assert (last.check, last.state) == ("directory", "fail")
    assert "another path" in last.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("inside", ["", "/deeper"])
def test_a_directory_of_somebody_else(tmp_path: Path, inside: str) -> None:
    for parent in (tmp_path, *tmp_path.parents[:-1]):
        parent.chmod(parent.stat().st_mode | 0o011)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)

    def look() -> list[Finding]:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        return list(examine(f"{private}{inside}"))

    *_, last = in_fork(look)
    assert (last.check, last.state) == ("permission", "fail")
    assert "0700" in last.detail
    assert "let its owner allow it" in last.detail


def test_a_read_only_file_system(mount: Mount) -> None:
    *_, last = examine(str(mount("size=1m,ro")))

    assert (last.check, last.state) == ("permission", "fail")
    assert "read-only" in last.detail


def test_a_full_file_system(mount: Mount) -> None:
    place = mount("size=1m")
    assert states(list(examine(str(place))))["room"] == "warn"
    (place / "much").write_bytes(bytes(2**20))
    *_, last = examine(str(place))

    assert (last.check, last.state) == ("room", "fail")
    assert "proxyfab gc" in last.detail


def test_no_inode_left(mount: Mount) -> None:
    place = mount("size=1m,nr_inodes=2")
    (place / "one").touch()
    *_, last = examine(str(place))

    assert (last.check, last.state) == ("room", "fail")
    assert "inode" in last.detail


@pytest.mark.parametrize("marker", ['{"proxyfab": 99, "tag": "00000000"}', "not ours"])
def test_a_layout_of_another_version_or_none(tmp_path: Path, marker: str) -> None:
    (tmp_path / ".proxyfab").write_text(marker)
    *_, last = examine(str(tmp_path))

    assert (last.check, last.state) == ("version", "fail")
