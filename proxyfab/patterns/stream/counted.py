"""Which events were counted: runs of numbers by producer, epoch and partition. Adding to some makes others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from proxyfab.spans import Spans

PRODUCERS = 4096
"""Producers that are remembered; beyond, who was heard least lately is forgotten."""
Source: TypeAlias = "tuple[str, int, int]"
"""A producer's name, its epoch, and the partition that it has counted in."""


class Numbered(Protocol):
    """An event with its number."""

    @property
    def producer(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def partition(self) -> int: ...


def source_of(item: Numbered) -> Source:
    """Whose number an event's is."""
    return item.producer, item.epoch, item.partition


class Counted:
    """Events that were counted.

    Args:
        spans: Their numbers; who was heard last is last.
    """

    __slots__ = ("_spans",)

    def __init__(self, spans: dict[Source, Spans]) -> None:
        self._spans = spans

    def has(self, source: Source, number: int) -> bool:
        """Whether an event was."""
        spans = self._spans.get(source)
        return spans is not None and number in spans

    def plus(self, events: Iterable[tuple[Source, int]]) -> Counted:
        """These, and some more."""
        spans = dict(self._spans)
        fresh: set[Source] = set()
        for source, number in events:
            if source not in fresh:
                fresh.add(source)
                spans[source] = Spans(spans.pop(source, ()))
            spans[source].add(number)
        for source in list(spans)[: max(0, len(spans) - PRODUCERS)]:
            del spans[source]
        return Counted(spans)

    def packed(self) -> list[tuple[str, int, int, list[int]]]:
        """To be written."""
        return [(*source, spans.packed()) for source, spans in self._spans.items()]

    @classmethod
    def unpacked(cls, packed: Iterable[Sequence[Any]]) -> Counted:
        """The inverse; raises IntegrityError."""
        return cls({(name, epoch, partition): Spans.unpacked(flat) for name, epoch, partition, flat in packed})
