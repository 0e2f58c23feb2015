"""A worker: takes what a detector counted, computes the picture and hands it back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from time import process_time
from typing import Any

from proxyfab.demo.carrier import Carrier, carrier
from proxyfab.demo.channel import Channel, Message
from proxyfab.demo.role import now, play, report
from proxyfab.demo.setup import Setup
from proxyfab.demo.tomography import Scanner, line_integrals


class Inbox:
    """Messages as they arrive, taken from the channel by a thread, so that no sender waits for a reconstruction."""

    def __init__(self, channel: Channel) -> None:
        self._queue: queue.SimpleQueue[tuple[Message, float] | OSError] = queue.SimpleQueue()
        threading.Thread(target=self._fill, args=(channel,), daemon=True, name="inbox").start()

    def _fill(self, channel: Channel) -> None:
        try:
            while True:
                message = channel.receive()
                self._queue.put((message, now()))
                if message.kind == "end":
                    return
        except OSError as error:  # a hangup or silence: raised again where the message is asked for
            self._queue.put(error)

    def take(self) -> tuple[Message, float]:
        """The next message, and when it arrived."""
        item = self._queue.get()  # its deadline is the channel's
        if isinstance(item, OSError):
            raise item
        return item


def run(setup: Setup, channels: Mapping[str, Channel]) -> None:
    """Reconstruct whatever comes until the end."""
    dispatcher = channels["dispatcher"]
    scanner, carry = Scanner(setup.size, setup.angles), carrier(setup)
    inbox = Inbox(dispatcher)
    dispatcher.send({"kind": "ready"})
    since = process_time()
    calibration: Any = None
    while True:
        message, arrived = inbox.take()
        if message.kind == "calibration":
            with carry.opened(message.body) as calibration:
                continue
        if message.kind == "end":
            break
        header, body = _reconstruct(message, arrived, carry, scanner, calibration)
        dispatcher.send(header, body)
    dispatcher.send(report("worker", channels, carry.stats(), since=since))


def _reconstruct(
    message: Message, arrived: float, carry: Carrier, scanner: Scanner, calibration: Any
) -> tuple[dict[str, Any], bytes]:
    """The `image` message that answers a `frame` message."""
    begun = now()
    with carry.opened(message.body) as counts:
        loaded = now()
        picture = scanner.reconstruct(line_integrals(counts, *calibration))
        reconstructed = now()
        body = carry.pack(picture)
    times = [*message.header["times"], arrived, begun, loaded, reconstructed, now()]
    return {"kind": "image", "frame": message.header["frame"], "times": times}, body


if __name__ == "__main__":
    play(run)
