"""Names: what lies under a key that people gave, or that was drawn and whose object was replaced since.

A name means a locator of content that is written once, under an id of its own, before the name means it. So an
interrupted put changes nothing, a reader has the old content or the new, and of several who change a name one wins.

Rules:
1. Content is evicted when no name means it any more, never before; after an interrupt that left open whether a name
   means it, it stays, and upkeep finds it.
2. A name whose content is gone means nothing: it has expired, or an evict was at work.
3. A drawn object stands in for the name of its id as long as that means nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TypeVar

from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import NAMED
from proxyfab.errors import CapacityError, ConnectorError, KeyExists, ProxyfabError
from proxyfab.keys import Key
from proxyfab.scattering.registers import Attempt, Registers
from proxyfab.scattering.scattering import Scattering

R = TypeVar("R")
DRAWN = re.compile(r"[0-9a-f]{32}")


class Names:
    """Puts, swaps and evicts by name. Thread-safe and fork-safe as the members are.

    Args:
        scattering: Where content goes.
        registers: What names mean.
    """

    def __init__(self, scattering: Scattering, registers: Registers) -> None:
        self.scattering = scattering
        self.registers = registers

    def look(self, key: Key, drawn: Locator | None, look: Callable[[Locator], R | None]) -> R | None:
        """What `look` finds under a key; again, where that means something else by the time that nothing was there."""
        found = None if drawn is None else look(drawn)
        before: bytes | None = None
        while found is None:
            value = self.meaning(key)
            if not value:
                content = None if drawn is not None else self.drawn(key)
                return None if content is None else look(content)
            if value == before:
                return None
            before, found = value, look(locators(value)[0])
        return found

    def meaning(self, key: Key) -> bytes:
        """What a key means to most members; ids that were drawn need none who can compare and set."""
        if DRAWN.fullmatch(key.id) and not self.registers.able:
            return b""
        return self.registers.read(key.id)

    def drawn(self, key: Key) -> Locator | None:
        """Where a drawn object lies of which only the id is given."""
        if key.where or not DRAWN.fullmatch(key.id):
            return None
        return self.scattering.find(bytes.fromhex(key.id))

    def put(self, frames: Frames, key: Key, drawn: Locator | None, ttl: float | None, replace: bool) -> None:
        """Have a key mean this.

        Raises:
            KeyExists: Something lies under it, and is not to be replaced.
        """
        value, older = self._meaning(key, drawn)
        new: Locator | None = None
        attempt = Attempt()
        try:
            while True:
                if not replace and any(map(self.scattering.there, older)):
                    raise KeyExists(f"{key} holds an object, and objects are written once (say replace=True).")
                new = new or self.scattering.put(frames, os.urandom(16), kind=NAMED, ttl=ttl)
                self._mean(key, str(new).encode(), ttl, attempt, None if replace else value)
                if attempt.done:
                    break
                value, older = self._meaning(key, drawn)
        finally:
            if new is not None and not attempt.begun:
                self._let_go(new)
        self._let_go(*[one for one in older if one.shape.kind != NAMED], *locators(attempt.before))

    def swap(self, key: Key, drawn: Locator | None, old: Frames | None, new: Frames | None, ttl: float | None) -> bool:
        """Have a key mean `new` if `old` lies under it; whether it did."""
        value, older = self._meaning(key, drawn)
        lies = next((found for one in older if (found := self.scattering.get(one)) is not None), None)
        if lies != old:
            return False
        if new is None and (lies is None or not value):
            return lies is None or self.scattering.drop(older[0])
        attempt = Attempt()
        put: Locator | None = None
        try:
            put = None if new is None else self.scattering.put(new, os.urandom(16), kind=NAMED, ttl=ttl)
            self._mean(key, b"" if put is None else str(put).encode(), ttl, attempt, value)
        finally:
            if put is not None and not attempt.begun:
                self._let_go(put)
        if attempt.done:
            self._let_go(*[one for one in older if one.shape.kind != NAMED], *locators(attempt.before))
        return attempt.done

    def renew(self, key: Key, ttl: float | None) -> bool:
        """Move the expiry of what a name means; whether it was there."""
        value = self.meaning(key)
        if value:
            self._mean(key, value, ttl, Attempt(), value)
        return self.look(key, None, lambda locator: self.scattering.renew(locator, ttl) or None) is not None

    def evict(self, key: Key) -> bool:
        """Have a key mean nothing, and evict what it meant; whether that was there."""
        change: Callable[[bytes], bytes | None] = lambda value: b"" if value else None  # noqa: E731
        try:
            attempt = self.registers.change(key.id, change)
        except CapacityError:  # its content makes room for saying so
            there = any([self._drop(one) for one in locators(self.registers.read(key.id))])
            self.registers.change(key.id, change)
            return there
        return any([self._drop(one) for one in locators(attempt.before)])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _meaning(self, key: Key, drawn: Locator | None) -> tuple[bytes, list[Locator]]:
        """What a key means to most members, and what may lie under it, in the order of looking."""
        value = self.registers.read(key.id)
        found = drawn or (None if value else self.drawn(key))
        return value, [*locators(value), *([] if found is None else [found])]

    def _mean(self, key: Key, new: bytes, ttl: float | None, attempt: Attempt, only: bytes | None) -> None:
        """Have a key mean this; where `only` is given, just if it means that."""
        ends = 0.0 if ttl is None else time.time() + ttl

        def change(value: bytes) -> bytes | None:
            return new if only is None or value == only else None

        self.registers.change(key.id, change, expires=ends, attempt=attempt)

    def _drop(self, locator: Locator) -> bool:
        """Evict what no key means any more; whether it was there, as far as can be told."""
        try:
            return self.scattering.drop(locator)
        except ConnectorError:  # it is owed to those who could not be asked
            return True

    def _let_go(self, *content: Locator) -> None:
        """Evict what no key means any more, now or as soon as it can be."""
        for one in content:
            try:
                self.scattering.drop(one)
            except ProxyfabError as error:
                self.scattering.members[0].warn(f"{one.shape.id.hex()} is evicted later", error)


def locators(value: bytes) -> list[Locator]:
    """What a register's value means: one locator, or none."""
    return [Locator.parse(value.decode("ascii"))] if value else []
