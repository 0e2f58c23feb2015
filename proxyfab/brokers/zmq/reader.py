"""Readers over ZeroMQ that nobody counts: where they are they know themselves, and what did not come is read again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from proxyfab.brokers.zmq.link import Link
from proxyfab.brokers.zmq.reading import deliveries_in
from proxyfab.brokers.zmq.subscription import ZmqSubscription
from proxyfab.events.broker import Uncounted
from proxyfab.events.model import Delivery, GroupInfo, Start
from proxyfab.events.plain import cursors_in, info_in, start_out


class Reader(Uncounted, ZmqSubscription):
    """Reads without anybody counting; where it is, it knows itself."""

    def __init__(
        self, link: Link, fields: dict[str, Any], closing: Callable[[ZmqSubscription], None], timeout: float
    ) -> None:
        super().__init__(link, fields, closing)
        self.group = None
        self._cursors: dict[int, int] = {}
        self._log = 0
        self._begin(fields, timeout)

    def _begin(self, fields: dict[str, Any], timeout: float | None = None) -> None:
        answer = self._link.call("cursors", fields, timeout=timeout)
        self._cursors = cursors_in(answer.fields.get("c"))
        self._log = answer.count("log")

    def _where(self) -> dict[str, Any]:
        return {"topic": self.topic, "log": self._log, "c": [list(each) for each in self._cursors.items()]}

    def _ask(self, most: int, timeout: float, leaves: float) -> list[Delivery] | None:
        said = {**self._where(), "n": most, "t": min(timeout, 1.0)}
        until = time.monotonic() + timeout
        while True:
            message = self._link.call("read", said, timeout=timeout + self._link.timeout, leaves=leaves)
            if self._closed:
                return None
            if message.body:
                self._cursors = cursors_in(message.fields.get("c"))
                return deliveries_in(message, self.topic)
            left = until - time.monotonic()
            if left <= 0:
                return []
            said["t"] = min(left, 1.0)

    def seek(self, start: Start) -> None:
        self._check()
        self._begin({**self._fields, "start": start_out(start)})

    def info(self) -> GroupInfo:
        self._check()
        return info_in(self._link.call("read-info", self._where()).fields.get("info"))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._closing(self)
