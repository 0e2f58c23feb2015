"""Forks while other threads are busy: nothing that they began keeps the child waiting."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import proxyfab  # noqa: F401  # whose hooks are tried
from proxyfab.testing import in_fork
from proxyfab.testing.processes import run

_MODULE = """
import os
os.write({started}, b".")
os.read({go_on}, 1)
import {second}
"""


def _fork_within_an_import(_: Connection, folder: str) -> int:
    """In a fresh interpreter, whose hooks go with it."""
    sys.path.insert(0, folder)
    started, go_on = os.pipe(), os.pipe()
    Path(folder, "slow_first.py").write_text(_MODULE.format(started=started[1], go_on=go_on[0], second="slow_second"))
    Path(folder, "slow_second.py").write_text("VALUE = sum(range(1_000_000))")
    os.register_at_fork(before=lambda: os.write(go_on[1], b"."))  # the last one that is registered comes first
    thread = threading.Thread(target=importlib.import_module, args=("slow_first",))
    thread.start()
    os.read(started[0], 1)
    answer = in_fork(lambda: importlib.import_module("slow_first").slow_second.VALUE, timeout=10)
    thread.join()
    return answer


def test_a_fork_cuts_no_import_of_another_thread_in_two(tmp_path: Path) -> None:
    assert run(_fork_within_an_import, str(tmp_path), fresh=True) == sum(range(1_000_000))


def _fork_that_an_import_waits_for(_: Connection, folder: str) -> int:
    """The import goes on only behind the fork: then the fork does not wait for ever, and the child lives."""
    from proxyfab import fork

    fork._PATIENCE = 0.05
    sys.path.insert(0, folder)
    started, go_on = os.pipe(), os.pipe()
    Path(folder, "slow_first.py").write_text(_MODULE.format(started=started[1], go_on=go_on[0], second="json"))
    thread = threading.Thread(target=importlib.import_module, args=("slow_first",))
    thread.start()
    os.read(started[0], 1)
    answer = in_fork(lambda: 7, timeout=10)
    os.write(go_on[1], b".")
    thread.join()
    importlib.import_module("json.tool")  # imports are free again
    return answer


def test_a_fork_that_an_import_waits_for_goes_ahead(tmp_path: Path) -> None:
    assert run(_fork_that_an_import_waits_for, str(tmp_path), fresh=True) == 7


def test_imports_are_free_behind_a_fork() -> None:
    def another_thread() -> bool:
        done = threading.Event()
        threading.Thread(target=lambda: (importlib.import_module("tabnanny"), done.set())).start()
        return done.wait(10)

    assert in_fork(another_thread, timeout=15)
    assert another_thread()
