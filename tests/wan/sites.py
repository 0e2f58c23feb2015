"""Gateways of two emulated facilities, and a relay in between, for tests and benches; for root."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxyfab.testing.nodes import NodeServer
from proxyfab.wan.facilities import Facilities
from proxyfab.wan.gateways import pair, relay


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
        found: dict[str, Any] = {"relay": ends.enter_context(Inside(world, "inet", relay()))}
        for each in pair(root, direct=direct, options=options):
            server = Inside(world, each.role, each.words, each.environment)
            found[f"{each.site} server"] = ends.enter_context(server)
            found[each.site] = each.url
        yield found
