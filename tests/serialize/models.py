"""Types that tests serialize, importable in every process."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Text(str):
    __slots__ = ()


class Data(bytes):
    pass


class Number(int):
    pass


class Colour(str, enum.Enum):  # noqa: UP042  # not StrEnum: this is the one that loses its type easily
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: float


class Image(np.ndarray):
    pass


class Frame(pd.DataFrame):
    @property
    def _constructor(self) -> type[Frame]:
        return Frame


@dataclass
class Sample:
    name: str
    pixels: Any = None
    tags: list[str] = field(default_factory=list)


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first: object, second: object) -> None:
        self.first = first
        self.second = second


class Stubborn:
    """Pickles, and refuses to come back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("no way back")
