"""Targets that have names another process can import."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Point:
    x: int = 1
    y: int = 2
    tags: list[str] = field(default_factory=list)

    def norm(self) -> int:
        return self.x + self.y


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Loud:
    """Has nothing; says what was asked of it."""

    def __getattr__(self, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"loud {name}"


class Manager:
    entered = exited = 0

    def __enter__(self) -> str:
        self.entered += 1
        return "inside"

    def __exit__(self, *error: object) -> bool:
        self.exited += 1
        return error[0] is KeyError

    async def __aenter__(self) -> str:
        return "inside"

    async def __aexit__(self, *error: object) -> bool:
        return error[0] is KeyError


class Ticker:
    """An async iterator."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __aiter__(self) -> Ticker:
        return self

    async def __anext__(self) -> int:
        if not self.n:
            raise StopAsyncIteration
        self.n -= 1
        return self.n


class Promise:
    def __await__(self) -> Any:
        return iter(())


def greet(name: str = "you", *, loud: bool = False) -> str:
    """Says hello."""
    return f"HELLO {name}" if loud else f"hello {name}"


def one() -> int:
    return 1


def numbers() -> list[int]:
    return [1, 2, 3]
