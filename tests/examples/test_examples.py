"""Every example runs by itself, from any directory, without a warning, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PICTURE = re.compile(r"^(\w+\.(?:svg|png))\b", re.MULTILINE)
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
    assert all((tmp_path / name).stat().st_size for name in PICTURE.findall(done.stdout)), "it says what it drew"
    assert [path for path in shm.rglob("*") if path.is_file() and not path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["pipeline.svg", "map_reduce.svg", "image_analysis.png"])
def test_the_gallery_shows_what_the_examples_draw(name: str) -> None:
    root = Path(__file__).parents[2]
    example = (root / "examples" / name).with_suffix(".py")

    assert f'"{name}"' in example.read_text()
    assert f"images/{name}" in (root / "docs" / "gallery.md").read_text()
    assert (root / "docs" / "images" / name).stat().st_size < 200_000


def test_each_says_how_it_is_run() -> None:
    assert len(EXAMPLES) >= 4
    for example in EXAMPLES:
        assert f"python examples/{example.name}" in example.read_text()
