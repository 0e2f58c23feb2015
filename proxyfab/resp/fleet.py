"""All connections of a connector: lent to one call at a time, to the server that has the key, made anew after a fork.

Promises: no lock is held while bytes move; what failed is closed and never lent again; a call that failed because a
server was not reached, had moved or was not ready is tried again, within its deadline and this place's retry budget, if
it may be repeated. Leaves what is said on a link to others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from redis.exceptions import AskError, InvalidResponse

from proxyfab.background import Beginnings
from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.resp.errors import ELSEWHERE, FOREIGN, NONSENSE, Doing, Late, is_refusal, translate, worth
from proxyfab.resp.finding import Finder
from proxyfab.resp.link import ASKING, CONNECT, SILENCE, Link
from proxyfab.resp.place import Address, Place
from proxyfab.retry import Attempts, Patience, budget_of

T = TypeVar("T")
_IDLE = 0.05
"""Seconds after which an idle link is looked at before it is lent."""
_KEPT = 32
_KNOWN = 1.0
"""Seconds after a flush in which keys may still be taken for those of before."""
_UNHEARD = f"ended, as the server did not say a word within {SILENCE:g} s"
_OPENING = 2 * CONNECT
"""Seconds that a new link may take; who has less has it made beside himself."""
_SENT = 5
"""Times that a call goes where it is sent (MOVED, ASK) before that is a failure."""


class Fleet:
    """Links to one place.

    Args:
        place: Where, and how to enter.
        mark: A key where a server's epoch is kept; b"" for none.
        check: Raises where an address must not be connected to, that another server has told.
    """

    def __init__(self, place: Place, mark: bytes = b"", check: Callable[[Address], None] | None = None) -> None:
        self.place = place
        self._check = check
        self._mark = b"" if place.cluster else mark  # whose nodes have no common memory
        self.closed = False
        self.epoch = ""
        self._budget = budget_of(place.label)
        self._finder = Finder(place, check)
        self._idle: defaultdict[tuple[Address, int], deque[Link]] = defaultdict(deque)
        self._begun: dict[tuple[Address, int], Beginnings] = {}
        self._troubles: dict[Address, BaseException] = {}
        """Why a server could not be entered beside who waited, since which it has done nothing for anybody."""
        self._turn = threading.Lock()
        self._pace = math.inf
        self._worth = partial(worth, several=place.cluster or bool(place.sentinel))
        on_fork(self)

    def run(
        self,
        name: bytes,
        work: Callable[[Link], T],
        what: str,
        *,
        again: bool = True,
        timeout: float | None = None,
        ends: float = math.inf,
    ) -> T:
        """`work(link)` on a link to the server of the key `name`.

        Args:
            name: A key of Redis.
            work: Called with a link on which nothing is under way; it must leave it so.
            what: The operation, for messages.
            again: Whether it may be repeated when nobody knows whether it was done.
            timeout: Seconds that it has; None for the place's.
            ends: When who waits goes on where no link is to be had, in monotonic seconds; `work` sees to the rest.

        Raises:
            ProxyfabError: What `work` met, translated.
            Late: `ends` has passed, or `work` says so.
        """
        return self._run(self._at(name, ends), work, what, again, timeout=timeout, ends=ends)

    def run_at(self, address: Address, work: Callable[[Link], T], what: str, *, again: bool = True) -> T:
        """`work(link)` on a link to one server."""
        return self._run(lambda _: address, work, what, again)

    def run_watching(
        self,
        names: Sequence[bytes],
        work: Callable[[list[tuple[Link, list[int]]]], T],
        what: str,
        timeout: float | None = None,
        ends: float = math.inf,
    ) -> T:
        """`work` on links that are told of changes: one to each server of the keys, with the positions of its keys.

        Outages may last as long as a call may, and as the seconds of the wait, if it has any.

        Raises:
            Late: `ends` (monotonic seconds) has passed, and no server is known to be away.
        """
        worth = partial(self._worth, again=True)
        attempts = Patience(self._budget, self._turn, outage=self.place.timeout, timeout=timeout, retryable=worth)

        def first(link: Link) -> T:
            attempts.up()
            (_, places), *others = self.groups(names, ends)
            return self._beside([(link, places)], others, work, ends)

        try:
            return self._run(self._at(names[0], ends), first, what, True, 3, attempts=attempts, ends=ends)
        except Late as late:
            self.tell(late, what, attempts.trouble)
            raise
        finally:
            attempts.over()

    def tell(self, late: Late, what: str, trouble: BaseException | None = None) -> None:
        """Raise why the server of a wait that is late is known to be away, if it is."""
        trouble = trouble or late.trouble or self._troubles.get(late.address)
        if trouble is not None:
            raise translate(trouble, Doing(what, self.place.label, _UNHEARD)) from trouble

    def groups(self, names: Sequence[bytes], ends: float = math.inf) -> list[tuple[bytes, list[int]]]:
        """Positions of the keys that one server has, with one key of each group; raises as `run` does."""
        finder, until = self._use(), time.monotonic() + self.place.timeout
        if not self.place.cluster:
            return [(names[0], list(range(len(names))))] if names else []
        found: dict[Address, list[int]] = {}
        for position, name in enumerate(names):
            found.setdefault(self._guarded(lambda name=name: finder.address(name, until, ends)), []).append(position)  # type: ignore[misc]
        return [(names[positions[0]], positions) for positions in found.values()]

    def masters(self) -> list[Address]:
        """Every server that has keys of its own."""
        return self._guarded(lambda: self._use().masters(time.monotonic() + self.place.timeout))

    def look(self) -> str:
        """The epoch as it is now; further keys carry it."""
        found = self.run(self._mark, lambda link: link.look(), "get")
        self.epoch = found or self.epoch
        return found

    def know(self, link: Link) -> None:
        """Before something is put: learn the epoch, if that was long ago."""
        if link.epoch and time.monotonic() - link.looked > _KNOWN:
            self.epoch = link.look() or self.epoch

    def connect(self, address: Address, *, protocol: int = 2, seconds: float = CONNECT) -> Link:
        """A new link; the caller closes it."""
        if self._check is not None and address not in self.place.hosts:
            self._check(address)
        link = Link(address, self.place, self.place.secret(), mark=self._mark, protocol=protocol, seconds=seconds)
        self.epoch = link.epoch or self.epoch
        link.pace = self._pace = min(self._pace, link.pace)  # another one may have been made while the server hung
        return link

    def lend(self, address: Address, protocol: int = 2, seconds: float = CONNECT, ends: float = math.inf) -> Link:
        """A link on which nothing is under way; to be given back, or closed. A new one may take so many seconds.

        Raises:
            Late: `ends` (monotonic seconds) has passed; the link that was being made is for the next one.
        """
        while (link := self._spare(address, protocol)) is None:
            left = ends - time.monotonic()
            if left > _OPENING:
                return self.connect(address, protocol=protocol, seconds=seconds)
            if not self._openings(address, protocol).wait(max(left, 0.0)):
                raise Late(address)
        return link

    def give(self, link: Link, protocol: int = 2) -> None:
        """Take a link back for the next call."""
        self._troubles.pop(link.address, None)
        idle = self._idle[link.address, protocol]
        if self.closed or len(idle) >= _KEPT:
            link.close()
            return
        link.used = time.monotonic()
        idle.append(link)
        self._drop_if_closed()  # whoever closed meanwhile may have missed this one

    def close(self) -> None:
        """Let go of all links; further calls are refused."""
        self.closed = True
        self._drop()

    def after_fork(self) -> None:
        """In a child: the sockets are its parent's, which goes on talking through them."""
        self._turn = threading.Lock()
        self._finder.after_fork()
        self._begun = {}
        old, self._idle = self._idle, defaultdict(deque)
        for links in old.values():
            for link in links:
                link.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _spare(self, address: Address, protocol: int) -> Link | None:
        """A link that nobody uses, as far as is known still open."""
        idle = self._idle[address, protocol]
        while True:
            try:
                link = idle.pop()
            except IndexError:
                return None
            if time.monotonic() - link.used < _IDLE or not link.stale():
                return link
            link.close()

    def _openings(self, address: Address, protocol: int) -> Beginnings:
        found = self._begun.get((address, protocol))
        if found is None:
            made = Beginnings(partial(self._open, address, protocol), f"Connecting to {self.place.label}")
            found = self._begun.setdefault((address, protocol), made)
        return found

    def _open(self, address: Address, protocol: int) -> None:
        """A new link for whoever wants it, made while who wanted it may leave."""
        try:
            link = self.connect(address, protocol=protocol)
        except FOREIGN as error:
            self._troubles[address] = error
            raise
        self.give(link, protocol)

    def _use(self) -> Finder:
        if self.closed:
            raise ConnectorError(f"{self.place.label} was closed; open it again.")
        return self._finder

    def _at(self, name: bytes, ends: float) -> Callable[[float], Address]:
        """Says which server has a key, if it is told when the call is late."""
        return lambda until: self._use().address(name, until, ends)

    def _drop_if_closed(self) -> None:
        if self.closed:
            self._drop()

    def _drop(self) -> None:
        for links in list(self._idle.values()):
            while links:
                try:
                    links.pop().close()
                except IndexError:
                    break

    def _guarded(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except ProxyfabError:
            raise
        except FOREIGN as error:
            raise translate(error, Doing("finding the servers", self.place.label)) from error

    def _run(
        self,
        where: Callable[[float], Address],
        work: Callable[[Link], T],
        what: str,
        again: bool,
        protocol: int = 2,
        timeout: float | None = None,
        attempts: Attempts | None = None,
        ends: float = math.inf,
    ) -> T:
        started = time.monotonic()
        seconds = self.place.timeout if timeout is None else timeout
        failed: BaseException
        try:
            done = self._once(where(started + seconds), work, seconds, protocol, ends=ends)
        except ProxyfabError:  # some of them are built-in errors, too
            raise
        except FOREIGN as error:
            failed = error  # for below: what fails in here would tell of this one's attempts as well as of its own
        else:
            self._budget.earn()
            return done
        late = f"was not finished within {seconds:g} s (?timeout=)" if protocol == 2 and ends == math.inf else _UNHEARD
        if attempts is None:
            left = max(seconds - (time.monotonic() - started), 0.0)
            attempts = Attempts(self._budget, timeout=left, retryable=partial(self._worth, again=again))
        try:
            return self._again(failed, where, work, Doing(what, self.place.label, late), attempts, protocol, ends)
        finally:
            del failed  # no circle: its traceback holds this frame

    def _once(
        self,
        address: Address,
        work: Callable[[Link], T],
        seconds: float,
        protocol: int,
        asking: bool = False,
        ends: float = math.inf,
    ) -> T:
        try:
            return self._lent(address, work, seconds, protocol, asking, ends)
        except (ProxyfabError, *FOREIGN):  # some of them are built-in errors, too
            raise
        except NONSENSE as error:
            what = f"{type(error).__name__}: {error}"
            raise InvalidResponse(f"what answers says something that makes no sense ({what})") from error

    def _lent(
        self, address: Address, work: Callable[[Link], T], seconds: float, protocol: int, asking: bool, ends: float
    ) -> T:
        until = time.monotonic() + seconds
        link = self.lend(address, protocol, seconds if protocol == 2 else min(seconds, SILENCE), ends)
        try:
            link.begin(until - time.monotonic())
            link.before = ASKING if asking else b""
            done = work(link)
            link.before = b""
        except BaseException as error:
            if not (isinstance(error, Late) and error.link is link):
                link.close()
            raise
        self.give(link, protocol)
        return done

    def _beside(
        self,
        links: list[tuple[Link, list[int]]],
        others: Sequence[tuple[bytes, list[int]]],
        work: Callable[[list[tuple[Link, list[int]]]], T],
        ends: float,
    ) -> T:
        """`work` with one link more for each of the others."""
        lent: list[Link] = []
        try:
            for name, places in others:
                address = self._use().address(name, time.monotonic() + self.place.timeout, ends)
                lent.append(self.lend(address, 3, ends=ends))
                links.append((lent[-1], places))
            done = work(links)
        except BaseException:
            for link in lent:
                link.close()
            raise
        for link in lent:
            self.give(link, 3)
        return done

    def _again(
        self,
        first: BaseException,
        where: Callable[[float], Address],
        work: Callable[[Link], T],
        doing: Doing,
        attempts: Attempts,
        protocol: int,
        ends: float,
    ) -> T:
        """What comes after a first failure: a few more attempts, or the error. To be sent elsewhere is no failure."""
        error, sent = first, 0
        while True:
            asked = error if isinstance(error, AskError) else None
            if asked is None and not is_refusal(error):
                self._use().refresh()  # also where this call may not try again: the next one has to find out anew
            if isinstance(error, ELSEWHERE) and self.place.cluster and sent < _SENT:
                sent += 1
            else:
                pause = attempts.failed(error)
                if pause is None:
                    tried = f" (tried {attempts.number} times)" if attempts.number > 1 else ""
                    raise translate(error, doing._replace(what=doing.what + tried)) from error
                time.sleep(pause)
                sent = 0
            try:
                seconds = max(attempts.left or 0, 0.001)
                address = where(time.monotonic() + seconds) if asked is None else (asked.host, asked.port)
                done = self._once(address, work, seconds, protocol, asked is not None, ends)
            except ProxyfabError:
                raise
            except FOREIGN as next_one:
                error = next_one
            else:
                attempts.succeeded()
                return done
