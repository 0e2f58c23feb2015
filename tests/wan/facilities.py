"""Two facilities and an internet between them, in network namespaces: for root, who may make TUN devices.

    with Facilities(delay=0.0125, loss=0.001, nat="random") as world:
        world.inside("siteA", [...])

`siteA` and `siteB` each hang on `inet` by an emulated way (`emulator`). Routed, either reaches the other; apart, both
reach `inet` alone, where a relay may be; with NAT each has a router of its own before it (`gwA`, `gwB`), which
masquerades and lets nothing in that was not asked for.

Processes of this machine speak to a gateway in a namespace through a socket in a directory, which all namespaces share.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from proxyfab.keyring import Keyring
from proxyfab.testing.nodes import NodeServer

EMULATOR = Path(__file__).with_name("emulator.py")
INET = "203.0.113.1"
ADDRESSES = {"A": "192.0.2.1", "B": "198.51.100.1"}
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
    if shutil.which("ip") is None:
        return "network namespaces need iproute2's ip"
    if not os.path.exists("/dev/net/tun"):
        return "an emulated way needs /dev/net/tun"
    if nat and shutil.which("nft") is None:
        return "NAT needs nftables' nft"
    return ""


class Facilities:
    """The namespaces and ways; use it in a `with` block.

    Args:
        routed: Whether the internet carries packets between the two sites.
        nat: `""`, `"plain"`, or `"random"`, which is symmetric.
        congestion: What both sites' TCP uses; `""` for the host's own.
        way: Of both emulated ways: delay, rate, loss, queue, mtu.
    """

    def __init__(self, *, routed: bool = False, nat: str = "", congestion: str = "", **way: float) -> None:
        self._routed, self._nat, self._congestion = routed, nat, congestion
        self._way = way
        self._tag = f"pf{os.getpid() % 10000}"
        self._ends = contextlib.ExitStack()
        self._emulators: list[subprocess.Popen[str]] = []

    def name(self, role: str) -> str:
        """A namespace's name: of `siteA`, `gwA`, `inet`, `gwB`, `siteB`."""
        return f"{self._tag}{role}"

    def inside(self, role: str, command: Sequence[str]) -> list[str]:
        """A command as it is run in a namespace."""
        return ["ip", "netns", "exec", self.name(role), *command]

    def cut(self) -> None:
        """Lose every packet between the sites until `heal`."""
        self._emulators[0].send_signal(signal.SIGUSR1)

    def heal(self) -> None:
        """All is well from now on."""
        self._emulators[0].send_signal(signal.SIGUSR2)

    def __enter__(self) -> Facilities:
        with contextlib.ExitStack() as ends:
            roles = ["inet", "siteA", "siteB", *(["gwA", "gwB"] if self._nat else [])]
            for role in roles:
                _do("ip", "netns", "add", self.name(role))
                ends.callback(_do, "ip", "netns", "del", self.name(role))
                self._ip(role, "link", "set", "lo", "up")
            self._ip("inet", "addr", "add", f"{INET}/32", "dev", "lo")
            for side in "AB":
                ends.callback(self._kill, self._connect(side))
            if self._routed:
                _do(*self.inside("inet", ["sysctl", "-qw", "net.ipv4.ip_forward=1"]))
            self._ends = ends.pop_all()
        return self

    def _connect(self, side: str) -> subprocess.Popen[str]:
        here = f"gw{side}" if self._nat else f"site{side}"
        mine = ADDRESSES[side]
        other = mine[:-1] + "2"
        ends = [(self.name(here), "wan", f"{mine}/30"), (self.name("inet"), f"to{side}", f"{other}/30")]
        command = [sys.executable, str(EMULATOR), json.dumps({"ends": ends, **self._way})]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._emulators.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        control = ["congctl", self._congestion] if self._congestion else []
        self._ip(here, "route", "add", "default", "via", other, *control)
        if self._nat:
            self._masquerade(side, control)
        return process

    def _masquerade(self, side: str, control: list[str]) -> None:
        net = {"A": "10.1.0", "B": "10.2.0"}[side]
        site, router = f"site{side}", f"gw{side}"
        self._ip(site, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", self.name(router))
        for role, last in ((site, "2"), (router, "1")):
            self._ip(role, "addr", "add", f"{net}.{last}/24", "dev", "lan")
            self._ip(role, "link", "set", "lan", "up")
        self._ip(site, "route", "add", "default", "via", f"{net}.1", *control)
        _do(*self.inside(router, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]))
        how = "fully-random" if self._nat == "random" else ""
        subprocess.run(self.inside(router, ["nft", "-f", "-"]), input=_RULES.format(how=how), text=True, check=True)

    def _ip(self, role: str, *words: str) -> None:
        _do("ip", "-n", self.name(role), *words)

    @staticmethod
    def _kill(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


class Inside(NodeServer):
    """A `proxyfab` command in a namespace.

    Args:
        world: Where the namespace is.
        role: Which one.
        words: The command, without `proxyfab`.
        environment: What differs from ours.
    """

    def __init__(
        self, world: Facilities, role: str, words: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(words, environment=environment)
        self._world, self._role = world, role

    def command(self, ready: int) -> list[str]:
        words = [sys.executable, "-m", "proxyfab", *self.arguments, "--ready-fd", str(ready)]
        return self._world.inside(self._role, words)


@contextlib.contextmanager
def gateways(world: Facilities, *, direct: bool, options: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Gateways `aps` at site A and `alcf` at site B, and a relay in between; yields their URLs and processes."""
    with contextlib.ExitStack() as ends:
        root = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="proxyfab-wan-")))
        rings = {name: Keyring(root / name) for name in ("aps", "alcf")}
        keys = {name: ring.make("sign", name).public for name, ring in rings.items()}
        relay = ends.enter_context(Inside(world, "inet", ["relay", "--open", "--listen", f"{INET}:7100"]))
        found: dict[str, Any] = {"relay": relay}
        for name, other, role in (("aps", "alcf", "siteA"), ("alcf", "aps", "siteB")):
            bind = f"ipc://{root}/{name}.sock"
            listens = name == "aps" and direct
            address = f"{ADDRESSES['A']}:7000" if name == "alcf" and direct else ""
            ways = ["--listen", "0.0.0.0:7000"] if listens else [] if direct else ["--relay", f"{INET}:7100"]
            words = ["serve", "--bind", bind, "--site", name, "--memory", "1GiB", *ways, *options]
            peer = ["--peer", f"{other}={address}#{keys[other]}"]
            ring = {"PROXYFAB_KEYS": str(rings[name].directory)}
            found[f"{name} server"] = ends.enter_context(Inside(world, role, [*words, *peer], ring))
            found[name] = f"site://{name}?gateway={root}/{name}.sock"
        yield found
