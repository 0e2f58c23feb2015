"""The relay's loop: who comes shows who he is, waits, is paired, and is passed on. One thread, nothing on a disk.

Rules:
1. Who comes has `Limits.greeting` seconds to say who he is and what he wants, in one letter of a kilobyte, and is
   known by his key. Strangers, registrations, waiting calls and pairs are bounded, and so is what one key may have. Of
   too many strangers the slowest goes.
2. From `go` on bytes are spliced from socket to socket; they never come into this process's memory.
3. A site is registered once: who registers anew with the same key takes the place of his earlier registration.
4. Whatever somebody says or does ends his own connections and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Container
from typing import NamedTuple

from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError
from proxyfab.link.pairing import NONCE, TOKEN, Claim, challenged, written
from proxyfab.link.signing import signed
from proxyfab.osio import sockets
from proxyfab.relay.pipes import Pair
from proxyfab.relay.visitor import Visitor

_TURN = 0.5
_BACKLOG = 512
_PING = 15.0
_SILENCE = 45.0


class Limits(NamedTuple):
    """How much a relay does for how many; times in seconds."""

    strangers: int = 128
    """Connections at most of which it is not known yet whose they are."""
    sites: int = 256
    """Registrations at most."""
    pairs: int = 1024
    """Connected pairs and waiting calls at most."""
    pairs_of_one: int = 256
    """Of one key at most."""
    greeting: float = 10.0
    pairing: float = 10.0
    idle: float = 3600.0
    """How long a pair may be silent."""


class Relay:
    """A relay. `run` returns when `stop` was called, from a signal handler or another thread.

    Args:
        address: Host and port; port 0 is any.
        allowed: Public keys that are served; None for all that can sign.
        limits: How much it does.
    """

    def __init__(
        self, address: tuple[str, int], allowed: Container[bytes] | None = None, limits: Limits | None = None
    ) -> None:
        self._allowed = allowed
        self._limits = limits or Limits()
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConnectorError(f"Cannot listen at {address[0]}:{address[1]}: {error.strerror or error}.") from error
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._acts: dict[int, Callable[[int], None]] = {}
        self._visitors: dict[int, Visitor] = {}
        self._sites: dict[bytes, Visitor] = {}
        self._calls: dict[bytes, Visitor] = {}
        self._pairs: dict[int, Pair] = {}
        self._wished: dict[int, int] = {}
        """What the sockets of pairs are watched for."""
        self._of_one: Counter[bytes] = Counter()
        self._owners: dict[int, tuple[bytes, bytes]] = {}
        self._swept = 0.0
        self._open = True
        self.counters: Counter[str] = Counter()
        """`registered`, `paired`, `refused`, `carried` bytes of pairs that have ended."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def pairs(self) -> int:
        """How many there are now."""
        return len(self._pairs) // 2

    def run(self) -> None:
        """Serve until `stop`."""
        self._watch(self._listener.fileno(), select.EPOLLIN, self._accept)
        self._watch(self._wake, select.EPOLLIN, lambda _: None)
        try:
            while self._open:
                for descriptor, _ in self._epoll.poll(_TURN):
                    act = self._acts.get(descriptor)
                    if act is not None:
                        act(descriptor)
                now = time.monotonic()
                if now - self._swept > _TURN:
                    self._swept = now
                    self._sweep(now)
        finally:
            self._close()

    def stop(self) -> None:
        """End soon. May be called from anywhere."""
        self._open = False
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    # -- who comes -----------------------------------------------------------------------------------------------

    def _accept(self, _: int) -> None:
        for _ in range(32):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody more, or no descriptor is left: asked again in the next turn
                return
            strangers = len(self._visitors) - len(self._sites) - len(self._calls)
            self._welcome(connection)
            if strangers >= self._limits.strangers:  # who is slow goes: or who says nothing kept all others out
                self._refuse(next(each for each in self._visitors.values() if each.claim is None), "It took too long.")

    def _welcome(self, connection: socket.socket) -> None:
        try:
            sockets.tune(connection, silence=5, lost=20, again=1)
            connection.setblocking(False)
            visitor = Visitor(connection, os.urandom(NONCE), time.monotonic())
            self._visitors[visitor.descriptor] = visitor
            self._watch(visitor.descriptor, select.EPOLLIN, self._hear)
            visitor.say(written("challenge", nonce=visitor.nonce))
        except OSError:
            self._acts.pop(connection.fileno(), None)
            self._visitors.pop(connection.fileno(), None)
            connection.close()

    def _hear(self, descriptor: int) -> None:
        visitor = self._visitors[descriptor]
        try:
            for letter in visitor.letters(time.monotonic()):
                if visitor.claim is None:
                    self._admit(visitor, Claim(letter))
                elif letter.verb != "pong":
                    raise IntegrityError("A site that is registered has nothing to say.")
                if descriptor not in self._visitors:
                    return
        except ProxyfabError as error:
            self._refuse(visitor, str(error))
        except OSError:
            self._leave(visitor)

    def _admit(self, visitor: Visitor, claim: Claim) -> None:
        """Who he is, and what he wants."""
        if self._allowed is not None and claim.key not in self._allowed:
            raise ConnectorError("This relay does not serve your key; have it allowed.")
        if not signed(claim.key, claim.signature, challenged(visitor.nonce, claim.verb, claim.target)):
            raise ConnectorError("Your signature is not of your key.")
        visitor.claim = claim
        if claim.verb == "register":
            self._register(visitor, claim)
        elif claim.verb == "call":
            self._call(visitor, claim)
        else:
            self._answer(visitor, claim)

    def _register(self, visitor: Visitor, claim: Claim) -> None:
        before = self._sites.get(claim.key)
        if before is not None:
            self._leave(before)
        if len(self._sites) >= self._limits.sites:
            raise ConnectorError(f"{self._limits.sites} sites are registered already.")
        self._sites[claim.key] = visitor
        self.counters["registered"] += 1
        visitor.say(written("ping"))

    def _call(self, visitor: Visitor, claim: Claim) -> None:
        site = self._sites.get(claim.target)
        if site is None:
            raise ConnectorError("The site that you call is not registered at this relay; is its gateway up?")
        if self.pairs + len(self._calls) >= self._limits.pairs:
            raise ConnectorError(f"{self._limits.pairs} connections are passed on already.")
        waiting = sum(each.claim is not None and each.claim.key == claim.key for each in self._calls.values())
        if self._of_one[claim.key] + waiting >= self._limits.pairs_of_one:
            raise ConnectorError(f"{self._limits.pairs_of_one} connections of your key are passed on already.")
        token = os.urandom(TOKEN)
        visitor.token, visitor.since = token, time.monotonic()
        self._calls[token] = visitor
        try:
            site.say(written("ring", token=token, **{"from": claim.key}))
        except OSError:
            self._leave(site)
            raise ConnectorError("The site that you call has just gone.") from None

    def _answer(self, visitor: Visitor, claim: Claim) -> None:
        caller = self._calls.get(claim.target)
        called = None if caller is None or caller.claim is None else caller.claim.target
        if caller is None or called != claim.key:
            raise ConnectorError("Nobody waits for this answer any more.")
        del self._calls[claim.target]
        caller.token = b""
        for each in (caller, visitor):
            if each.unread:
                raise IntegrityError("A site said more than it was asked.")
        try:
            for each in (caller, visitor):
                each.say(written("go"))
        except OSError:
            self._leave(caller)
            raise
        self._pair(caller, visitor)

    def _pair(self, one: Visitor, other: Visitor) -> None:
        for each in (one, other):
            del self._visitors[each.descriptor]
        pair = Pair(one.connection, other.connection, time.monotonic())
        keys = tuple(each.claim.key for each in (one, other) if each.claim is not None)
        self._of_one.update(keys)
        for each in (one, other):
            self._pairs[each.descriptor] = pair
            self._acts[each.descriptor] = self._move
        self._owners[id(pair)] = (keys[0], keys[1])
        self.counters["paired"] += 1
        self._move(one.descriptor)

    # -- what is passed on -------------------------------------------------------------------------------------------

    def _move(self, descriptor: int) -> None:
        pair = self._pairs[descriptor]
        if not pair.move(time.monotonic()):
            self._part(pair)
            return
        for end in pair.sockets:
            wish = pair.wishes(end) or select.EPOLLET  # of who is not listened to, a hang-up is told once
            if self._wished.get(end.fileno()) != wish:
                self._wished[end.fileno()] = wish
                self._epoll.modify(end.fileno(), wish)

    def _part(self, pair: Pair) -> None:
        for end in pair.sockets:
            del self._pairs[end.fileno()], self._acts[end.fileno()]
            self._wished.pop(end.fileno(), None)
        self._of_one.subtract(self._owners.pop(id(pair)))
        self._of_one += Counter()
        self.counters["carried"] += pair.carried
        pair.close()  # the kernel takes closed descriptors out of the epoll

    # -- who goes ------------------------------------------------------------------------------------------------

    def _refuse(self, visitor: Visitor, why: str) -> None:
        self.counters["refused"] += 1
        with contextlib.suppress(OSError):
            visitor.say(written("no", why=why[:500]))
        self._leave(visitor)

    def _leave(self, visitor: Visitor) -> None:
        if self._visitors.pop(visitor.descriptor, None) is None:
            return
        if visitor.claim is not None and self._sites.get(visitor.claim.key) is visitor:
            del self._sites[visitor.claim.key]
        self._calls.pop(visitor.token, None)
        del self._acts[visitor.descriptor]
        visitor.connection.close()

    def _sweep(self, now: float) -> None:
        for visitor in list(self._visitors.values()):
            if visitor.claim is not None and visitor.claim.verb == "register":
                self._look_after(visitor, now)
            elif now - visitor.since > (self._limits.pairing if visitor.token else self._limits.greeting):
                self._refuse(visitor, "It took too long; the site that you call did not come." if visitor.token else "")
        for pair in {id(pair): pair for pair in self._pairs.values()}.values():
            if now - pair.moved > self._limits.idle:
                self._part(pair)

    def _look_after(self, visitor: Visitor, now: float) -> None:
        if now - visitor.heard > _SILENCE:
            self._leave(visitor)
        elif now - visitor.said > _PING:
            try:
                visitor.say(written("ping"))
            except OSError:
                self._leave(visitor)

    def _watch(self, descriptor: int, events: int, act: Callable[[int], None]) -> None:
        self._acts[descriptor] = act
        self._epoll.register(descriptor, events)

    def _close(self) -> None:
        for visitor in list(self._visitors.values()):
            self._leave(visitor)
        for pair in {id(pair): pair for pair in self._pairs.values()}.values():
            self._part(pair)
        self._listener.close()
        self._epoll.close()
        os.close(self._wake)
