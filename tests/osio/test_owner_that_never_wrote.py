"""An unnamed store is its maker's also where only others wrote into it: it is gone with its maker all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OWNER = """
import subprocess, sys
from proxyfab import Store

store = Store(sys.argv[1])
subprocess.run([sys.executable, "-c", sys.argv[2], store.url], check=True)
if sys.argv[3] == "reads":
    store.get("nothing")
"""
WRITER = "import sys; from proxyfab import open_store; open_store(sys.argv[1]).put(bytes(100_000))"


@pytest.mark.parametrize("scheme", ["shm", "file"])
@pytest.mark.parametrize("owner", ["reads", "does nothing"])
def test_what_others_wrote_goes_with_the_owner(scheme: str, owner: str, tmp_path: Path) -> None:
    url = "shm://" if scheme == "shm" else f"file://{tmp_path}"
    environment = {**os.environ, "PROXYFAB_SHM_DIR": str(tmp_path)}

    subprocess.run([sys.executable, "-c", OWNER, url, WRITER, owner], env=environment, check=True, timeout=60)

    assert [path.name for path in tmp_path.rglob("*") if path.name.startswith("~")] == []


def test_a_fork_leaves_what_others_wrote_for_its_parent_in_place(tmp_path: Path) -> None:
    script = (
        OWNER
        + """
import os
if os.fork() == 0:
    sys.exit(0)
os.wait()
assert len(list(__import__("pathlib").Path(sys.argv[1].removeprefix("file://")).glob("~*"))) == 1
"""
    )

    subprocess.run([sys.executable, "-c", script, f"file://{tmp_path}", WRITER, "reads"], check=True, timeout=60)

    assert list(tmp_path.glob("~*")) == []
