"""A world in which the ownership protocol runs as it is, while everything around it is played: seeded, in no time.

Processes with clocks that are off and do not run alike; a network that loses requests, and answers after they took
effect; messages that arrive never, once or twice; processes that are stopped for leases, or killed; time that passes
between any two steps. What must hold is looked at after each step, by somebody who sees everything.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from proxyfab.errors import ConnectorError
from proxyfab.patterns.ownership.book import Account, Session
from proxyfab.patterns.ownership.protocol import HELD, Evict, Look, Now, Pause, Read, ReadMany, Renew, Seen, Swap
from proxyfab.wire.owned import Record, decode, is_vacant
from tests.patterns.lives import LEASE, Get, Handle, Lives, Process, Put, Steps

known = lru_cache(10_000)(decode)


class Violation(AssertionError):
    """Something that must never happen did."""


@dataclass(eq=False)
class Task:
    """One operation on its way."""

    process: Process
    kind: str
    steps: Steps
    handle: Handle | None
    account: Account | None
    began: float
    done: Callable[[Any], None] | None = None
    request: Any = None
    answer: tuple[Any, Exception | None] | None = None


class World(Lives):
    """One schedule.

    Args:
        seed: Decides everything.
        calm: Nobody is stopped or killed, nothing is lost or late: then nobody may lose anything either.
    """

    def __init__(self, seed: int, *, calm: bool = False) -> None:
        self.chance = random.Random(seed)
        self.calm = calm
        self.faulty = 0.0 if calm else self.chance.choice((0.0, 0.02, 0.15))
        self.pace = self.chance.choice((0.1, 1.0, LEASE / 2))
        self.now = 0.0
        self.touched = False
        self.objects: dict[str, tuple[Any, float]] = {}
        self.ended: dict[str, float] = {}
        self.records: set[str] = set()
        self.taken: set[str] = set()
        self.acts: dict[tuple[str, int], tuple[str, int]] = {}
        self.names = itertools.count(1)
        self.tasks: list[Task] = []
        self.messages: list[dict[str, Any]] = []
        self.plain: list[str] = []
        self.processes = [self.process() for _ in range(self.chance.randint(2, 4))]
        self.story: list[str] = []
        self.counts: dict[str, int] = {}

    # -- the place ---------------------------------------------------------------------------------------------------

    def there(self, key: str) -> Any:
        found = self.objects.get(key)
        return found[0] if found is not None and found[1] > self.now else None

    def record(self, key: str) -> Record | None:
        raw = self.there(key)
        return None if raw is None else known(raw)

    def serve(self, task: Task, request: Any) -> Any:
        self.touched = True
        if isinstance(request, Swap):
            return self.swap(task, request)
        if isinstance(request, Read):
            return self.there(request.key)
        if isinstance(request, ReadMany):
            return [self.there(key) for key in request.keys]
        if isinstance(request, Renew):
            return [self.renew(key, request.ttl) for key in request.keys]
        if isinstance(request, Look):
            dead = frozenset(key for key in request.sessions if self.there(key) is None)
            alive = frozenset(request.sessions) - dead
            return Seen(dead, alive if self.chance.random() < 0.3 else frozenset())
        if isinstance(request, Put):
            self.objects[request.key] = (b"data", self.now + request.ttl)
            return None
        if isinstance(request, Get):
            return self.read(task, request)
        assert isinstance(request, Evict)
        self.objects.pop(request.key, None)
        return True

    def renew(self, key: str, ttl: float) -> bool:
        value = self.there(key)
        if value is not None:
            self.objects[key] = (value, self.now + ttl)
        return value is not None

    def swap(self, task: Task, swap: Swap) -> bool:
        if self.there(swap.key) != swap.old:
            return False
        self.judge(task, swap)
        if swap.new is None:
            self.objects.pop(swap.key, None)
            self.ended[swap.key] = self.now
        else:
            assert swap.ttl is not None
            self.objects[swap.key] = (swap.new, self.now + swap.ttl)
            self.records.add(swap.key)
        return True

    def read(self, task: Task, get: Get) -> bool:
        found = self.there(get.key) is not None
        handle = task.handle
        assert handle is not None
        if found and handle.session is not None and self.believes(task.process, handle.session):
            record = self.record(handle.account.key)
            doubtful = handle.account.key in task.process.doubts
            if not doubtful and (record is None or record.data != get.key):
                raise Violation(f"{task.process.name} reads {get.key}, which is not what {record} names")
        return found

    # -- what must hold ----------------------------------------------------------------------------------------------

    def believes(self, process: Process, session: Session) -> bool:
        return session.valid(process.clock(self.now))

    def judge(self, task: Task, swap: Swap) -> None:
        """A change is about to take effect."""
        old = None if swap.old is None else known(swap.old)
        new = None if swap.new is None else known(swap.new)
        if old is None:
            self.judge_first(task, swap.key)
            return
        if is_vacant(old):
            if new not in (None, old):
                raise Violation(f"{swap.key} rises from its grave")
            return
        if new is not None:
            self.judge_next(swap.key, old, new)
        claim = None if task.handle is None else task.handle.claim
        if claim is None or task.handle is None or task.handle.state != "held":
            return  # nothing is held before it was taken
        if task.kind not in ("update", "send", "release", "borrow", "borrow_mut"):
            return
        mine = [old.owner.holder, old.mutable.holder, *old.shared]
        if not any(claim.same(other) for other in mine):
            raise Violation(f"{task.process.name} has its {task.kind} accepted and holds nothing")
        if claim.same(old.owner.holder):
            name = (claim.session, claim.number)
            if self.acts.setdefault((swap.key, old.epoch), name) != name:
                raise Violation(f"{swap.key} has two owners that act in one epoch")

    def judge_next(self, key: str, old: Record, new: Record) -> None:
        """One record follows another."""
        if new.mutable.holder is not None and new.shared:
            raise Violation(f"{key} is borrowed in both ways")
        if new.epoch - old.epoch not in (0, 1) or new.version - old.version not in (0, 1):
            raise Violation(f"{key} jumps from {old} to {new}")
        moved = new.owner.holder is not None and new.owner.holder != old.owner.holder
        if moved and new.epoch != old.epoch + 1:
            raise Violation(f"{key} has another owner in one epoch")
        self.taken |= {new.owner.taken, new.mutable.taken}

    def judge_first(self, task: Task, key: str) -> None:
        """An object gets its first record."""
        if key in self.records and task.kind not in ("own", "adopt"):  # whose first attempt nobody was told of
            raise Violation(f"{key} rises from the dead")
        if task.kind == "adopt":  # of what outlived its record, as an eviction was lost: all begins anew
            self.acts = {where: who for where, who in self.acts.items() if where[0] != key}
        self.ended.pop(key, None)

    def look(self) -> None:
        """Whoever may believe that he holds something holds it, and it is there."""
        self.touched = False
        for key in [key for key in self.records if key not in self.ended and self.there(key) is None]:
            self.ended[key] = self.now
        for process in self.processes:
            if not process.alive:
                continue
            busy = {id(task.account) for task in self.tasks if task.process is process and task.kind != "tend"}
            for account in process.book.kept.values():
                if id(account) not in busy and account.key not in process.doubts:
                    self.look_at(process, account)
            for handle in process.handles:
                if handle.state == "sent" and not handle.busy and self.calm:
                    self.look_for(process, handle)

    def look_at(self, process: Process, account: Account) -> None:
        record = self.record(account.key)
        for number, session in account.claims.items():
            if not self.believes(process, session) or (number == 0 and account.ticket in self.taken):
                continue
            if record is None:
                raise Violation(f"{process.name} holds {account.key}, which is gone")
            claims = [record.owner.holder, record.mutable.holder, *record.shared]
            named = {(claim.session, claim.number) for claim in claims if claim}
            if number and (session.text, number) not in named:
                raise Violation(f"{process.name} believes in claim {number} on {account.key}, which {record} lacks")
            if number and self.there(record.data) is None:
                raise Violation(f"{process.name} holds {account.key}, whose data are gone")

    def look_for(self, process: Process, handle: Handle) -> None:
        """What was sent, and nobody has taken, is kept."""
        lost = handle.ticket not in self.taken and self.record(handle.account.key) is None
        if lost and handle.session is not None and self.believes(process, handle.session):
            raise Violation(f"{process.name} sent {handle.account.key}, which is gone before anybody took it")

    def judge_end(self, task: Task, success: bool) -> None:
        account = task.account
        if (
            not success
            or account is None
            or task.kind not in ("take", "join", "borrow", "borrow_mut", "update", "send")
        ):
            return
        ended = self.ended.get(account.key)
        if ended is not None and ended < task.began:
            raise Violation(f"{task.kind} of {account.key} succeeds after its end")

    # -- time and chance ---------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
        self.finish()

    def step(self) -> None:
        dice = self.chance.random()
        runnable = [task for task in self.tasks if self.runs(task.process)]
        if runnable and dice < 0.75:
            self.act(self.chance.choice(runnable))
        elif dice < 0.88:
            self.begin()
        elif dice < 0.93:
            self.pass_time(self.chance.choice((0.001, 0.01, 0.1, self.pace)))
        elif dice < 0.99:
            self.deliver()
        elif not self.calm:
            self.strike()
        if self.touched:
            self.look()

    def runs(self, process: Process) -> bool:
        return process.alive and process.stopped_until <= self.now

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + LEASE / 20)
            self.tend()
            self.look()
            if self.calm:
                self.drain()

    def tend(self) -> None:
        for process in self.processes:
            if self.runs(process) and not process.tending:
                for session in list(process.book.sessions.values()):
                    if process.due.setdefault(session.text, process.clock(self.now) + LEASE / 3) <= process.clock(
                        self.now
                    ):
                        self.start_tend(process, session)
                        break

    def start_tend(self, process: Process, session: Session) -> None:
        began = process.clock(self.now)
        process.tending = True
        doubts = set(process.doubts)  # what is doubtful from now on is found out by the next one

        def done(error: Any) -> None:
            process.tending = False
            failed = isinstance(error, Exception)
            process.due[session.text] = (process.clock(self.now) + 1.0) if failed else began + LEASE / 3
            if not failed:
                process.doubts -= doubts

        self.launch(process, "tend", process.book.tend(session, began), done=done)

    def strike(self) -> None:
        process = self.chance.choice(self.processes)
        if self.chance.random() < 0.6:
            process.stopped_until = self.now + self.chance.choice((0.5, 1.0, 2.0, 4.0)) * LEASE
            self.say(f"stop {process.name}")
            return
        self.say(f"kill {process.name}")
        self.kill(process)
        self.processes.append(self.process())

    def kill(self, process: Process) -> None:
        process.alive = False
        self.tasks = [task for task in self.tasks if task.process is not process]

    def say(self, line: str) -> None:
        self.story.append(f"{self.now:9.3f} {line}")

    # -- tasks -------------------------------------------------------------------------------------------------------

    def launch(
        self,
        process: Process,
        kind: str,
        steps: Steps,
        handle: Handle | None = None,
        account: Account | None = None,
        done: Callable[[Any], None] | None = None,
    ) -> Task:
        task = Task(process, kind, steps, handle, account, self.now, done)
        if handle is not None:
            handle.busy = True
        self.tasks.append(task)
        self.go_on(task, None, None)
        return task

    def act(self, task: Task) -> None:
        """A request reaches the place, or an answer the process."""
        if task.answer is not None:
            answer, task.answer = task.answer, None
            self.go_on(task, *answer)
            return
        request = task.request
        if isinstance(request, Now):
            self.go_on(task, task.process.clock(self.now), None)
        elif isinstance(request, Pause):
            self.go_on(task, request.number < (4 if request.why == HELD else 12), None)
        elif self.chance.random() < self.faulty:
            if self.chance.random() < 0.5:
                self.serve(task, request)
            task.answer = (None, None if isinstance(request, Evict) else ConnectorError("lost"))
        else:
            task.answer = (self.serve(task, request), None)

    def go_on(self, task: Task, answer: Any, error: Exception | None) -> None:
        try:
            task.request = task.steps.send(answer) if error is None else task.steps.throw(error)
        except StopIteration as end:
            self.end(task, end.value)
        except ConnectorError as failed:
            self.end(task, failed)

    def end(self, task: Task, value: Any) -> None:
        self.tasks.remove(task)
        self.touched = True
        failed = isinstance(value, Exception)
        if failed and task.account is not None and task.kind != "tend":
            task.process.doubts.add(task.account.key)
        if task.handle is not None:
            task.handle.busy = False
        self.judge_end(task, success=value is True)
        if task.kind != "tend":
            outcome = "failed" if failed else str(value)
            self.say(f"{task.process.name} {task.kind} {task.account.key if task.account else ''}: {outcome}")
            self.counts[f"{task.kind} {outcome}"] = self.counts.get(f"{task.kind} {outcome}", 0) + 1
            if self.calm and outcome in ("lapsed", "failed", "missing"):
                raise Violation(f"{task.kind} of {task.process.name} {outcome} in a calm world")
        if task.done is not None:
            task.done(value)

    def drain(self) -> None:
        for _ in range(100_000):
            runnable = [task for task in self.tasks if self.runs(task.process)]
            if not runnable:
                return
            self.act(self.chance.choice(runnable))
        raise Violation("it never ends")

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All let go of what they have, or die: nothing may be left when lease and grace have passed."""
        self.faulty = 0.0
        if not self.calm and self.chance.random() < 0.3:
            for process in self.processes:
                self.kill(process)
        for process in self.processes:
            process.stopped_until = 0.0
        self.drain()
        for state, way in (("sent", self.reclaim), ("held", self.drop)):
            for process in [each for each in self.processes if each.alive]:
                for handle in [h for h in process.handles if h.state == state]:
                    self.launch(
                        process, "drop" if state == "held" else "take back", way(handle), handle, handle.account
                    )
            self.drain()
            self.look()
        for process in self.processes:
            process.handles.clear()
        for _ in range(20):
            self.pass_time(LEASE / 5)
            self.drain()
        left = [key for key in self.objects if self.there(key) is not None]
        if left:
            raise Violation(f"{left} are left when lease and grace have passed")
