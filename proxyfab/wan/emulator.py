"""A long way between two network namespaces: delay, rate, a queue, loss, and cuts. For root, who may make TUN devices.

    python proxyfab/wan/emulator.py '{"ends": [["siteA", "wan", "192.0.2.1/30"], ["inet", "toA", "192.0.2.2/30"]], ...}'

Both ends of the way are TUN devices of this process. A packet that comes in leaves when those before it have left at
the way's rate, unless the queue is full, and comes out a delay later, unless it is lost. SIGUSR1 cuts the way (what
comes in is lost), SIGUSR2 heals it; one line on stdout says that it is ready. It ends with its standard input, and so
with whoever holds the other end of that, however he ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_BURST = 64
"""Packets of one direction that are looked at before the other one."""


@dataclasses.dataclass(frozen=True)
class Way:
    """What lies between two namespaces.

    Args:
        ends: Namespace (its name, or a path to it), device and address of each end.
        delay: Seconds one way.
        rate: Bits a second each way.
        loss: Part of the packets that is lost, each by itself.
        queue: Bytes that wait at most.
        mtu: Bytes of a packet at most.
        seed: Of what is lost.
    """

    ends: tuple[tuple[str, str, str], tuple[str, str, str]]
    delay: float = 0.025
    rate: float = 1e9
    loss: float = 0.0
    queue: int = 6_250_000
    mtu: int = 1500
    seed: int = 1


class Direction:
    """Packets from one device to the other."""

    def __init__(self, way: Way, source: int, sink: int, seed: int) -> None:
        self.source, self.sink = source, sink
        self._way = way
        self._random = random.Random(seed)
        self._free = 0.0
        """When the last packet will have left."""
        self._waiting: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float | None:
        """When the next packet comes out."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, cut: bool) -> None:
        """Packets that came in: they wait, or are lost."""
        way, now = self._way, time.monotonic()
        second = 8 / way.rate
        for _ in range(_BURST):
            try:
                packet = os.read(self.source, 65536)
            except BlockingIOError:
                return
            self._free = max(self._free, now)
            if cut or (self._free - now) / second > way.queue or (way.loss and self._random.random() < way.loss):
                continue
            self._free += len(packet) * second
            self._waiting.append((self._free + way.delay, packet))

    def give(self) -> None:
        """Packets whose time has come come out."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            try:
                os.write(self.sink, self._waiting.popleft()[1])
            except BlockingIOError:
                return  # the device's own queue is full: lost


def enter(namespace: int | str) -> None:
    """This thread is in a network namespace from now on, and what it starts.

    Args:
        namespace: Its name, a path to it, or a descriptor, which is closed.
    """
    path = namespace if isinstance(namespace, int) or "/" in namespace else f"/run/netns/{namespace}"
    there = path if isinstance(path, int) else os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace}")
    finally:
        os.close(there)


def device(namespace: str, name: str, address: str, mtu: int) -> int:
    """A TUN device in a namespace. Returns its descriptor."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        enter(namespace)
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        # No address of IPv6, or the kernel looks for routers now and then: on the way is only what was sent.
        quiet = ["ip", "link", "set", name, "addrgenmode", "none"]
        subprocess.run(quiet, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (
            ["addr", "add", address, "dev", name],
            ["link", "set", name, "mtu", str(mtu), "txqueuelen", "10000", "up"],
        ):
            subprocess.run(["ip", *command], check=True, stdin=subprocess.DEVNULL)
    finally:
        enter(home)
    return tun


def run(way: Way) -> None:
    """Carry packets until standard input ends."""
    one, two = (device(*end, way.mtu) for end in way.ends)
    there, back = Direction(way, one, two, way.seed), Direction(way, two, one, way.seed + 1)
    cut = False

    def switch(number: int, _frame: object) -> None:
        nonlocal cut
        cut = number == signal.SIGUSR1

    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)
    poll = select.epoll()
    for direction in (there, back):
        poll.register(direction.source, select.EPOLLIN)
    with contextlib.suppress(PermissionError):  # a file cannot be watched, and does not end
        poll.register(0, select.EPOLLHUP)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        times = [direction.due for direction in (there, back)]
        wait = min((due - time.monotonic() for due in times if due is not None), default=-1.0)
        ready = dict(poll.poll(max(wait, 0.0) if wait != -1.0 else -1))
        if 0 in ready:
            return
        for direction in (there, back):
            if direction.source in ready:
                direction.take(cut)
            direction.give()


if __name__ == "__main__":
    run(Way(**json.loads(sys.argv[1])))
