"""Forks while other threads are busy: nothing that they began keeps the child waiting."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
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


def _fork_within_an_import_that_does_not_end(_: Connection, folder: str) -> tuple[float, int]:
    """Seconds that a second fork waits for what the first has waited for in vain; what a child makes of the module."""
    from proxyfab import fork

    fork._PATIENCE = 1.0
    sys.path.insert(0, folder)
    started, go_on = os.pipe(), os.pipe()
    first = "import os\n" + f"if os.getpid() == {os.getpid()}:" + _MODULE.replace("\n", "\n    ")
    Path(folder, "slow_first.py").write_text(
        first.format(started=started[1], go_on=go_on[0], second="json") + "\nVALUE = 9"
    )
    thread = threading.Thread(target=importlib.import_module, args=("slow_first",))
    thread.start()
    os.read(started[0], 1)
    in_fork(lambda: None, timeout=10)
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        os._exit(0)
    waited = time.monotonic() - began
    os.waitpid(pid, 0)
    answer = in_fork(lambda: importlib.import_module("slow_first").VALUE, timeout=10)
    os.write(go_on[1], b".")
    thread.join()
    return waited, answer


def test_an_import_is_waited_for_once_and_begun_anew_by_the_child(tmp_path: Path) -> None:
    waited, answer = run(_fork_within_an_import_that_does_not_end, str(tmp_path), fresh=True)
    assert waited < 1.0
    assert answer == 9


_HOOK = """
import os, threading
lock, held, go_on = threading.Lock(), threading.Event(), threading.Event()
def before():
    go_on.set()
    lock.acquire()
os.register_at_fork(before=before, after_in_parent=lock.release, after_in_child=lock.release)
import proxyfab
def holder():
    with lock:
        held.set()
        go_on.wait()
        import tabnanny
threading.Thread(target=holder, daemon=True).start()
held.wait()
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_hook_may_wait_for_a_lock_whose_holder_imports_something() -> None:
    """One that was there before proxyfab's, and so runs behind it."""
    subprocess.run([sys.executable, "-c", _HOOK], check=True, timeout=30)


def test_imports_are_free_behind_a_fork() -> None:
    def another_thread() -> bool:
        done = threading.Event()
        threading.Thread(target=lambda: (importlib.import_module("tabnanny"), done.set())).start()
        return done.wait(10)

    assert in_fork(another_thread, timeout=15)
    assert another_thread()
