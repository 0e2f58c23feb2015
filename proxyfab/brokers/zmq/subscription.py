"""Members of groups over ZeroMQ, and what readers share with them.

A member is its connection: what it holds comes again when that ends.

Rules:
1. One thread at a time fetches, on the subscription's own connection. What is acknowledged goes the same way without
   an answer, or, while somebody waits there, by a connection of the link's, with one; `flush` waits for both. What is
   asked for ahead, or is late, lies in the connection until the next fetch, and comes again if that ends before.
2. A connection that ended is made anew by the next fetch, as a new member of the same group, unless the server was
   started anew: then what it held is lost, and every use says so.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from proxyfab.background import Beginnings
from proxyfab.brokers.zmq.channel import Channel
from proxyfab.brokers.zmq.link import OPENING, Link
from proxyfab.brokers.zmq.reading import deliveries_in
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError, TopicNotFound
from proxyfab.events.broker import TIMEOUT, Subscription
from proxyfab.events.model import Delivery, GroupInfo, Start
from proxyfab.events.plain import info_in, start_out
from proxyfab.wire.messages import Message
from proxyfab.zeromq.connection import PATIENCE, Broken

_SLICE = 4.0
"""Seconds that one request waits at the server; one that is left behind keeps the next one waiting no longer."""
_GRACE = 5.0
"""Seconds in which an answer comes that is not waited for at the server."""
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
        until, leaves = time.monotonic() + timeout, self._link.leaves(timeout)
        if not self._turn.acquire(timeout=max(0.0, timeout)):
            return []
        try:
            while True:
                self._check()
                left = max(0.0, until - time.monotonic())
                try:
                    found = self._ask(min(most, _MOST), min(left, _SLICE), leaves)
                except Broken:  # it is late
                    return []
                if found is None:  # it was closed
                    return []
                if found or left <= _SLICE:
                    return found
        finally:
            self._turn.release()

    @abstractmethod
    def _ask(self, most: int, timeout: float, leaves: float) -> list[Delivery] | None:
        """One request; under `_turn`. None when the subscription was closed meanwhile; Broken when it is late."""

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
        self._made: deque[tuple[Channel, bytes]] = deque()
        self._openings = Beginnings(self._join_beside, f"Connecting to {link.endpoint}")
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

    def _sit(self, until: float, leaves: float = math.inf) -> Channel:
        """The connection, made anew if need be; under `_turn`. Raises Broken when it is late."""
        if self._seat is not None:
            return self._seat
        if leaves - time.monotonic() > OPENING:
            seat, self._token = self._joined(until)
        else:
            while not self._made:
                self._link.begin(self._openings, leaves)
            seat, self._token = self._made.popleft()
        self._incarnation = seat.incarnation
        self._seat, self._told, self._confirmed = seat, 0, 0
        return seat

    def _join_beside(self) -> None:
        """A connection for the next fetch, made while who fetches may leave."""
        self._made.append(self._joined(time.monotonic() + PATIENCE))
        if self._closed:
            self._discard()

    def _discard(self) -> None:
        while self._made:
            try:
                self._made.popleft()[0].close()
            except IndexError:  # another thread was faster
                break

    def _joined(self, until: float) -> tuple[Channel, bytes]:
        """A new connection, and what its member is called there."""
        seat = self._opened(until)
        try:
            if self._incarnation not in ("", seat.incarnation):
                raise TopicNotFound(
                    f"The broker at {self._link.endpoint} was started anew, and topic {self.topic} was lost with what "
                    "it held: make it and subscribe again."
                )
            answer = seat.ask("join", self._fields, (), until)
            token = answer.token("m")
        except Broken as broken:
            seat.close()
            raise self._link.failed("subscribe", broken) from broken
        except BaseException:
            seat.close()
            raise
        return seat, token

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
        if self._closed:
            self._discard()
        if seat is not None:
            self._lost = self._lost or self._told > self._confirmed
            seat.close()

    def ahead(self, most: int) -> bool:
        if self._closed or os.getpid() != self._pid or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._seat is None or self._seat.begun:
                return False
            self._begin(self._seat, most, 0.0)
        except Broken:  # the next fetch sits down anew
            return False
        finally:
            self._turn.release()
        return True

    def _ask(self, most: int, timeout: float, leaves: float) -> list[Delivery] | None:
        last, until = False, time.monotonic() + timeout
        while True:
            try:
                seat = self._sit(time.monotonic() + max(timeout, _GRACE), leaves)
            except Broken as broken:
                self._link.late("fetch", broken)
            try:
                if seat.begun and (found := self._begun(seat, _GRACE, leaves)):
                    return found
                left = max(min(until - time.monotonic(), timeout), 0.0)
                self._begin(seat, most, left)
                message = self._late(seat, left + _GRACE, leaves)
            except Broken as broken:
                if broken.late and leaves < math.inf:
                    raise
                self._link.trouble = broken
                if last or not broken.again:
                    raise self._link.failed("fetch", broken) from broken
            else:
                return None if message.flag("closed") else deliveries_in(message, self.topic)
            last = True

    def _begin(self, seat: Channel, most: int, timeout: float) -> None:
        try:
            seat.begin("fetch", {"m": self._token, "n": min(most, _MOST), "t": timeout})
        except zmq.ZMQError as error:
            self._stand()
            raise Broken(f"cannot be reached: {error.strerror}") from error
        except BaseException:
            self._stand()
            raise
        self._told_before = self._told

    def _begun(self, seat: Channel, seconds: float, leaves: float) -> list[Delivery]:
        """What was asked for ahead, or came late."""
        return deliveries_in(self._late(seat, seconds, leaves), self.topic)

    def _late(self, seat: Channel, seconds: float, leaves: float) -> Message:
        """The answer to what was begun; where it is late, it is for the next fetch."""
        return self._heard(lambda until: seat.finish(min(until, leaves)), seconds, self._told_before, leaves < math.inf)

    def _seated(self, seat: Channel, verb: str, fields: dict[str, Any], timeout: float) -> Message:
        return self._heard(lambda until: seat.ask(verb, fields, (), until), timeout, self._told)

    def _heard(self, call: Callable[[float], Message], timeout: float, told: int, leaves: bool = False) -> Message:
        """An answer, which says that so many one-way messages were done; who leaves can have it later."""
        try:
            answer = call(time.monotonic() + timeout)
        except ProxyfabError:  # an answer, too
            self._confirmed = max(self._confirmed, told)
            raise
        except zmq.ZMQError as error:
            self._stand()
            raise Broken(f"cannot be reached: {error.strerror}") from error
        except BaseException as error:
            if not (leaves and isinstance(error, Broken) and error.late):
                self._stand()
            raise
        self._confirmed = max(self._confirmed, told)
        self._link.trouble = None
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
                if self._seat is not None:  # what came lies where the group is not any more
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
