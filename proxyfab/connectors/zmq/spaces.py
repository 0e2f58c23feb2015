"""Unnamed namespaces: drawn so that their name tells the process they live with, and left when it ends.

The server looks processes of its own machine up; from a process elsewhere it needs to hear it, which `leave` does.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys

from proxyfab.errors import ProxyfabError
from proxyfab.exit import left
from proxyfab.osio.owner import Writer, this_process
from proxyfab.registry import load

_counter = itertools.count()
_left: dict[str, str] = {}


def draw() -> str:
    """The name of a new unnamed namespace of this process."""
    return f"~{this_process().writer.pack(next(_counter))}"


def leave_at_exit(spec: str, namespace: str) -> None:
    """Tell the server at the end of this process that a namespace goes with it, unless it is another process's."""
    if not _is_mine(namespace):
        return
    if not _left:
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, _leave, exitpriority=-100)
    _left[namespace] = spec


def _is_mine(namespace: str) -> bool:
    """Whether this process drew it: a forked child inherits its parent's, which goes with the parent."""
    try:
        return Writer.unpack(namespace.removeprefix("~")) == this_process().writer
    except ValueError:
        return False


def _leave() -> None:
    by_spec: dict[str, list[str]] = {}
    while _left:
        namespace, spec = _left.popitem()
        by_spec.setdefault(spec.partition("?")[0], [spec]).append(namespace)
    for spec, *namespaces in by_spec.values():
        with contextlib.suppress(ProxyfabError), load("connectors", "zmq").from_url(spec) as connector:
            connector.leave(namespaces, left())


atexit.register(_leave)
os.register_at_fork(after_in_child=_left.clear)
