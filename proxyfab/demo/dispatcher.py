"""The dispatcher: decides which worker gets which frame, and never opens a body.

It has no array library: bodies pass through as they came, whether they are references or the arrays themselves.
`Router` decides (pure), `run` does.
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Mapping
from time import process_time
from typing import NamedTuple

from proxyfab.demo.channel import Channel, Header, Message, Silence
from proxyfab.demo.role import now, play, report
from proxyfab.demo.setup import Setup

_CREDIT = 2
"""Frames a worker may hold: one under work, one at hand."""
_BACKLOG = 4
"""Frames per worker that may wait here; with more the instrument is not listened to, and so is held up."""


class Delivery(NamedTuple):
    """To whom a message goes."""

    peer: str
    message: Message


class Router:
    """Who gets what. No I/O: messages in, deliveries out."""

    def __init__(self, workers: int) -> None:
        self._credit = {f"worker-{i}": _CREDIT for i in range(workers)}
        self._unready = {"instrument", *self._credit}
        self._unreported = {"instrument", *self._credit}
        self._served = dict.fromkeys(self._credit, 0)
        self._waiting: deque[Message] = deque()

    @property
    def finished(self) -> bool:
        """Whether everybody has reported."""
        return not self._unreported

    @property
    def full(self) -> bool:
        """Whether enough frames wait."""
        return len(self._waiting) >= _BACKLOG * len(self._credit)

    def arrived(self, peer: str, message: Message) -> list[Delivery]:
        """What follows from a message."""
        match message.kind:
            case "preparing":
                return [Delivery("main", message)]
            case "ready":
                return self._ready(peer)
            case "calibration":
                return [Delivery(worker, message) for worker in self._credit]
            case "frame":
                self._waiting.append(message)
                return self._hand_out()
            case "image":
                return self._image(peer, message)
            case "report":
                return self._report(peer, message)
        raise ValueError(f"{peer} sent a message of unknown kind {message.kind!r}.")

    def _ready(self, peer: str) -> list[Delivery]:
        self._unready.discard(peer)
        if self._unready:
            return []
        go = Message({"kind": "go"})
        return [Delivery("main", go), Delivery("instrument", go)]

    def _image(self, peer: str, message: Message) -> list[Delivery]:
        self._credit[peer] += 1
        signed = Message({**message.header, "worker": peer}, message.body)
        return [Delivery("main", signed), *self._hand_out(), *self._end()]

    def _report(self, peer: str, message: Message) -> list[Delivery]:
        self._unreported.discard(peer)
        named = Delivery("main", Message({**message.header, "name": peer}))
        return [named, *(self._end() if peer == "instrument" else [])]

    def _hand_out(self) -> list[Delivery]:
        """Waiting frames, oldest first, to the workers that hold least and, among them, have had fewest."""
        deliveries = []
        while self._waiting:
            worker = max(self._credit, key=lambda name: (self._credit[name], -self._served[name]))
            if not self._credit[worker]:
                break
            self._credit[worker] -= 1
            self._served[worker] += 1
            deliveries.append(Delivery(worker, self._waiting.popleft()))
        return deliveries

    def _end(self) -> list[Delivery]:
        """The end for all workers, once the instrument has ended and no frame is under way."""
        busy = self._waiting or any(credit < _CREDIT for credit in self._credit.values())
        if busy or "instrument" in self._unreported:
            return []
        return [Delivery(worker, Message({"kind": "end"})) for worker in self._credit]


def run(setup: Setup, channels: Mapping[str, Channel]) -> None:
    """Pass messages on until everybody has reported."""
    router = Router(setup.workers)
    speaking, since = dict(channels), process_time()
    while not router.finished:
        for peer in _ready(speaking, setup.deadline, deaf_to="instrument" if router.full else ""):
            heard = now()
            message = channels[peer].receive()
            stamps = [heard, now()]
            for to, what in router.arrived(peer, message):
                channels[to].send(_stamped(what.header, stamps) if what.kind == "frame" else what.header, what.body)
            if message.kind == "report":
                del speaking[peer]
    channels["main"].send(report("dispatcher", channels, since=since))


def _ready(channels: Mapping[str, Channel], deadline: float, *, deaf_to: str) -> list[str]:
    """Who has something to say."""
    with selectors.DefaultSelector() as selector:
        for peer, channel in channels.items():
            if peer != deaf_to:
                selector.register(channel, selectors.EVENT_READ, peer)
        ready = [key.data for key, _ in selector.select(deadline)]
    if not ready:
        raise Silence(f"Nobody said anything for {deadline:g} s; --deadline makes it longer, for a busy machine.")
    return ready


def _stamped(header: Header, stamps: list[float]) -> Header:
    return {**header, "times": [*header["times"], *stamps, now()]}


if __name__ == "__main__":
    play(run)
