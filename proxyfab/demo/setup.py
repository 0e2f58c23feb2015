"""What every process of the demonstration is told at its start; JSON on its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing import Self

Passing = Literal["reference", "value"]


@dataclass(frozen=True, slots=True)
class Setup:
    """One run of the pipeline.

    Attributes:
        frames: How many rotations the instrument measures.
        size: Detector pixels, and pixels along the edge of a picture.
        angles: Projections in one rotation.
        workers: Processes that reconstruct.
        passing: Whether messages carry references to arrays or the arrays themselves. The only switch.
        store: URL of the store that references point into.
        seed: Everything random follows from it.
        deadline: Seconds that any process waits for another before it gives up.
    """

    frames: int = 48
    size: int = 512
    angles: int = 768
    workers: int = 2
    passing: Passing = "reference"
    store: str = "shm://"
    seed: int = 20
    deadline: float = 30.0

    def by(self, passing: Passing) -> Setup:
        """The same run with the switch thrown."""
        return replace(self, passing=passing)

    def at(self, store: str) -> Setup:
        """The same run with another store."""
        return replace(self, store=store)

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The Setup that `to_json` wrote."""
        return cls(**json.loads(text))
