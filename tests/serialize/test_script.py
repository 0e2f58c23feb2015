"""Classes of a script: its own in every process of that script, a working copy in any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import enum, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from proxyfab import Store, resolve

class Mode(enum.Enum):
    FAST = 1

@dataclass
class Scan:
    angle: float
    mode: Mode

    class Inner:
        pass

    def twice(self):
        return 2 * self.angle

def known(scan):
    again = Scan(scan.twice(), scan.mode)
    resolve(scan)
    return isinstance(scan, Scan), scan.mode is Mode.FAST, scan == Scan(1.5, Mode.FAST), again

def main(step, url):
    store = Store(url, name="scripts", inline_below=0)
    if step == "pool":
        with ProcessPoolExecutor(1, multiprocessing.get_context(sys.argv[3])) as pool:
            pool.submit(int).result()
            *answers, again = pool.submit(known, store.proxy(Scan(1.5, Mode.FAST))).result()
            assert answers == [True, True, True], answers
            assert again == Scan(3.0, Mode.FAST)
    elif step == "write":
        store.put([Scan(1.5, Mode.FAST), Scan.Inner()], key="scan")
    else:
        scan, inner = store.get("scan")
        assert (type(scan) is Scan, type(inner) is Scan.Inner) == (True, True)

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
"""
READER = """
import sys
from proxyfab import Store

class Scan:
    "Another one."

(scan, inner) = Store(sys.argv[1], name="scripts").get("scan")
assert not isinstance(scan, Scan)
assert (scan.twice(), scan.mode.name, type(scan).__name__, type(inner).__name__) == (3.0, "FAST", "Scan", "Inner")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def run(*arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pools_workers_know_the_scripts_classes(script: Path, method: str) -> None:
    """As they do with plain pickling: isinstance, enum members by identity, and equality of dataclasses."""
    run(script, "pool", f"file://{script.parent}/store", method)


def test_other_scripts_get_a_class_that_works(script: Path) -> None:
    """Even where they have one of that name; and the script itself, run again, gets its own."""
    url = f"file://{script.parent}/store"
    reader = script.with_name("reader.py")
    reader.write_text(READER)
    run(script, "write", url)
    run(script, "read", url)
    run(reader, url)


def test_a_script_without_a_file_sends_its_classes_along(script: Path) -> None:
    """A notebook or `python -c`: what has its name now may be another class by then."""
    url = f"file://{script.parent}/store"
    reader = script.with_name("reader.py")
    reader.write_text(READER)
    run("-c", SCRIPT, "write", url)
    run(reader, url)
