"""Interrupts of who fetches, at each instruction there is, while another thread waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from proxyfab import flight
from proxyfab.testing.interrupts import Interrupt
from proxyfab.testing.processes import until

Fetch = Callable[[], list[int]]
Ask = Callable[[], list[int]]


class _Attempt:
    """One fetch that goes on when somebody waits for it."""

    def __init__(self, asking: Callable[[Fetch], Ask]) -> None:
        self._started: SimpleQueue[None] = SimpleQueue()
        self._gates: list[SimpleQueue[None]] = [SimpleQueue()]  # of C: the number of instructions must not vary
        self._gate = self._gates[0]
        self.over = False
        self.found: list[list[int]] = []
        self.ask = asking(self._fetch)
        self._waiter = threading.Thread(target=self._wait)
        self._tower = threading.Thread(target=self._let_go)

    def _fetch(self) -> list[int]:
        self._started.put(None)
        if self._gates:  # the first one waits
            self._gates.pop().get(timeout=30)
        return [1]

    def _wait(self) -> None:
        self._started.get(timeout=30)
        self.found.append(self.ask())

    def _let_go(self) -> None:
        until(lambda: self.over or self._waiter.ident in flight._waiting, 30)
        self._gate.put(None)

    def run(self, interrupt: Interrupt) -> None:
        for thread in (self._waiter, self._tower):
            thread.start()
        try:
            interrupt.run(self.ask)
        finally:
            self._gates.clear()
            self._started.put(None)  # where it had not come so far
            self._waiter.join(20)
            self.over = True
            self._tower.join(20)


def at_each_instruction(asking: Callable[[Fetch], Ask]) -> int:
    """Whoever waits gets the answer wherever the pilot is stopped; `asking` makes of a fetch what asks for its result.

    Returns:
        At how many instructions that was tried.
    """
    number, came = 0, True
    while came:
        number += 1
        attempt, interrupt = _Attempt(asking), Interrupt(number)
        attempt.run(interrupt)
        assert attempt.found == [[1]], interrupt.where
        came = interrupt.came
    return number
