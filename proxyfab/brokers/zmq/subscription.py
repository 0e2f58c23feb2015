"""Members of groups and readers over ZeroMQ. A member is its connection: what it holds comes again when that ends.

Rules:
1. One thread at a time fetches, on the subscription's own connection. What is acknowledged goes the same way without
   an answer, or, while somebody waits there, by a connection of the link's, with one; `flush` waits for both. What is
   asked for ahead lies in the connection until the next fetch, and comes again if that ends before.
2. A connection that ended is made anew by the next fetch, as a new member of the same group, unless the server was
   started anew: then what it held is lost, and every use says so.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from proxyfab.brokers.zmq.channel import Channel
from proxyfab.brokers.zmq.link import Link
from proxyfab.brokers.zmq.reading import deliveries_in
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError, TopicNotFound
from proxyfab.events.broker import TIMEOUT, Subscription, Uncounted
from proxyfab.events.model import Delivery, GroupInfo, Start
from proxyfab.events.plain import cursors_in, info_in, start_out
from proxyfab.wire.messages import Message
from proxyfab.zeromq.connection import Broken

_SLICE = 30.0
"""Seconds that one request waits at the server."""
_GRACE = 5.0
"""Seconds in which the answer comes after that."""
_SPOTS = 2000
_MAX_NOTE = 1 << 10
_MOST = 256


class ZmqSubscription(Subscription):
    """What members and readers have in common.

    Args:
        link: To the server.
        fields: Topic, start and partitions, as a request says them.
        closing: Is told when it is closed.
    """

    def __init__(self, link: Link, fields: dict[str, Any], closing: Callable[[ZmqSubscription], None]) -> None:
        self.topic = fields["topic"]
        self._link = link
        self._fields = fields
        self._closing = closing
        self._closed = False
        self._pid = os.getpid()
        self._turn = threading.Lock()

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        self._check()
        until = time.monotonic() + timeout
        if not self._turn.acquire(timeout=max(0.0, timeout)):
            return []
        try:
            while True:
                self._check()
                left = max(0.0, until - time.monotonic())
                found = self._ask(min(most, _MOST), min(left, _SLICE))
                if found is None:  # it was closed
                    return []
                if found or left <= _SLICE:
                    return found
        finally:
            self._turn.release()

    @abstractmethod
    def _ask(self, most: int, timeout: float) -> list[Delivery] | None:
        """One request; under `_turn`. None when the subscription was closed meanwhile."""

    def _check(self) -> None:
        if self._closed:
            raise ConnectorError(f"This subscription to {self.topic} was closed.")
        if os.getpid() != self._pid:
            raise ConnectorError(f"This subscription to {self.topic} is another process's: subscribe again.")
        self._link.check()


class Member(ZmqSubscription):
    """A group's member."""

    def __init__(
        self, link: Link, fields: dict[str, Any], closing: Callable[[ZmqSubscription], None], timeout: float
    ) -> None:
        super().__init__(link, fields, closing)
        self.group: str = fields["group"]
        self._seat: Channel | None = None
        self._token = b""
        self._incarnation = ""
        self._told = 0
        """One-way messages of this connection."""
        self._confirmed = 0
        """How many of them were done for sure: any later answer on the same way says so."""
        self._told_before = 0
        """How many there were when something was asked for ahead."""
        self._lost = False
        """Whether some of them may not have arrived."""
        with self._turn:
            self._sit(time.monotonic() + timeout)

    def _sit(self, until: float) -> Channel:
        """The connection, made anew if need be; under `_turn`."""
        if self._seat is not None:
            return self._seat
        seat = self._opened(until)
        try:
            if self._incarnation not in ("", seat.incarnation):
                raise TopicNotFound(
                    f"The broker at {self._link.endpoint} was started anew, and topic {self.topic} was lost with what "
                    "it held: make it and subscribe again."
                )
            answer = seat.ask("join", self._fields, (), until)
            self._token = answer.token("m")
        except Broken as broken:
            seat.close()
            raise self._link.failed("subscribe", broken) from broken
        except BaseException:
            seat.close()
            raise
        self._incarnation = seat.incarnation
        self._seat, self._told, self._confirmed = seat, 0, 0
        return seat

    def _opened(self, until: float) -> Channel:
        last = False
        while True:
            try:
                return self._link.open(until)
            except Broken as broken:
                if last or not broken.again:
                    raise self._link.failed("subscribe", broken) from broken
            last = True

    def _stand(self) -> None:
        """The connection is of no use any more."""
        seat, self._seat = self._seat, None
        if seat is not None:
            self._lost = self._lost or self._told > self._confirmed
            seat.close()

    def ahead(self, most: int) -> bool:
        if self._closed or os.getpid() != self._pid or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._seat is None or self._seat.begun:
                return False
            self._seat.begin("fetch", {"m": self._token, "n": min(most, _MOST), "t": 0.0})
            self._told_before = self._told
        except (Broken, zmq.ZMQError):  # the next fetch sits down anew
            self._stand()
            return False
        finally:
            self._turn.release()
        return True

    def _ask(self, most: int, timeout: float) -> list[Delivery] | None:
        last = False
        while True:
            seat = self._sit(time.monotonic() + max(timeout, _GRACE))
            try:
                if seat.begun and (found := self._begun(seat)):
                    return found
                message = self._seated(seat, "fetch", {"m": self._token, "n": most, "t": timeout}, timeout + _GRACE)
            except Broken as broken:
                if last or not broken.again:
                    raise self._link.failed("fetch", broken) from broken
            else:
                return None if message.flag("closed") else deliveries_in(message, self.topic)
            last = True

    def _begun(self, seat: Channel) -> list[Delivery]:
        """What was asked for ahead."""
        message = self._heard(seat.finish, _GRACE, self._told_before)
        return deliveries_in(message, self.topic)

    def _seated(self, seat: Channel, verb: str, fields: dict[str, Any], timeout: float) -> Message:
        return self._heard(lambda until: seat.ask(verb, fields, (), until), timeout, self._told)

    def _heard(self, call: Callable[[float], Message], timeout: float, told: int) -> Message:
        """An answer, which says that so many one-way messages were done."""
        try:
            answer = call(time.monotonic() + timeout)
        except ProxyfabError:  # an answer, too
            self._confirmed = max(self._confirmed, told)
            raise
        except zmq.ZMQError as error:
            self._stand()
            raise Broken(f"cannot be reached: {error.strerror}") from error
        except BaseException:
            self._stand()
            raise
        self._confirmed = max(self._confirmed, told)
        return answer

    # -- settling ----------------------------------------------------------------------------------------------------

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        self._settle("ack", deliveries, {})

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        if len(note) > _MAX_NOTE:
            raise CapacityError(f"A note has {len(note)} bytes, more than {_MAX_NOTE}.")
        self._settle("nack", deliveries, {"delay": float(delay), "note": bytes(note)})

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self._settle("extend", deliveries, {})

    def _settle(self, verb: str, deliveries: Iterable[Delivery], fields: dict[str, Any]) -> None:
        flat = [number for each in deliveries for number in (each.position.partition, each.position.offset)]
        if self._closed or not flat:
            return
        self._check()
        for start in range(0, len(flat), 2 * _SPOTS):
            said = {**fields, "s": flat[start : start + 2 * _SPOTS]}
            if self._turn.acquire(blocking=False):
                try:
                    self._tell(verb, said)
                finally:
                    self._turn.release()
            else:
                self._link.call(verb, {"m": self._token, **said})

    def _tell(self, verb: str, said: dict[str, Any]) -> None:
        """One way; what was fetched on a connection that has ended comes again anyhow."""
        if self._seat is None:
            self._lost = True
            return
        try:
            self._seat.tell(verb, {"m": self._token, **said})
            self._told += 1
        except (Broken, zmq.ZMQError):
            self._stand()
            self._lost = True
        except BaseException:
            self._stand()
            raise

    def flush(self, timeout: float = TIMEOUT) -> None:
        if self._closed:
            return
        self._check()
        if self._told > self._confirmed:
            told, said = self._told, {"m": self._token, "n": self._told, "t": timeout}
            if self._turn.acquire(blocking=False):
                try:
                    self._flush_seat(said, timeout)
                finally:
                    self._turn.release()
            elif not self._link.call("flush", said, timeout=timeout + _GRACE).flag("done"):
                raise ConnectorError(f"The broker did not take {told} acknowledgements in {timeout:g} s.")
        if self._lost:
            self._lost = False
            raise ConnectorError(
                f"The connection to the broker at {self._link.endpoint} ended before it had confirmed what was "
                f"acknowledged in {self.topic}: some of it may come again."
            )

    def _flush_seat(self, said: dict[str, Any], timeout: float) -> None:
        if self._seat is None:
            return
        try:
            if not self._seated(self._seat, "flush", said, timeout + _GRACE).flag("done"):
                raise ConnectorError(f"The broker did not take what was acknowledged in {timeout:g} s.")
        except Broken:
            self._lost = True

    # -- the group ---------------------------------------------------------------------------------------------------

    def seek(self, start: Start) -> None:
        self._check()
        self._call("seek", {"start": start_out(start)})
        if self._turn.acquire(blocking=False):
            try:
                if self._seat is not None:  # what was asked for ahead lies where the group is not any more
                    self._seat.forget()
            finally:
                self._turn.release()

    def info(self) -> GroupInfo:
        self._check()
        return info_in(self._call("info", {}).fields.get("info"))

    def _call(self, verb: str, fields: dict[str, Any]) -> Message:
        if self._turn.acquire(blocking=False):
            try:
                seat = self._sit(time.monotonic() + self._link.timeout)
                return self._seated(seat, verb, {"m": self._token, **fields}, self._link.timeout)
            except Broken as broken:
                raise self._link.failed(verb, broken) from broken
            finally:
                self._turn.release()
        return self._link.call(verb, {"m": self._token, **fields})

    def close(self) -> None:
        if self._closed:
            return
        if os.getpid() != self._pid or self._link.closed:
            self._closed = True
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._closing(self)
            self._leave()

    def _leave(self) -> None:
        """Who waits returns, and what was held is given back, before the connection ends."""
        if self._turn.acquire(blocking=False):
            try:
                if self._seat is not None:
                    with contextlib.suppress(Broken, ProxyfabError):
                        self._seated(self._seat, "leave", {"m": self._token}, self._link.timeout)
            finally:
                self._stand()
                self._turn.release()
            return
        with contextlib.suppress(ProxyfabError):
            self._link.call("leave", {"m": self._token})
        if self._turn.acquire(timeout=_GRACE):  # whoever fetched has been told
            try:
                self._stand()
            finally:
                self._turn.release()


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

    def _ask(self, most: int, timeout: float) -> list[Delivery] | None:
        said = {**self._where(), "n": most, "t": min(timeout, 1.0)}
        until = time.monotonic() + timeout
        while True:
            message = self._link.call("read", said, timeout=timeout + self._link.timeout)
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
