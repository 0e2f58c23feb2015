"""What `top` watches: something that is looked at again and again, and shown as table, line, JSON or metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Group
from rich.table import Table
from rich.text import Text

from proxyfab.background import aside

if TYPE_CHECKING:
    from proxyfab.integrations.prometheus import Collector

T = TypeVar("T")
S = TypeVar("S")
ANSWER = 10.0
"""Seconds that a place has to answer: one that hangs does not hang those who watch it."""


class Watch(ABC, Generic[S]):
    """One place.

    Attributes:
        url: As it may be shown.
    """

    url: str

    @abstractmethod
    def look(self, before: S | None) -> S:
        """What there is now, with rates since the look before.

        Raises:
            ProxyfabError: It does not answer, or cannot tell.
        """

    @abstractmethod
    def document(self, sample: S) -> dict[str, object]:
        """As JSON takes it."""

    @abstractmethod
    def line(self, sample: S) -> str:
        """In one line."""

    @abstractmethod
    def picture(self, sample: S) -> Group:
        """For a terminal."""

    @abstractmethod
    def collector(self) -> Collector:
        """For Prometheus."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


def in_time(ask: Callable[[], T], what: str) -> T:
    """The answer, or ResolveTimeout."""
    return aside(ask, what).result(ANSWER)


def number(value: float) -> str:
    """A number for people."""
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column stands on the left, and all others on the right."""
    made = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for column in made.columns[1:]:
        column.justify = "right"
    for row in rows:
        made.add_row(*[Text(cell) for cell in row])
    return made
