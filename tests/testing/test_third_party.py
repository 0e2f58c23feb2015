"""A connector of somebody else's passes the suite: the one on the docs page, run as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import proxyfab

PACKAGES = Path(proxyfab.__file__).parents[1]
SHORT = """
import pytest
from hypothesis import settings

from proxyfab.testing.processes import Child
from proxyfab.testing.zygote import Zygote

settings.register_profile("short", max_examples=5, stateful_step_count=30, deadline=None)
settings.load_profile("short")


@pytest.fixture(scope="session", autouse=True)
def quick_children():
    with Zygote(["numpy", "pytest", "hypothesis"]) as zygote:
        Child.start = staticmethod(zygote.start)
        yield
"""
PAGE = Path(__file__).parents[2] / "docs" / "testing-connectors.md"
DEAREST = (
    "array_over_a_view batch_of_a_thousand clearing_beside few_file_descriptors fork_while_threads full_disk hammering "
    "held_elsewhere killed_reader killed_replacer killed_writer kill_leaves larger_than_the_disk many_processes_open "
    "part_of_a_view processes_that_count sweeping_leaves view_in_a_fork view_of_a_killed what_killed_writers_left"
)
"""What many processes do to a table is SQLite's affair."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "but", [DEAREST, pytest.param("nothing", marks=pytest.mark.slow)], ids=["but the dearest", "all"]
)
def test_the_docs_connector_passes_the_suite(but: str, tmp_path: Path) -> None:
    for name, body in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(body)
    config = "[pytest]\nmarkers = slow\ntimeout = 100\nfilterwarnings = ignore:This process:DeprecationWarning\n"
    (tmp_path / "pytest.ini").write_text(config)
    (tmp_path / "conftest.py").write_text(SHORT)  # a table is opened anew for each operation

    chosen = ["-m", "not slow", "-k", f"not ({' or '.join(but.split())})"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *chosen, "-p", "no:cacheprovider", "test_sqlite.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGES}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=230,
    )

    assert done.returncode == 0, done.stdout[-6000:]
