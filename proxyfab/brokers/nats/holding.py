"""What a member holds, and for how long.

The server's own time for it is short, so that what a killed member held comes again soon, and who lives asks for more
until the member's time is over.

Rules:
1. The server gives `LEASE` seconds, or less where a member of the group asked for less (`leases`). Every third of that
   the member asks for as much again, for what it has been holding for less than its own `ack_wait`.
2. What it has held for that long without saying anything it gives back, if the server would not do that by then.
In the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from proxyfab.brokers.nats.leases import every
from proxyfab.brokers.nats.link import now
from proxyfab.errors import ProxyfabError
from proxyfab.events.model import Delivery

LEASE = 10.0
_SLACK = 0.05
Spot = tuple[int, int]


class _Held:
    __slots__ = ("asked", "token", "until")

    def __init__(self, token: str, until: float) -> None:
        self.token = token
        self.until = until
        self.asked = now()


def spot(delivery: Delivery) -> Spot:
    """Where it lies."""
    return delivery.position.partition, delivery.position.offset


class Holding:
    """What one member holds.

    Args:
        ack_wait: Seconds it has for each.
        extend: Asks for more time for these.
        back: Gives these back.
        look: How long the server's own time is now.
    """

    def __init__(
        self,
        ack_wait: float,
        extend: Callable[[list[str]], None],
        back: Callable[[list[Spot]], None],
        look: Callable[[], Awaitable[float]],
    ) -> None:
        self._look = look
        self._looked = 0.0
        self.lease = min(LEASE, ack_wait)
        self._ack_wait = ack_wait
        self._extend = extend
        self._back = back
        self._held: dict[Spot, _Held] = {}
        self._task: asyncio.Task[None] | None = None

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """They came, or were handed out: the time begins."""
        until = now() + self._ack_wait
        for each in deliveries:
            known = self._held.get(spot(each))
            if known is not None and known.token == each.token:
                known.until = until
            else:
                self._held[spot(each)] = _Held(each.token, until)
        if self._held and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._tend())

    def again(self, deliveries: Iterable[Delivery]) -> list[str]:
        """The time of these begins anew; what to say that of."""
        at = now()
        tokens = []
        for each in deliveries:
            known = self._held.get(spot(each))
            if known is not None and known.token == each.token:
                known.asked, known.until = at, at + self._ack_wait
            tokens.append(each.token)
        return tokens

    def drop(self, deliveries: Iterable[Delivery]) -> list[str]:
        """They were settled; the tokens of those that were held."""
        return [known.token for each in deliveries if (known := self._held.pop(spot(each), None)) is not None]

    def tokens(self, spots: Iterable[Spot]) -> list[str]:
        """What to say that of, of those that are held."""
        return [self._held[place].token for place in spots if place in self._held]

    def give_up(self) -> list[str]:
        """Hold nothing any more; the tokens of what was."""
        tokens = [known.token for known in self._held.values()]
        self._held.clear()
        if self._task is not None:
            self._task.cancel()
        return tokens

    async def _tend(self) -> None:
        while self._held:
            await self._learn()
            third = self.lease / 3
            at = now()
            over = [place for place, known in self._held.items() if known.until <= at]
            early = [place for place in over if self._held[place].asked + self.lease > at + _SLACK]
            if early:
                self._back(early)
            for place in over:
                self._held.pop(place, None)
            due = [known for known in self._held.values() if known.asked + third <= at and self._lacks(known)]
            for known in due:
                known.asked = at
            if due:
                self._extend([known.token for known in due])
            ends = [self._looked + every(self.lease)] if self._held else []
            ends += [
                min(known.until, known.asked + third if self._lacks(known) else known.until)
                for known in self._held.values()
            ]
            if ends:
                await asyncio.sleep(max(0.005, min(ends) - now()))

    async def _learn(self) -> None:
        if now() - self._looked < every(self.lease):
            return
        self._looked = now()
        try:
            self.lease = await self._look()
        except ProxyfabError:  # as it was
            pass

    def _lacks(self, known: _Held) -> bool:
        """Whether what the server gave ends before its time."""
        return known.asked + self.lease + _SLACK < known.until
