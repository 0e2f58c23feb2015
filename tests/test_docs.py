"""Every Python block of README.md and docs/ runs, a page's blocks one after another in one fresh interpreter.

A block that begins with a file's name (`# mine.py`) is also a file of that name, which later blocks may import. One
that cannot run carries its reason in a comment on the line above it: `<!-- not run: needs two machines -->`. A page
that asks for REDIS_URL finds a server there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from proxyfab.testing.servers import RedisServer, ServerMissing

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
KINDS = {"python", "console", "text", "json", "toml", "ini", "html"}
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)[^\n`]*\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL
)
FORK = "ignore:This process:DeprecationWarning"  # a pool forks while NumPy's threads run; readers do the same
NAMED = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*?) -->\s*$")


class Block(NamedTuple):
    kind: str
    line: int
    body: str
    not_run: str | None


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        reason = NOT_RUN.search(text[: match.start()])
        first_line = text.count("\n", 0, match.start("body"))
        found.append(Block(match["kind"], first_line, match["body"], reason["reason"] if reason else None))
    return found


def script_of(text: str) -> str:
    """The page as a script; each line of code keeps its line number, so that a traceback points into the page."""
    lines = [""] * (text.count("\n") + 1)
    for block in blocks_of(text):
        if block.kind == "python" and block.not_run is None:
            body = textwrap.dedent(block.body).splitlines()
            lines[block.line : block.line + len(body)] = body
    return "\n".join(lines)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_fence_is_of_a_known_kind(page: Path) -> None:
    text = page.read_text()
    blocks = blocks_of(text)
    fences = re.findall(r"^ *```", text, re.MULTILINE)

    assert len(fences) == 2 * len(blocks), f"{page.name} has a fence that is not closed"
    assert {block.kind for block in blocks} <= KINDS


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """Where the page on Redis finds a server; the other pages need none."""
    try:
        with RedisServer() as server:
            yield server.database()
    except ServerMissing as error:
        yield f"nowhere: {error}"


@pytest.mark.parametrize("page", [page for page in PAGES if script_of(page.read_text()).strip()], ids=page_id)
def test_python_blocks_run(page: Path, tmp_path: Path, redis_url: str) -> None:
    script = tmp_path / f"{page.stem}_page.py"  # redis.py would hide the package of that name
    script.write_text(script_of(page.read_text()))
    for name, body in NAMED.findall(page.read_text()):
        (tmp_path / name).write_text(body)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORK, "-X", "faulthandler", script.name],
        cwd=tmp_path,
        env={
            **os.environ,
            "PROXYFAB_SHM_DIR": str(tmp_path / "shm"),
            "PROXYFAB_BROKER_DIR": str(tmp_path / "broker"),
            "REDIS_URL": redis_url,
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, f"{page_id(page)} (same line numbers):\n{done.stdout}{done.stderr}"


def test_a_block_keeps_its_line_and_a_reason_is_seen() -> None:
    page = "# Title\n\n```python\na = 1\n```\n\n<!-- not run: it never ends -->\n```python\nwhile True: ...\n```\n"

    assert [block.not_run for block in blocks_of(page)] == [None, "it never ends"]
    assert script_of(page).strip() == "a = 1"
    assert script_of(page).splitlines()[3] == "a = 1"
