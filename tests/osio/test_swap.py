"""Compare and set in directories: what comes out by mistake goes back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from proxyfab.osio import swap


def test_what_came_out_goes_back_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems and memory cards."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    out, name = tmp_path / "out", tmp_path / "name"
    out.write_text("somebody's")
    swap._put_back(str(out), str(name), exchange=False)
    assert name.read_text() == "somebody's"
