"""How long after the deadline of a wait an answer may still come: one that is on its way, from however far.

Who waits goes on then, whatever the server does. With less a busy machine would lose answers that are there; with more
a server that hangs would hold up who has no time.
"""

from __future__ import annotations

LEAST = 0.05
"""Seconds that an answer has in any case."""
MOST = 0.5
"""Seconds at most, where what comes later is still of use to the next one."""
_PACES = 3.0
"""Times that a server may take what it took to let us in: it may be far, and everything on its way goes and comes."""


def grace(pace: float, least: float = LEAST, most: float = MOST) -> float:
    """Seconds after a deadline in which an answer may come.

    Args:
        pace: Seconds that the server took to let us in; infinite for unknown.
        least: Seconds in any case.
        most: Seconds at most, unless `least` is more; infinite where who is late loses the connection.
    """
    return max(least, min(_PACES * pace, most))
