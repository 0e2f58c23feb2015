"""Children of erasure:// whose calls are steps of a world (`erasure_world`), and what goes wrong with them.

And who uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.erasure.shard import HEADER, header_of
from proxyfab.errors import CapacityError, ConnectorError
from proxyfab.scattering.getting import is_note
from proxyfab.scattering.listing import listed
from proxyfab.scattering.report import Report
from proxyfab.testing.faults import FaultyConnector
from tests.connectors.erasure_world import World

R = TypeVar("R")
FAULTS = ("down", "down", "hang", "late", "lossy", "liar", "full", "empty", "well", "well")
"""What a child may do; one that is emptied is well again at once."""
_CHANGES = ("put", "put_many", "compare_and_set")


class Place(FaultyConnector):
    """A child: each call is two steps of the world, and what goes wrong is drawn."""

    world: World
    mode = "well"
    far = True

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return not self.far

    def _call(
        self, operation: str, call: Callable[[], R], nbytes: int = 0, size: Callable[[R], int] | None = None
    ) -> R:
        world, draw = self.world, self.world.random
        world.step()
        mode = self.mode
        chance = draw.random()
        if chance < 0.05:
            world.sleep(draw.choice([0.001, 0.02, 0.3]))
        if mode == "hang":
            world.sleep(draw.choice([0.3, 2.0, 8.0, 20.0]))
        if mode == "down" or (mode == "lossy" and chance < 0.3):
            raise ConnectorError(f"{self.spec} is down.")
        if mode == "full" and operation in _CHANGES and nbytes:
            raise CapacityError(f"{self.spec} is full.")
        result = call()
        if operation == "scan":
            result = list(result)  # type: ignore[call-overload]
        world.step()
        if mode == "late":
            world.sleep(draw.choice([0.3, 2.0, 8.0, 20.0]))
        if mode == "lossy" and chance > 0.7:
            raise ConnectorError(f"The answer of {self.spec} was lost.")
        if mode == "liar" and isinstance(result, Frames) and result.nbytes and chance < 0.5:
            raw = bytearray(result.tobytes())
            raw[draw.randrange(len(raw))] ^= 1 + draw.randrange(255)
            return Frames([bytes(raw[: draw.choice([len(raw), len(raw) - 1])])])  # type: ignore[return-value]
        return result


def _nobody_else(id: str) -> AbstractContextManager[None]:
    return nullcontext()


class Client:
    """A process."""

    def __init__(self, name: str, children: Sequence[Place], options: Options, weak: set[str]) -> None:
        self.name = name
        self.one = ErasureConnector(list(children), options)
        self.one._turn = _nobody_else  # type: ignore[method-assign]  # each is another machine
        means = self.one.scattering.means
        mark = means.mark_gone

        def marked(name: str, members: Sequence[int]) -> None:
            weak.add(name)
            mark(name, members)

        means.mark_gone = marked  # type: ignore[method-assign]  # who evicts knows that a copy may be left


def lacking(client: Client, report: Report) -> bool:
    """Whether anything lacks that can be restored: of a put that was killed planning anew there are two forms."""
    means = client.one.scattering.means
    if report.missing:
        for held in listed(means, 0).pieces.values():
            heads = [means.members[member].child.get_range(stat.key, 0, HEADER) for member, stat in held.at.items()]
            if len({header_of(head, whole=False).shape for head in heads if not is_note(head)}) > 1:
                return False
    return bool(report.missing or report.broken or report.failures)
