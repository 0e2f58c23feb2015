"""How buffers lie one behind the other: each at a 64-byte boundary, so that it can be used where it lies. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from proxyfab.errors import IntegrityError

ALIGNMENT = 64
PADS = tuple(memoryview(bytes(size)) for size in range(ALIGNMENT))
"""As many zeros as each is long."""


def aligned(offset: int) -> int:
    """The next boundary."""
    return offset + -offset % ALIGNMENT


def laid_out(buffers: Sequence[memoryview], start: int) -> tuple[Sequence[memoryview], int]:
    """The buffers with the pads between them, and where the last one ends."""
    if len(buffers) == 1:
        return buffers, start + buffers[0].nbytes
    views: list[memoryview] = []
    end = start
    for view in buffers:
        pad = -end % ALIGNMENT
        if pad:
            views.append(PADS[pad])
        views.append(view)
        end += pad + view.nbytes
    return views, end


def spans_of(sizes: Sequence[int], start: int, total: int) -> list[tuple[int, int]]:
    """Where each buffer begins and ends; the table must end where the bytes end.

    Raises:
        IntegrityError: It does not.
    """
    spans, end = [], start
    for size in sizes:
        low = end + -end % ALIGNMENT
        end = low + size
        spans.append((low, end))
    if end != total:
        raise IntegrityError(f"The buffer table of an object ends at {end} of {total} bytes: it is damaged.")
    return spans
