"""A node server: the loop that receives requests, does them step by step, and answers.

One thread owns the sockets and everything that is known (index, peers, waiters); what may take long runs in a few
threads and comes back as an event. So nothing here needs a lock, and a slow disk or a slow peer delays only its own.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from proxyfab.errors import CapacityError, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.server.answers import Answer
from proxyfab.server.connections import LOOK
from proxyfab.server.far import Far
from proxyfab.server.host import State, Todo
from proxyfab.server.line import Line
from proxyfab.server.options import Options
from proxyfab.server.owners import Owners
from proxyfab.server.peers import Peer, Way
from proxyfab.server.poll import Poll
from proxyfab.server.side import Side
from proxyfab.server.storage import Job, Later, Steps, Storage
from proxyfab.server.verbs import Verbs
from proxyfab.wire.messages import NOBODY, Message, decode, presence_of

_THREADS = 4
_BURST = 32
_AT_ONCE = 32
"""Requests of one connection that are worked on at the same time, or wait for it with what they brought."""
_SWEEP = 1.0
_SLIPS = 100
"""Steps in a row that may fail before the server gives up."""
_LAST_WORDS = 0.25


class Node:
    """A node server. `run` returns when `stop` was called, from a signal handler or another thread.

    Args:
        options: What it serves, where and to whom.
        storage: Where the objects lie; closed at the end.
        is_over: Asked once a second whether to end.
    """

    def __init__(self, options: Options, storage: Storage, is_over: Callable[[], bool] | None = None) -> None:
        self.options = options
        self.storage = storage
        self.incarnation = os.urandom(6).hex()
        self.address = ""
        self.state = State(Owners(lambda process: self.line.reaches(presence_of(process)), options.orphans))
        # Before anything is open: a site without a key is refused here.
        self.far = Far(self, self.state, options.site) if options.site is not None else None
        self.line: Line = Line(options)
        self._poll = Poll()
        self.side = Side(options, self._poll, self)
        self.peers: dict[bytes, Peer] = {}
        self.verbs = Verbs(self, self.state)
        self._workers = ThreadPoolExecutor(_THREADS, thread_name_prefix="proxyfab-server")
        self._done: deque[tuple[Steps, Callable[[Answer], None], Any, BaseException | None]] = deque()
        self._posted: deque[tuple[Callable[[], Todo], Callable[[Answer], None]]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._working = 0
        self._stopping = False
        self._is_over = is_over
        self._swept = 0.0
        self._slips = 0

    # -- the loop ------------------------------------------------------------------------------------------------

    def open(self) -> list[str]:
        """Bind; returns the endpoints, with the ports that were chosen."""
        self.line.open()
        self.side.open(self.line.endpoints)
        self.address = self.options.advertise or _address(self.line.endpoints[0])
        if self.far is not None:
            self.far.open(self.verbs.steps)
        return self.line.endpoints

    def run(self) -> None:
        """Serve until `stop`, then finish what has begun, within limits, and close."""
        self.line.watch(self._poll)
        self._poll.add(self._wake, self._woken)
        try:
            while not self._stopping:
                self._go()
            self._finish()
        finally:
            self._close()

    def _go(self) -> None:
        """One step. A mistake of ours there ends nothing but the step, unless nothing but mistakes come of steps."""
        try:
            self._step(self._pause())
        except Exception as fault:
            self._slips += 1
            if self._slips > _SLIPS:
                raise
            self._fault(fault)
            self.line.look_again()
        else:
            self._slips = 0

    def stop(self) -> None:
        """End soon. May be called from anywhere."""
        self._stopping = True
        self._wake_up()

    def _woken(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _step(self, seconds: float) -> None:
        line = self.line
        self._poll.wait(0 if line.rung else seconds)
        if line.rung:
            self._listen()
        if line.tolled:
            self._mourn()
        if line.knocked:
            line.admit()
        while self._done:
            steps, reply, value, error = self._done.popleft()
            self._working -= 1
            self._go_on(steps, reply, value, error)
        for _ in range(len(self._posted)):  # what is posted meanwhile has its turn behind the clients of this site
            todo, reply = self._posted.popleft()
            self._begin_posted(todo, reply)
        now = time.monotonic()
        self.state.waiters.expire(now)
        line.connections.look(now)
        if now - self._swept > _SWEEP:
            self._swept = now
            self._sweep(now)
        line.settle()

    def _sweep(self, now: float) -> None:
        self.verbs.sweep(now)
        self.side.sweep(now)
        if self.far is not None:
            self.far.sweep()
        if self._is_over is not None and self._is_over():
            self._stopping = True

    def _listen(self) -> None:
        for _ in range(_BURST):
            received = self.line.receive()
            if received is None:
                return
            self._hear(*received)

    def _pause(self) -> float:
        """Seconds until there is something to do without being told."""
        due, longest = self.state.waiters.next(), LOOK if self.line.connections.counted else _SWEEP
        return longest if due is None else min(longest, max(due - time.monotonic(), 0))

    def _finish(self) -> None:
        """Let those who are being served finish, for a few seconds; newcomers are told that this server ends."""
        ends = time.monotonic() + self.options.patience
        while time.monotonic() < ends and self._is_busy():
            self._step(0.05)
        self.verbs.farewell()
        ends = time.monotonic() + _LAST_WORDS
        while self.side.sending and time.monotonic() < ends:
            self._step(0.05)
        time.sleep(max(ends - time.monotonic(), 0))  # what was handed to ZeroMQ is sent by its own thread

    def _is_busy(self) -> bool:
        """Whether somebody is being served."""
        return bool(self._working) or self.side.sending or any(peer.moving for peer in self.peers.values())

    def _close(self) -> None:
        if self.far is not None:
            self.far.close()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self.peers.clear()
        self.side.close()
        self.line.close()
        self._poll.close()
        os.close(self._wake)
        self.storage.close(self.verbs.places())

    # -- peers ---------------------------------------------------------------------------------------------------

    def _hear(self, who: bytes, descriptor: int, parts: list[memoryview]) -> None:
        peer = self.peers.get(who)
        if peer is None or peer.descriptor != descriptor:
            self._mourn()  # an earlier connection may have had this descriptor, or this name
            self.leave(who)
            self.line.meet(who, descriptor)
            peer = self.peers[who] = Peer(who, descriptor, self.line)
        try:
            message = decode(parts)
        except IntegrityError as error:
            self.state.count("malformed")
            peer.send("error", NOBODY, {"kind": "IntegrityError", "text": str(error)})
            return
        if message.verb == "hello" and message.flag("beats"):
            self.line.connections.beats(descriptor)
        self._handle(peer, message)

    def come(self, who: bytes, descriptor: int, way: Way) -> None:
        """A client has come by the side channel."""
        self.peers[who] = Peer(who, descriptor, way)

    def hear(self, who: bytes, message: Message) -> None:
        """It said something."""
        self._handle(self.peers[who], message)

    def place(self, who: bytes, message: Message, nbytes: int) -> list[memoryview]:
        """Where a body of it is to be received."""
        return self.verbs.moves.place(self.peers[who], message, nbytes)

    def leave(self, who: bytes) -> None:
        """It has gone."""
        peer = self.peers.get(who)
        if peer is not None:
            self.drop(peer)

    def holds(self, who: bytes) -> bool:
        """Whether it is in the middle of something."""
        return self.peers[who].holds

    def _mourn(self) -> None:
        gone = set(self.line.gone())
        if gone:
            for peer in [peer for peer in self.peers.values() if peer.descriptor in gone and peer.by(self.line)]:
                self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """Let go of everything that is held for a peer that has gone."""
        if self.peers.pop(peer.who, None) is not None:
            self.side.forget(peer.who)
            self.line.part(peer.who)
            self.verbs.release(peer)

    # -- requests ------------------------------------------------------------------------------------------------

    def _handle(self, peer: Peer, message: Message) -> None:
        try:
            if self.verbs.notice(peer, message):
                return
            if self._stopping:
                raise ConnectorError("The node server is stopping; try another one, or later.")
            self._begin(peer, message)
        except ProxyfabError as error:
            self.send(peer, message.request, refusal(error))
        except Exception as fault:  # noqa: BLE001  # whatever it was, the others are served
            self.send(peer, message.request, self._fault(fault))

    def _fault(self, fault: Exception) -> Answer:
        """A mistake of ours ends one request. The log has it."""
        self.state.count("faults")
        traceback.print_exception(fault, limit=-8)
        return refusal(ConnectorError(f"The node server made a mistake: {type(fault).__name__}: {fault}"))

    def _begin(self, peer: Peer, message: Message) -> None:
        """Start a request, unless it was answered before or is being worked on."""
        if peer.working >= _AT_ONCE:
            raise CapacityError(f"{_AT_ONCE} requests of this connection are being worked on; wait for their answers.")

        def reply(answer: Answer) -> None:
            self.send(peer, message.request, answer)

        if not self.verbs.changes(message.verb):
            self.start(self._counted(peer, self.verbs.steps(peer, message)), reply)
            return

        def start(settle: Callable[[Answer], None]) -> None:
            self.start(self._counted(peer, self.verbs.steps(peer, message)), settle)

        self.state.answers.once(message.request, reply, start)

    def _counted(self, peer: Peer, todo: Todo) -> Todo:
        """The same, counted among what is being worked on for a peer as long as it takes."""
        if todo is None or isinstance(todo, Answer):
            return todo
        return peer.count(todo)

    def _begin_posted(self, todo: Callable[[], Todo], reply: Callable[[Answer], None]) -> None:
        try:
            self.start(todo(), reply)
        except ProxyfabError as error:
            reply(refusal(error))
        except Exception as fault:  # noqa: BLE001  # as in _handle
            reply(self._fault(fault))

    def start(self, todo: Todo, reply: Callable[[Answer], None]) -> None:
        """Do some steps and hand the answer to `reply`."""
        if isinstance(todo, Answer):
            reply(todo)
        elif todo is not None:
            self._go_on(todo, reply)

    def _go_on(
        self, steps: Steps, reply: Callable[[Answer], None], value: Any = None, error: BaseException | None = None
    ) -> None:
        """Go on with some steps until they end, or until something takes longer."""
        while True:
            try:
                job = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                if end.value is not None:
                    reply(end.value)
                return
            except ProxyfabError as wrong:
                reply(refusal(wrong))
                return
            except Exception as fault:  # noqa: BLE001  # as above
                reply(self._fault(fault))
                return
            if isinstance(job, Later):
                self._working += 1
                job.begin(partial(self._ended, steps, reply))
                return
            if not job.quick:
                self._working += 1
                self._workers.submit(self._work, job, steps, reply)
                return
            value, error = _outcome(job)

    def _work(self, job: Job, steps: Steps, reply: Callable[[Answer], None]) -> None:
        self._ended(steps, reply, *_outcome(job))

    def _ended(self, steps: Steps, reply: Callable[[Answer], None], value: Any, error: BaseException | None) -> None:
        """What some steps waited for has ended, in another thread: the loop goes on with them."""
        self._done.append((steps, reply, value, error))
        self._wake_up()

    def post(self, todo: Callable[[], Todo], reply: Callable[[Answer], None]) -> None:
        """Do something in the loop's thread, and hand the answer to `reply` there. From any thread."""
        self._posted.append((todo, reply))
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def send(self, peer: Peer, request: bytes, answer: Answer) -> None:
        """Send an answer; a peer that has gone or does not read is dropped."""
        try:
            sent = peer.send(answer.verb, request, answer.fields, answer.body)
        except (ProxyfabError, ValueError, TypeError, OverflowError) as fault:  # no message can say this
            refused = self._fault(fault)
            sent = peer.send(refused.verb, request, refused.fields)
        if not sent:
            self.drop(peer)


def _address(endpoint: str) -> str:
    """What keys carry of an endpoint: `host:port`, or the path of a socket."""
    return endpoint.removeprefix("tcp://").removeprefix("ipc://")


def _outcome(job: Job) -> tuple[Any, BaseException | None]:
    """What a job comes to. What no connector may raise is a fault of the storage, and ends this request only."""
    try:
        return job.call(), None
    except ProxyfabError as error:
        return None, error
    except Exception as error:  # noqa: BLE001  # a storage is anybody's code; the server outlives it
        return None, ConnectorError(f"The server's storage failed: {type(error).__name__}: {error}")


def refusal(error: ProxyfabError) -> Answer:
    """An error as an answer."""
    return Answer("error", {"kind": type(error).__name__, "text": str(error)[:4096]})
