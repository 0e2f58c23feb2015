"""What is owed when owners and borrows end, or the process does, and how it is settled in the background.

Promises: settling twice does no harm; the data that nothing names any more are evicted together; what a place does not
take now it is asked to take later, and what it never takes expires. One damaged record keeps nothing else waiting.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.patterns.ownership.book import Account
from proxyfab.patterns.ownership.desk import Desk
from proxyfab.patterns.ownership.protocol import Request
from proxyfab.wire import owning
from proxyfab.wire.owned import Claim


class End(NamedTuple):
    """What is owed when a handle ends: the claim is given back, or the object released."""

    account: Account
    claim: Claim
    owner: bool
    """Whether it is the owner's."""

    def steps(self) -> Generator[Request, Any, None]:
        """Give it back."""
        account, claim, owner = self
        rule = owning.release(claim, strict=False) if owner else owning.give_back(claim)
        try:
            yield from account.keeper.book.alter(account, rule, believed=account.raw is not None)
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


def settle(owed: list[End | Farewell]) -> None:
    """Do what is owed, many at once; where a place does not answer, all of it is asked for again.

    Raises:
        ConnectorError: A place did not answer.
        IntegrityError: A record is damaged; all else was done.
    """
    failed: list[ProxyfabError] = []
    for keeper in dict.fromkeys(each.keeper for each in owed):
        mine = [each for each in owed if each.keeper is keeper]
        with keeper.visit() as place:
            evicted: list[Key] = []
            try:
                failed += _settled(place, [each for each in mine if isinstance(each, End)], evicted)
            finally:
                evicted += [Key.parse(each.session) for each in mine if isinstance(each, Farewell)]
                if evicted:
                    place.evict_many(evicted)
    if failed:
        raise next((error for error in failed if isinstance(error, ConnectorError)), failed[0])


def _settled(place: Any, ends: list[End], evicted: list[Key]) -> list[ProxyfabError]:
    """Give all back, those of one object one behind the other; what went wrong."""
    accounts: dict[Account, list[End]] = {}
    for end in ends:
        accounts.setdefault(end.account, []).append(end)
    done = Desk(place, evicted=evicted).run_all([_in_turn(some) for some in accounts.values()])
    return [error for error in done if isinstance(error, ProxyfabError)]


def _in_turn(ends: list[End]) -> Generator[Request, Any, None]:
    for end in ends:
        yield from end.steps()
