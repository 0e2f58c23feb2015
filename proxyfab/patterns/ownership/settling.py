"""What is owed when owners and borrows end, or the process does, and how it is settled in the background.

Promises: settling twice does no harm; the data that nothing names any more are evicted together; what a place does not
take now it is asked to take later, and what it never takes expires. One damaged record keeps nothing else waiting.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.keys import Key
from proxyfab.patterns.ownership.book import Account
from proxyfab.patterns.ownership.desk import Desk
from proxyfab.wire import owning
from proxyfab.wire.owned import Claim


class End(NamedTuple):
    """What is owed when a handle ends: the claim is given back, or the object released."""

    account: Account
    claim: Claim
    owner: bool
    """Whether it is the owner's."""

    def settle(self, place: Any, evicted: list[Key]) -> None:
        """Give it back."""
        account, claim, owner = self
        rule = owning.release(claim, strict=False) if owner else owning.give_back(claim)
        steps = account.keeper.book.alter(account, rule, believed=account.raw is not None)
        try:
            Desk(place, evicted=evicted).run(steps)
        except IntegrityError:
            account.keeper.book.let_go(account, claim)  # of what is no record nothing can be given back
            raise
        account.keeper.book.let_go(account, claim)

    @property
    def keeper(self) -> Any:
        """Of the process's holdings at that place."""
        return self.account.keeper


class Farewell(NamedTuple):
    """What is owed when the process ends: its session goes, so that nobody waits for it to lapse."""

    keeper: Any
    session: str
    """Text of its key."""

    def settle(self, _: Any, evicted: list[Key]) -> None:
        """Leave."""
        evicted.append(Key.parse(self.session))


def settle(owed: list[End | Farewell]) -> None:
    """Do what is owed; where a place does not answer, all of it is asked for again.

    Raises:
        ConnectorError: A place did not answer.
        IntegrityError: A record is damaged; all else was done.
    """
    damage: IntegrityError | None = None
    for keeper in dict.fromkeys(each.keeper for each in owed):
        with keeper.visit() as place:
            evicted: list[Key] = []
            try:
                for each in owed:
                    if each.keeper is keeper:
                        try:
                            each.settle(place, evicted)
                        except IntegrityError as error:
                            damage = error
            finally:
                if evicted:
                    place.evict_many(evicted)
    if damage is not None:
        raise damage
