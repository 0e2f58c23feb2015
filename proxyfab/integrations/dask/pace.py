"""Pace: how soon what was said goes out on Dask's streams, of which each sends at most once in an interval.

A task waits for it at each turn: its client says it, the scheduler passes it on, the worker says that it is done. A
worker of one thread has two tasks at a time, so that no more of them go through it than turns. Where more is said than
goes out in time it goes out together, as ever.
"""

from __future__ import annotations

from typing import Any, NamedTuple

CLIENT = 0.002
"""Seconds from one message of a client to the scheduler to the next, in place of Dask's 10 ms: so long a task waits
behind what was said before it, that the last one's future is not needed any more, or what the task is going to name."""
CLUSTER = 0.001
"""Seconds between messages of scheduler and workers, in place of 5 ms to a worker, and 2 from it or to a client."""


class Paced(NamedTuple):
    """A stream that goes out sooner, and its interval before."""

    stream: Any
    before: float

    def restore(self) -> None:
        """As Dask made it."""
        self.stream.interval = self.before


def paced(stream: Any, seconds: float) -> Paced | None:
    """Have what is said on a stream of Dask's go out sooner; None where it is quick enough, or of another kind."""
    before = getattr(stream, "interval", None)
    if not isinstance(before, float) or before <= seconds:
        return None
    stream.interval = seconds
    return Paced(stream, before)
