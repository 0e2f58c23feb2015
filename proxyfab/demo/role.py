"""What the processes of the demonstration share: how they start, and what they say of themselves at the end."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxyfab.demo.channel import Channel, Hangup
from proxyfab.demo.setup import Setup

HUNG_UP = 3
"""Exit status of a process that stopped because another one did."""

WATCHED = ("numpy", "scipy", "nibabel", "skimage", "matplotlib")
"""Packages whose presence in a process is reported."""

now = time.monotonic
"""One clock for all processes of a machine; seconds."""


def play(role: Callable[[Setup, Mapping[str, Channel]], None]) -> None:
    """Run a role in this process, which was started with a Setup and its channels on the command line.

    A Ctrl-C is the main process's to handle: it hangs up, and that ends this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup = Setup.from_json(sys.argv[1])
    fds = json.loads(sys.argv[2])
    # The dispatcher and the main process watch over the others, who only must not wait for ever.
    deadline = setup.deadline * (1 if "main" in fds else 10)
    channels = {peer: Channel(fd, peer, deadline) for peer, fd in fds.items()}
    try:
        role(setup, channels)
    except Hangup as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(HUNG_UP)
    finally:
        for channel in channels.values():
            channel.close()


def report(name: str, channels: Mapping[str, Channel], stats: object = None, *, since: float = 0.0) -> dict[str, Any]:
    """A `report` message's header: who this was, what it moved and what it took.

    Args:
        name: What the process is.
        channels: Its channels.
        stats: What its store moved.
        since: `time.process_time()` when it was ready; processor time is counted from there.
    """
    return {
        "kind": "report",
        "name": name,
        "sent": sum(channel.sent for channel in channels.values()),
        "received": sum(channel.received for channel in channels.values()),
        "peak_memory": _peak_memory(),
        "cpu": time.process_time() - since,
        "loaded": [package for package in WATCHED if package in sys.modules],
        "stats": stats or {},
    }


def _peak_memory() -> int:
    """Bytes of physical memory that this program had at most, shared pages that it touched included.

    `getrusage` would do, but its figure begins with that of the process which started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
