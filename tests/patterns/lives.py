"""What processes of the simulated world do with what they hold: the steps of the real thing, without proxies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from proxyfab.errors import ConnectorError
from proxyfab.patterns.ownership.book import Account, Book, Session
from proxyfab.patterns.ownership.protocol import Evict, Pause, Read
from proxyfab.wire import owning
from proxyfab.wire.owned import ADOPTED, Claim, keep, silence

LEASE = 10.0
Steps = Generator[Any, Any, Any]


@dataclass(frozen=True)
class Put:
    """Store an object, to expire in `ttl` seconds."""

    key: str
    ttl: float


@dataclass(frozen=True)
class Get:
    """Read data under a claim; answer: whether they are there."""

    key: str


@dataclass(eq=False)
class Handle:
    """What a proxy has behind it, without the proxy."""

    role: str
    process: Process
    account: Account
    claim: Claim | None = None
    session: Session | None = None
    state: str = "held"
    ticket: str = ""
    version: int | None = None
    lends: bool = False
    busy: bool = False


@dataclass(eq=False)
class Process:
    """Its clock, its book and what it does."""

    name: str
    rate: float
    offset: float
    alive: bool = True
    stopped_until: float = 0.0
    book: Book = field(default_factory=Book)
    due: dict[str, float] = field(default_factory=dict)
    tending: bool = False
    making: bool = False
    handles: list[Handle] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    doubts: set[str] = field(default_factory=set)

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now


class Lives:
    """Operations as generators of requests; a World runs them."""

    chance: random.Random
    now: float
    names: itertools.count[int]
    processes: list[Process]
    messages: list[dict[str, Any]]
    plain: list[str]
    """Keys of what was put to be adopted."""

    def launch(self, process: Process, kind: str, steps: Steps, *parts: Any, **options: Any) -> object:
        raise NotImplementedError

    def runs(self, process: Process) -> bool:
        raise NotImplementedError

    def say(self, line: str) -> None:
        raise NotImplementedError

    def process(self) -> Process:
        """Another one."""
        return Process(f"p{next(self.names)}", self.chance.uniform(0.95, 1.05), self.chance.uniform(-1e6, 1e6))

    def begin(self) -> None:
        process = self.chance.choice([each for each in self.processes if self.runs(each)] or [self.process()])
        if process not in self.processes:
            return
        handles = [h for h in process.handles if not h.busy and h.state != "over"]
        if self.chance.random() < 0.06:
            self.begin_to_adopt(process)
            return
        if not handles or self.chance.random() < 0.05:
            if process.making:
                return
            account = Account(f"r{next(self.names)}", LEASE)
            process.accounts[account.key] = account
            self.launch(process, "own", self.own(process, account), account=account)
            return
        handle = self.chance.choice(handles)
        ways = {
            "owner": ["read", "borrow", "borrow_mut", "update", "release", "send", "send", "drop"],
            "mutable": ["read", "update", "update", "release", "send", "drop"],
            "shared": ["read", "borrow", "release", "post", "drop"],
        }[handle.role]
        way = "reclaim" if handle.state == "sent" else self.chance.choice(ways)
        if way == "post":
            self.post(handle, "")
        else:
            steps = {
                "read": self.use,
                "borrow": self.borrow,
                "borrow_mut": self.borrow_mut,
                "update": self.update,
                "release": self.release,
                "send": self.send,
                "drop": self.drop,
                "reclaim": self.reclaim,
            }[way](handle)
            self.launch(process, way, steps, handle, handle.account)

    def post(self, handle: Handle, ticket: str) -> None:
        role = handle.role
        self.messages.append(
            {"role": role, "key": handle.account.key, "ticket": ticket, "version": handle.version, "left": 2}
        )

    def deliver(self) -> None:
        """A message arrives: perhaps once more, perhaps elsewhere; some never do."""
        receivers = [each for each in self.processes if self.runs(each)]
        if not self.messages or not receivers:
            return
        message, process = self.chance.choice(self.messages), self.chance.choice(receivers)
        message["left"] -= 1
        if message["left"] == 0 or self.chance.random() < 0.5:
            self.messages.remove(message)
        account = process.accounts.setdefault(message["key"], Account(message["key"], LEASE))
        handle = Handle(message["role"], process, account, state="arrived", ticket=message["ticket"])
        handle.version, handle.lends = message["version"], True
        process.handles.append(handle)
        self.say(f"{process.name} gets {message}")

    def session(self, process: Process) -> Steps:
        while process.making:  # by another thread, for which this one waits
            yield Pause("making", 1)
        session = process.book.sessions.get(LEASE)
        if session is not None and process.book.use(session, process.clock(self.now)):
            return session
        if session is not None and (yield from self.alive(process, session)):
            return session
        if process.making:
            return (yield from self.session(process))
        process.making = True
        try:
            began, key = process.clock(self.now), f"s{next(self.names)}"
            yield Put(key, silence(LEASE))
            session = process.book.sessions[LEASE] = Session(key, LEASE, began, 1)
        finally:
            process.making = False
        return session

    def alive(self, process: Process, session: Session) -> Steps:
        now = process.clock(self.now)
        if not session.lost and not session.valid(now):
            yield from process.book.revive(session, now)
        return session.valid(process.clock(self.now))

    def own(self, process: Process, account: Account) -> Steps:
        session = yield from self.session(process)
        began, data = process.clock(self.now), f"d{next(self.names)}"
        yield Put(data, keep(LEASE))
        claim, account.data = session.claim(process.name, 0.0), data
        rule = owning.found(claim, data, LEASE)
        outcome = yield from process.book.enter(account, rule, claim, arrives=False, began=began, believed=True)
        return self.sat(Handle("owner", process, account), outcome, claim, session)

    def begin_to_adopt(self, process: Process) -> None:
        """Put something with a time to live, or own what a plain reference names, which others may have done."""
        if process.making:
            return
        if not self.plain or self.chance.random() < 0.3:
            self.launch(process, "put", self.put_plain(), account=None)
            return
        data = self.chance.choice(self.plain)
        account = process.accounts.setdefault(data + ADOPTED, Account(data + ADOPTED, LEASE))
        self.launch(process, "adopt", self.adopt(process, account, data), account=account)

    def put_plain(self) -> Steps:
        """An object that nobody owns yet, and that goes by itself."""
        data = f"d{next(self.names)}"
        yield Put(data, keep(LEASE))
        self.plain.append(data)
        return True

    def adopt(self, process: Process, account: Account, data: str) -> Steps:
        """As `verbs.adopt` and `seats.adopted` do."""
        if (yield Read(data)) is None:
            return "expired"
        session = yield from self.session(process)
        claim = session.claim(process.name, 0.0)
        account.data = account.data or data
        outcome = yield from process.book.enter(account, owning.adopt(claim, data, LEASE), claim, arrives=True)
        if outcome.refused is not None and outcome.refused.reason == owning.LAPSED:
            return "overtaken"  # whoever owned it released it since it was seen
        return self.sat(Handle("owner", process, account), outcome, claim, session)

    def sat(self, handle: Handle, outcome: Any, claim: Claim, session: Session) -> Any:
        if outcome.refused is not None:
            return outcome.refused.reason
        handle.claim, handle.session, handle.state = claim, session, "held"
        if outcome.record is not None:
            handle.version = outcome.record.version
        if handle not in handle.process.handles:
            handle.process.handles.append(handle)
        return True

    def here(self, handle: Handle) -> Steps:
        """True, or why not; what has arrived is taken."""
        process, account = handle.process, handle.account
        if handle.state == "arrived":
            return (yield from self.arrive(handle))
        assert handle.claim is not None
        assert handle.session is not None
        if handle.state != "held":
            return handle.state
        alive = yield from self.alive(process, handle.session)
        if not alive or handle.claim.number not in account.claims:
            return "lapsed"
        return True

    def arrive(self, handle: Handle) -> Steps:
        process, account = handle.process, handle.account
        session = yield from self.session(process)
        if handle.claim is None or handle.claim.session != session.text:
            handle.claim = session.claim(process.name, 0.0)
        claim = handle.claim
        if handle.role == "shared":
            rule, waits = owning.borrow(claim, version=handle.version), {owning.CHANGING}
        else:
            rule, waits = owning.take(claim, handle.ticket, handle.role), {owning.TAKEN}
        outcome = yield from process.book.enter(account, rule, claim, arrives=True, waits=waits)
        return self.sat(handle, outcome, claim, session)

    def use(self, handle: Handle) -> Steps:
        here = yield from self.here(handle)
        if here is not True:
            return here
        account = handle.account
        if handle.role == "owner" and handle.lends:
            outcome = yield from handle.process.book.alter(account, owning.check(handle.claim))
            if outcome.refused is not None:
                return outcome.refused.reason
            handle.lends = False
        # Others may let this process know the record's newest data; what was borrowed has not changed since.
        return True if (yield Get(account.data)) else "missing"

    def borrow(self, handle: Handle) -> Steps:
        here = yield from self.here(handle)
        if here is not True:
            return here
        process, account = handle.process, handle.account
        session = yield from self.session(process)
        claim = session.claim(process.name, 0.0)
        rule = owning.borrow(claim, base=handle.claim)
        return (yield from self.entered(Handle("shared", process, account), rule, claim, session))

    def borrow_mut(self, handle: Handle) -> Steps:
        here = yield from self.here(handle)
        if here is not True:
            return here
        process, account = handle.process, handle.account
        session = yield from self.session(process)
        claim = session.claim(process.name, 0.0)
        handle.lends = True
        rule = owning.borrow_mut(claim, handle.claim)
        return (yield from self.entered(Handle("mutable", process, account), rule, claim, session))

    def entered(self, handle: Handle, rule: Any, claim: Claim, session: Session) -> Steps:
        process, account = handle.process, handle.account
        believed = account.raw is not None
        try:
            outcome = yield from process.book.enter(account, rule, claim, arrives=False, believed=believed)
        except ConnectorError:
            doubt = Handle(handle.role, process, account, claim, session)
            self.launch(process, "give back", self.settle(doubt), account=account)
            raise
        return self.sat(handle, outcome, claim, session)

    def update(self, handle: Handle) -> Steps:
        here = yield from self.here(handle)
        if here is not True:
            return here
        process, account = handle.process, handle.account
        began, data = process.clock(self.now), f"d{next(self.names)}"
        yield Put(data, keep(LEASE))
        outcome = yield from process.book.alter(account, owning.update(handle.claim, data), began=began)
        if outcome.refused is not None:
            yield Evict(data)
            return outcome.refused.reason
        return True

    def release(self, handle: Handle) -> Steps:
        here = yield from self.here(handle)
        if here is not True:
            return here
        if handle.role != "owner":
            yield from self.drop(handle)
            return True
        rule = owning.release(handle.claim, strict=True)
        outcome = yield from handle.process.book.alter(handle.account, rule, believed=handle.account.raw is not None)
        if outcome.refused is not None:
            return outcome.refused.reason
        self.over(handle)
        return True

    def drop(self, handle: Handle) -> Steps:
        """It is collected: what it held is given back in the background, as often as need be."""
        if handle.state != "held":
            handle.state = "over"
            return True
        handle.state = "over"
        return (yield from self.settle(handle))

    def settle(self, handle: Handle) -> Steps:
        assert handle.claim is not None
        owner = handle.role == "owner"
        rule = owning.release(handle.claim, strict=False) if owner else owning.give_back(handle.claim)
        while True:
            try:
                yield from handle.process.book.alter(handle.account, rule, believed=handle.account.raw is not None)
            except ConnectorError:
                yield Pause("failed", 1)
            else:
                self.over(handle)
                return True

    def over(self, handle: Handle) -> None:
        assert handle.claim is not None
        handle.state = "over"
        handle.process.book.let_go(handle.account, handle.claim)

    def send(self, handle: Handle) -> Steps:
        here = yield from self.here(handle)
        if here is not True:
            return here
        ticket = f"t{next(self.names)}"
        rule = owning.send(handle.claim, ticket, handle.role)
        outcome = yield from handle.process.book.alter(handle.account, rule, believed=handle.account.raw is not None)
        if outcome.refused is not None:
            return outcome.refused.reason
        handle.ticket, handle.state = ticket, "sent"
        handle.process.book.let_go(handle.account, handle.claim, ticket)
        if self.chance.random() < 0.8:
            self.post(handle, ticket)
        return True

    def reclaim(self, handle: Handle) -> Steps:
        process, account = handle.process, handle.account
        session = yield from self.session(process)
        claim = handle.claim
        if claim is None or claim.session != session.text:
            claim = session.claim(process.name, 0.0)
        rule = owning.reclaim(claim, handle.ticket, handle.role)
        outcome = yield from process.book.enter(account, rule, claim, arrives=True)
        if outcome.refused is not None:
            handle.state = "over" if outcome.refused.reason != owning.TAKEN else "sent"
            return outcome.refused.reason
        process.book.stays(account, account.ticket)
        return self.sat(handle, outcome, claim, session)
