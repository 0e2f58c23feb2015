"""Why ownership's rules said no: a sentence with who holds it, since when, until when, and what to do."""

from __future__ import annotations

import time
from typing import Any

from proxyfab.errors import BorrowError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.osio.owner import this_process
from proxyfab.patterns.ownership.book import Account
from proxyfab.wire import owning
from proxyfab.wire.owned import Claim
from proxyfab.wire.owning import Refused

_STORY = {
    owning.GONE: "it is not there any more: it was released, or its owner was silent beyond its lease. Who needs it "
    "must borrow it, or be sent it, before its owner lets it go",
    owning.ORPHAN: "its owner has let it go, and it lives only for those who had borrowed it before",
    owning.OWNED: "it is owned already{by}. Ask that one for a borrow, or to send it on; or work on a clone()",
    owning.FENCED: "this process holds it no longer{by}. Its claim lapsed, or it was sent to another process",
    owning.SENT: "it was sent in a message that nobody has used yet; reclaim() takes it back",
    owning.TAKEN: "the message it came in was already used{by}. A message moves it once; send a borrow, or a clone, to "
    "more than one",
    owning.MOVED: "the message it came in is void: what it brought was reclaimed, released or sent on{by}",
    owning.STALE: "it was updated since it was borrowed; borrow it anew",
    owning.LAPSED: "this process was silent for longer than the lease just then, and its claim lapsed; try again",
    owning.FULL: "so many processes borrow it that its record has no room for more. Let some of them release it, or "
    "lend it to tasks with borrow(..., scoped=True), which takes no room",
    owning.LENT: "it is borrowed{by}. Release that, wait for it with timeout=, or work on a clone()",
    owning.CHANGING: "it is mutably borrowed{by}. Release that, wait for it with timeout=, or work on a clone()",
}


def refusal(verb: str, account: Account, refused: Refused) -> BorrowError:
    """The error for what a rule refused."""
    story = _STORY[refused.reason].format(by=_by(account, refused.holders))
    return BorrowError(f"{verb} of the object {account.key} in {account.keeper.url} is refused: {story}.")


def ended(verb: str, account: Account, why: str) -> BorrowError:
    """The error for what this process knows without asking."""
    return BorrowError(f"{verb} of the object {account.key} in {account.keeper.url} is refused: {why}.")


def _by(account: Account, holders: tuple[Claim, ...]) -> str:
    if not holders:
        return ""
    named = [f"{_who(claim)} since {_clock(claim.since)}{_until(account, claim)}" for claim in holders[:3]]
    more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
    return f" by {', '.join(named)}{more}"


def _who(claim: Claim) -> str:
    return f"this process ({claim.who})" if claim.who == str(this_process()) else claim.who


def _until(account: Account, claim: Claim) -> str:
    """When a claim ends by itself."""
    connector: Any = account.keeper.store.connector
    try:
        stat = connector.stat(Key.parse(claim.session))
    except ProxyfabError:
        return ""
    if stat is None:
        return " (lapsed)"
    return "" if stat.expires is None else f" (until {_clock(stat.expires)} unless it is renewed)"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(seconds))
