"""Habits: of an object that many tasks get, whether they look at little of it: then none of them needs a copy of it.

The first task of a process gets a copy. The second one gets the object mapped, page by page as it looks at it
(`osio.private`), and what it did with that decides about all others: mapping costs a twentieth of a copy where little
is read, a third more where all is, and seven times as much where all is written to. Where it is mapped one task of a
few is looked at again, since the look is a good part of what it costs.
"""

from __future__ import annotations

from proxyfab.keys import Key
from proxyfab.osio.private import Use

LITTLE = 4
"""At most a fourth of the pages may be looked at."""
HARDLY = 64
"""At most so small a part of them, or one, may be written to."""
OFTEN = 4
"""Of so many tasks that get it mapped one is looked at."""
_MANY = 10_000
_SEEN, _TRIED, _MAPPED, _COPIED = range(4)


class Habits:
    """Of one process. Every step is one of a dict's, which no other thread interrupts: `told` is called anywhere."""

    def __init__(self) -> None:
        self._known: dict[Key, int] = {}
        self._mapped: dict[Key, int] = {}

    def may_map(self, key: Key) -> bool:
        """Whether the next task is to get this object mapped; call it once for each."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MANY:
                self._known.clear()
                self._mapped.clear()
            self._known[key] = _SEEN
        elif known == _SEEN:
            self._known[key] = _TRIED
        return known in (_SEEN, _MAPPED)

    def asks(self, key: Key) -> bool:
        """Whether to say what the next task does with an object that it gets mapped."""
        if self._known.get(key) != _MAPPED:
            return True
        tasks = self._mapped[key] = self._mapped.get(key, 0) + 1
        return tasks % OFTEN == 0

    def told(self, key: Key, use: Use) -> None:
        """What a task did with the object."""
        little = use.seen * LITTLE <= use.pages and use.changed <= max(use.pages // HARDLY, 1)
        if self._known.get(key) != _COPIED:
            self._known[key] = _MAPPED if little else _COPIED
