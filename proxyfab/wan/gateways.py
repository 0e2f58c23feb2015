"""What is run where, so that two facilities are sites that know each other: commands and URLs, nothing else.

Gateway `aps` stands at site A, gateway `alcf` at site B; directly, `alcf` dials `aps`; otherwise both dial a relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxyfab.keyring import Keyring
from proxyfab.wan.facilities import ADDRESSES, INET

_PORT, _RELAYED = 7000, 7100


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway.

    Attributes:
        site: Its name.
        role: The namespace that it stands in.
        words: The command, without `proxyfab`.
        environment: What differs from ours.
        socket: Where processes of its site find it.
    """

    site: str
    role: str
    words: tuple[str, ...]
    environment: dict[str, str]
    socket: str

    @property
    def url(self) -> str:
        """A store's URL for processes of its site."""
        return f"site://{self.site}?gateway={self.socket}"


def relay() -> list[str]:
    """The command of a relay in `inet`, without `proxyfab`."""
    return ["relay", "--open", "--listen", f"{INET}:{_RELAYED}"]


def pair(root: Path, *, direct: bool, memory: str = "1GiB", options: Sequence[str] = ()) -> tuple[Gateway, Gateway]:
    """The gateways of both sites, with keys that are made for them.

    Args:
        root: A directory for keys and sockets.
        direct: Whether one dials the other; otherwise they meet at the relay.
        memory: Of each.
        options: Of both.
    """
    rings = {name: Keyring(root / name) for name in ("aps", "alcf")}
    keys = {name: ring.make("sign", name).public for name, ring in rings.items()}

    def made(name: str, other: str, role: str, address: str, ways: Sequence[str]) -> Gateway:
        socket = f"{root}/{name}.sock"
        words = ["serve", "--bind", f"ipc://{socket}", "--site", name, "--memory", memory]
        words += [*ways, *options, "--peer", f"{other}={address}#{keys[other]}"]
        return Gateway(name, role, tuple(words), {"PROXYFAB_KEYS": str(rings[name].directory)}, socket)

    dials = ["--relay", f"{INET}:{_RELAYED}"]
    return (
        made("aps", "alcf", "siteA", "", ["--listen", f"0.0.0.0:{_PORT}"] if direct else dials),
        made("alcf", "aps", "siteB", f"{ADDRESSES['A']}:{_PORT}" if direct else "", [] if direct else dials),
    )
