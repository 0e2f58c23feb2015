"""An unnamed store is its maker's also where only others wrote into it: it is gone with its maker all the same."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from proxyfab.osio.owner import running, this_process
from proxyfab.testing import in_fork

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


PUTS_ON = """
import sys, threading
from proxyfab import Store

ways = [(Store(url, inline_below=0), size) for url in sys.argv[1:] for size in (10, 300_000)]
begun = threading.Barrier(len(ways) + 1)


def go_on(store, size):
    store.put(bytes(size))
    begun.wait()
    while True:
        store.put(bytes(size))


for way in ways:
    threading.Thread(target=go_on, args=way, daemon=True).start()
begun.wait()
"""


def test_threads_that_put_until_the_end_leave_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PROXYFAB_SHM_DIR": str(tmp_path / "shm")}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PUTS_ON, "shm://", f"file://{tmp_path}/file"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [path.name for path in tmp_path.glob("*/*") if path.name[0] == "~" or "gone" in path.name] == []


def test_a_process_that_cannot_be_looked_at_is_not_taken_to_have_ended():
    """No descriptor is left to read anything with."""

    def look() -> bool | None:
        us = this_process().writer
        assert running(us) is True
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        try:
            return running(us)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    assert in_fork(look) is True
