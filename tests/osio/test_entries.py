"""Entries of a namespace while somebody takes the whole namespace away."""

from __future__ import annotations

from pathlib import Path

from proxyfab.osio.entries import take_away, write_new
from proxyfab.wire.slot import Slot, id_hash, pack


def test_what_goes_with_its_namespace_is_not_taken_away_by_us(tmp_path: Path) -> None:
    """The owner has died, and a reaper is faster: the object is missing, which is no error."""
    space = tmp_path / "space"
    space.mkdir()
    path = f"{space}/k"
    write_new(path, [pack(Slot(1, 1.0, 0.0, id_hash("k"))), b"x"])

    def gone(fd: int) -> bool:
        space.rename(tmp_path / "doomed")
        return True

    assert take_away(path, gone) is False
    assert (tmp_path / "doomed" / "k").exists()
