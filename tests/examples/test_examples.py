"""Every example runs by itself, from any directory, without a warning, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_cleans_up(example: Path, tmp_path: Path) -> None:
    shm = tmp_path / "shm"

    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        env={**os.environ, "PROXYFAB_SHM_DIR": str(shm)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.strip()
    assert [path for path in shm.rglob("*") if path.is_file() and not path.name.startswith(".")] == []


def test_each_says_how_it_is_run() -> None:
    assert len(EXAMPLES) >= 4
    for example in EXAMPLES:
        assert f"python examples/{example.name}" in example.read_text()
