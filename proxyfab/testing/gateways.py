"""Gateways of several sites on this machine, for tests: each a `proxyfab serve --site` with keys of its own.

    with Gateways("aps", "alcf") as sites:
        store = Store(sites.url("aps"))

Promises: the first site listens and all others dial it, or what lies before it (`through`); all are gone at the end.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from proxyfab.keyring import Keyring
from proxyfab.testing.nodes import NodeServer

if TYPE_CHECKING:
    from typing import Self


class Gateways:
    """Some sites that know each other; use it in a `with` block.

    Args:
        names: The sites'; the first one listens.
        through: From the first one's `host:port` to where the others dial, so that a cable may lie in between.
        options: Of every gateway.
        each: Of one gateway, by its site.
    """

    def __init__(
        self,
        *names: str,
        through: Callable[[str], str] = lambda address: address,
        options: Sequence[str] = (),
        each: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.names = names
        self.servers: dict[str, NodeServer] = {}
        self._through = through
        self._options = [*options]
        self._each = dict(each or {})
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            root = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="proxyfab-sites-")))
            rings = {name: Keyring(root / name) for name in self.names}
            keys = {name: ring.make("sign", name).public for name, ring in rings.items()}
            dialled = ""
            for name, ring in rings.items():
                listen = [] if dialled else ["--listen", "127.0.0.1:0"]
                first = f"{self.names[0]}={dialled}#{keys[self.names[0]]}" if dialled else ""
                others = [f"{other}=#{keys[other]}" for other in self.names if other not in (name, self.names[0])]
                peers = [first, *others] if first else others
                options = [*listen, *self._peers(peers), *self._options, *self._each.get(name, ())]
                server = NodeServer(
                    ["--site", name, "--memory", "256MiB", *options],
                    environment={"PROXYFAB_KEYS": str(ring.directory)},
                )
                self.servers[name] = ends.enter_context(server)
                dialled = dialled or self._through(str(server.ready["listen"]))
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
