"""Writes that end, errors in words, temporaries that tell their writer, trees, mounts."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.buffers import Made
from proxyfab.errors import AccessDenied, CapacityError, ConnectorError, KeyExists
from proxyfab.osio import files, mounts
from proxyfab.osio.files import is_abandoned, remove_tree, temporary_name, translate, tree_size, write_all
from proxyfab.testing import in_fork


@given(
    parts=st.lists(st.binary(max_size=50), max_size=40),
    piece=st.integers(1, 60),
    iov=st.integers(1, 8),
    short=st.integers(1, 30),
)
def test_any_parts_in_any_pieces_arrive(parts: list[bytes], piece: int, iov: int, short: int) -> None:
    """Whatever the limits, and however little each call takes."""
    with pytest.MonkeyPatch.context() as patch, open(os.memfd_create("x"), "r+b") as file:
        writev = os.writev
        patch.setattr(files, "PIECE", piece)
        patch.setattr(files, "_IOV_MAX", iov)
        patch.setattr(os, "writev", lambda fd, batch: writev(fd, [b"".join(batch)[:short]]))
        told: list[tuple[int, int]] = []
        done = write_all(file.fileno(), parts, lambda _fd, offset, length: told.append((offset, length)))

        assert done == len(b"".join(parts)) == sum(length for _, length in told)
        file.seek(0)
        assert file.read() == b"".join(parts)
        assert write_all(file.fileno(), parts) == done
        file.seek(done)
        assert file.read() == b"".join(parts)


@given(
    parts=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=50)), min_size=1, max_size=9),
    before=st.binary(max_size=9),
    short=st.integers(1, 30),
    data=st.data(),
)
def test_what_is_made_meanwhile_arrives(
    parts: list[tuple[bool, bytes]], before: bytes, short: int, data: st.DataObject
) -> None:
    """In pieces that come in any order, beside views, and behind what is there already."""

    def pieces(content: bytes) -> Iterator[tuple[int, memoryview]]:
        step = data.draw(st.integers(1, 20))
        for low in data.draw(st.permutations(range(0, len(content), step))):
            yield low, memoryview(content)[low : low + step]

    with pytest.MonkeyPatch.context() as patch, open(os.memfd_create("x"), "r+b") as file:
        pwrite = os.pwrite
        patch.setattr(os, "pwrite", lambda fd, piece, offset: pwrite(fd, bytes(piece)[:short], offset))
        os.write(file.fileno(), before)
        body = [Made(len(content), partial(pieces, content)) if made else content for made, content in parts]
        told: list[tuple[int, int]] = []
        done = write_all(file.fileno(), body, lambda _fd, offset, length: told.append((offset, length)))

        whole = b"".join(content for _, content in parts)
        assert done == len(whole)
        if any(made for made, _ in parts):
            assert sorted(place for low, length in told for place in range(low, low + length)) == list(
                range(len(before), len(before) + len(whole))
            )
        file.seek(0)
        assert file.read() == before + whole


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, CapacityError),
        (errno.EDQUOT, CapacityError),
        (errno.EFBIG, CapacityError),
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EIO, ConnectorError),
        (errno.EMFILE, ConnectorError),
        (12345, ConnectorError),
    ],
)
def test_each_failure_has_its_error_and_says_what_to_do(number: int, kind: type) -> None:
    error = translate(OSError(number, os.strerror(number)), "write", "/some/path")

    assert type(error) is kind
    assert str(error).startswith("Cannot write /some/path: ")
    assert "; " in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_error_of_ours_is_not_translated_again() -> None:
    for error in (AccessDenied("no"), ConnectorError("gone")):  # both are OSErrors
        with pytest.raises(type(error)) as caught:
            translate(error, "write", "/some/path")
        assert caught.value is error
    assert not issubclass(KeyExists, OSError)


def test_temporaries_tell_their_writer() -> None:
    mine, child = temporary_name(), in_fork(temporary_name)

    assert mine != temporary_name()
    assert not is_abandoned(mine, 0, 1e9)
    assert is_abandoned(child, 0, 1)
    assert not is_abandoned("notes.txt", 0, 1e9)
    assert not is_abandoned(".t-somebody", 0, 1e9)


def test_a_writer_elsewhere_is_given_a_day() -> None:
    name = ".t-12345678-1-1-0"

    assert not is_abandoned(name, 1000, 1000 + 23 * 3600)
    assert is_abandoned(name, 1000, 1000 + 25 * 3600)


def test_a_tree_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_bytes(b"x" * 100)
    (tree / "link").symlink_to(tmp_path / "keep")

    assert tree_size(str(tree)).nbytes >= 100
    assert remove_tree(str(tree)).files == 2
    assert os.listdir(tmp_path) == ["keep"]
    assert (tmp_path / "keep" / "file").read_text() == "kept"
    assert remove_tree(str(tree)).files == 0


def test_kinds_of_file_systems() -> None:
    assert mounts.kind("/proc/self") == "proc"
    assert mounts.kind("/proc/self/no/such/thing") == "proc"
    assert not mounts.is_network("ext4")
    for kind in ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse.sshfs", "", "something new"):
        assert mounts.is_network(kind)
