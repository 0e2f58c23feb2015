"""What the measurements over an emulated way share: what can be said of it, and two namespaces with it between them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from proxyfab.wan.facilities import namespace

FAR = "192.0.2.2"
"""The second namespace's address."""


def parser(what: str | None, *, delay: float) -> argparse.ArgumentParser:
    """Options that all of them have.

    Args:
        what: The measurement.
        delay: Seconds one way, where nothing else is said.
    """
    made = argparse.ArgumentParser(description=what)
    made.add_argument("--loss", type=float, default=0.0)
    made.add_argument("--delay", type=float, default=delay, help="Seconds one way, of each way.")
    made.add_argument("--rate", type=float, default=1e9)
    made.add_argument("--mtu", type=int, default=1500)
    made.add_argument("--streams", type=int, default=8)
    made.add_argument("--congestion", default="")
    made.add_argument("--rounds", type=int, default=4)
    made.add_argument("--sizes", default="1048576,33554432")
    return made


def way(given: argparse.Namespace) -> dict[str, float]:
    """The emulator's part of what was given."""
    return {"delay": given.delay, "rate": given.rate, "loss": given.loss, "mtu": given.mtu}


@contextmanager
def two_ends(given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Paths of two namespaces with a way between them, for as long as it lasts."""
    with ExitStack() as ends:
        paths = []
        for _ in range(2):
            held = namespace()
            ends.callback(os.close, held)
            paths.append(f"/proc/{os.getpid()}/fd/{held}")
            subprocess.run(["nsenter", f"--net={paths[-1]}", "ip", "link", "set", "lo", "up"], check=True)
        addressed = [(paths[0], "wan", "192.0.2.1/30"), (paths[1], "wan", f"{FAR}/30")]
        emulator = child(["-m", "proxyfab.wan.emulator", json.dumps({"ends": addressed, **way(given)})])
        ends.callback(emulator.communicate)
        ends.callback(emulator.kill)
        yield paths[0], paths[1]


def child(command: list[str]) -> subprocess.Popen[str]:
    """A Python that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", f"{command} did not begin"
    return process
