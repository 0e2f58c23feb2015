"""Two facilities and an internet between them, in network namespaces: for root, who may make TUN devices.

    with Facilities(delay=0.0125, loss=0.001, nat="random") as world:
        world.inside("siteA", [...])

`siteA` and `siteB` each hang on `inet` by an emulated way (`emulator`). Routed, either reaches the other; apart, both
reach `inet` alone, where a relay may be; with NAT each has a router of its own before it (`gwA`, `gwB`), which
masquerades and lets nothing in that was not asked for.

Processes of this machine speak to a gateway in a namespace through a socket in a directory, which all namespaces share.

The namespaces have no names: descriptors of this process hold them, and the emulators end with it. So the kernel takes
all of it back when this process ends, also by SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.wan import emulator

if TYPE_CHECKING:
    from typing import Self

INET = "203.0.113.1"
ADDRESSES = {"A": "192.0.2.1", "B": "198.51.100.1"}
_CLONE_NEWNET = 0x40000000
_RULES = """
table ip site {{
  chain post {{ type nat hook postrouting priority srcnat; oifname "wan" masquerade {how}; }}
  chain pass {{ type filter hook forward priority filter; policy drop; ct state established,related accept;
    iifname "lan" oifname "wan" accept; }}
  chain inp {{ type filter hook input priority filter; policy drop; iifname "lo" accept;
    ct state established,related accept; iifname "lan" accept; }}
}}
"""


def missing(*, nat: bool = False) -> str:
    """Why this cannot be done here; `""` when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, where in (("ip", "iproute2"), ("nsenter", "util-linux"), *((("nft", "nftables"),) if nat else ())):
        if shutil.which(program) is None:
            return f"{'NAT needs' if program == 'nft' else 'network namespaces need'} {where}'s {program}"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"an emulated way needs /dev/net/tun ({error.strerror})"
    try:
        os.close(namespace())
    except OSError as error:
        return f"network namespaces need the right to make them ({error.strerror})"
    return ""


def namespace() -> int:
    """A new network namespace, as the descriptor that holds it.

    Raises:
        OSError: This process may not make one.
    """
    made: list[int | OSError] = []

    def make() -> None:
        """In a thread, which alone leaves our namespace, and ends."""
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="namespace")
    thread.start()
    thread.join()
    (found,) = made
    if isinstance(found, OSError):
        raise found
    return found


class Facilities:
    """The namespaces and ways; use it in a `with` block.

    Args:
        routed: Whether the internet carries packets between the two sites.
        nat: `""`, `"plain"`, or `"random"`, which is symmetric.
        congestion: What both sites' TCP uses; `""` for the host's own.
        way: Of both emulated ways: delay, rate, loss, queue, mtu.

    Raises:
        ConfigurationError: It cannot be done here (`missing`).
        ConnectorError: An emulated way did not come about, or a command that makes it failed.
    """

    def __init__(self, *, routed: bool = False, nat: str = "", congestion: str = "", **way: float) -> None:
        self._routed, self._nat, self._congestion = routed, nat, congestion
        self._way = way
        self._spaces: dict[str, int] = {}
        self._ends = contextlib.ExitStack()
        self._emulators: list[subprocess.Popen[str]] = []

    def path(self, role: str) -> str:
        """The namespace of `siteA`, `gwA`, `inet`, `gwB`, `siteB`, as every process of this user can enter it."""
        return f"/proc/{os.getpid()}/fd/{self._spaces[role]}"

    def inside(self, role: str, command: Sequence[str]) -> list[str]:
        """A command as it is run in a namespace."""
        return ["nsenter", f"--net={self.path(role)}", *command]

    def cut(self) -> None:
        """Lose every packet between the sites until `heal`."""
        self._emulators[0].send_signal(signal.SIGUSR1)

    def heal(self) -> None:
        """All is well from now on."""
        self._emulators[0].send_signal(signal.SIGUSR2)

    def __enter__(self) -> Self:
        why = missing(nat=bool(self._nat))
        if why:
            raise ConfigurationError(f"Facilities cannot be emulated here: {why}.")
        with contextlib.ExitStack() as ends:
            for role in ("inet", "siteA", "siteB", *(("gwA", "gwB") if self._nat else ())):
                self._spaces[role] = namespace()
                ends.callback(os.close, self._spaces[role])
                self._ip(role, "link", "set", "lo", "up")
            self._ip("inet", "addr", "add", f"{INET}/32", "dev", "lo")
            for side in "AB":
                ends.callback(self._kill, self._start(side))
            for side, process in zip("AB", self._emulators, strict=True):
                self._connect(side, process)
            if self._routed:
                self._do("inet", "sysctl", "-qw", "net.ipv4.ip_forward=1")
            self._ends = ends.pop_all()
        return self

    def _near(self, side: str) -> str:
        """The namespace on which a side's way hangs."""
        return f"gw{side}" if self._nat else f"site{side}"

    def _start(self, side: str) -> subprocess.Popen[str]:
        ends = [
            (self.path(self._near(side)), "wan", f"{ADDRESSES[side]}/30"),
            (self.path("inet"), f"to{side}", f"{_other(side)}/30"),
        ]
        command = [sys.executable, "-I", emulator.__file__, json.dumps({"ends": ends, **self._way})]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )  # fmt: skip
        self._emulators.append(process)
        return process

    def _connect(self, side: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise ConnectorError(f"The emulated way of site {side} ended with status {process.wait()}.")
        here = self._near(side)
        control = ["congctl", self._congestion] if self._congestion else []
        self._ip(here, "route", "add", "default", "via", _other(side), *control)
        if self._nat:
            self._masquerade(side, control)

    def _masquerade(self, side: str, control: list[str]) -> None:
        net = {"A": "10.1.0", "B": "10.2.0"}[side]
        site, router = f"site{side}", f"gw{side}"
        there = f"/proc/self/fd/{self._spaces[router]}"
        self._ip(site, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", there, fds=[router])
        for role, last in ((site, "2"), (router, "1")):
            self._ip(role, "addr", "add", f"{net}.{last}/24", "dev", "lan")
            self._ip(role, "link", "set", "lan", "up")
        self._ip(site, "route", "add", "default", "via", f"{net}.1", *control)
        self._do(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        how = "fully-random" if self._nat == "random" else ""
        self._do(router, "nft", "-f", "-", told=_RULES.format(how=how))

    def _ip(self, role: str, *words: str, fds: Sequence[str] = ()) -> None:
        self._do(role, "ip", *words, fds=fds)

    def _do(self, role: str, *command: str, told: str = "", fds: Sequence[str] = ()) -> None:
        held = [self._spaces[each] for each in fds]
        words = self.inside(role, command)
        done = subprocess.run(words, input=told, text=True, check=False, capture_output=True, pass_fds=held)
        if done.returncode:
            raise ConnectorError(f"`{' '.join(command)}` failed in the namespace {role}: {done.stderr.strip()}")

    @staticmethod
    def _kill(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()
        self._emulators.clear()


def _other(side: str) -> str:
    """The address at the other end of a side's way."""
    return ADDRESSES[side][:-1] + "2"
