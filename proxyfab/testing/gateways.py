"""Gateways of several sites on this machine, for tests: each a `proxyfab serve --site` with keys of its own.

    with Gateways("aps", "alcf") as sites:
        store = Store(sites.url("aps"))

Promises: each site dials those before it, the first one through what lies before that (`through`), or all meet at a
relay; all are gone at the end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from proxyfab.keyring import Keyring
from proxyfab.testing.nodes import NodeServer

if TYPE_CHECKING:
    from typing import Self


def listens(server: NodeServer) -> tuple[str, int]:
    """Host and port at which a relay or a gateway takes connections of other sites."""
    host, port = str(server.ready["listen"]).rsplit(":", 1)
    return host, int(port)


class RelayServer(NodeServer):
    """One `proxyfab relay`, open to all; `ready["listen"]` says where.

    Args:
        arguments: Of the command, besides `--listen` and `--open`.
        listen: Where it listens.
    """

    def __init__(self, arguments: Sequence[str] = (), *, listen: str = "127.0.0.1:0") -> None:
        super().__init__(arguments)
        self.listen = listen

    def command(self, ready: int) -> list[str]:
        command = [sys.executable, "-m", "proxyfab", "relay", "--open", "--listen", self.listen]
        return [*command, "--ready-fd", str(ready), *self.arguments]

    def restart(self) -> None:
        """Start it anew at the same address."""
        if self.process is not None:
            self.kill()
        self.listen = str(self.ready["listen"])
        self.start()


class Gateways:
    """Some sites that know each other; use it in a `with` block.

    Args:
        names: The sites'; each but the last one listens.
        relay: `host:port` of a relay at which they meet; then none of them listens.
        through: From the first one's `host:port` to where the others dial it, so that a cable may lie in between.
        options: Of every gateway.
        each: Of one gateway, by its site.
        may: What each may do at the others.
    """

    def __init__(
        self,
        *names: str,
        relay: str = "",
        through: Callable[[str], str] = lambda address: address,
        options: Sequence[str] = (),
        each: Mapping[str, Sequence[str]] | None = None,
        may: str = "all",
    ) -> None:
        self.names = names
        self._relay = relay
        self.servers: dict[str, NodeServer] = {}
        self._through = through
        self._options = [*options]
        self._may = may
        self._each = dict(each or {})
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            root = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="proxyfab-sites-")))
            rings = {name: Keyring(root / name) for name in self.names}
            keys = {name: ring.make("sign", name).public for name, ring in rings.items()}
            dialled: dict[str, str] = {}
            for name, ring in rings.items():
                others = [other for other in self.names if other != name]
                peers = [f"{other}={dialled.get(other, '')}#{keys[other]},may={self._may}" for other in others]
                listens = ["--listen", "127.0.0.1:0"] if name != self.names[-1] else []
                ways = ["--relay", self._relay] if self._relay else listens
                options = [*ways, *self._peers(peers), *self._options, *self._each.get(name, ())]
                server = NodeServer(
                    ["--site", name, "--memory", "256MiB", *options],
                    environment={"PROXYFAB_KEYS": str(ring.directory)},
                )
                self.servers[name] = ends.enter_context(server)
                if listens and not self._relay:
                    where = str(server.ready["listen"])
                    dialled[name] = where if dialled else self._through(where)
            self._ends = ends.pop_all()
        return self

    @staticmethod
    def _peers(peers: Sequence[str]) -> list[str]:
        return [word for peer in peers for word in ("--peer", peer)]

    def url(self, name: str) -> str:
        """A store's URL for processes of a site."""
        return f"site://{name}?gateway={self.address(name)}"

    def address(self, name: str) -> str:
        """Where a site's gateway hears its processes: `host:port`."""
        return self.servers[name].url.removeprefix("zmq://")

    def environment(self, name: str) -> dict[str, str]:
        """What a process of a site has in its environment."""
        return {**os.environ, "PROXYFAB_SITE": f"{name}={self.address(name)}"}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()
