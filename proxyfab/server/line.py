"""The server's line to its clients: one ROUTER, its options, and nothing that understands a message.

Rules:
1. Nothing here waits: a peer whose queue is full, or who has gone, loses what was sent to it. If it is there its
   connection is ended: who waits for an answer that will not come asks anew, on another one.
2. Bodies are sent from where they lie; what they lie in lives until the last byte is on its way, or the peer has gone.
3. ZeroMQ never stops to read, and what it keeps of a connection is bounded (`connections`), as is what never becomes a
   message. libzmq (up to 4.3.5) ends its process where it had stopped to read, the sender went, and a heartbeat is to
   be answered or sent (https://github.com/zeromq/libzmq/issues/4364). This may go when that is mended.
4. A client that is stopped or cut off is disconnected, and its queue is dropped. Clients send the heartbeats: ZeroMQ
   keeps the time that each of them asks for, `connections` that of who has said hello, the kernel everybody's.
5. A name is the first one's who has it, until his connection ends. libzmq could let another one take it over, and then
   keeps the former's connection for ever if that goes on to send. Who says nothing, and came while his former
   connection was there still, is sent away when he is looked for (`reaches`), and comes again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.server.connections import Connections, users
from proxyfab.server.gate import Gate, check_binds
from proxyfab.server.options import Options
from proxyfab.server.poll import Poll
from proxyfab.wire.flow import ANSWERS
from proxyfab.wire.messages import MAX_MESSAGE, encode

_HANDSHAKE = 5000
_UNACKNOWLEDGED = 10_000
"""Milliseconds."""
_KEPT_ALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 5, zmq.TCP_KEEPALIVE_INTVL: 2, zmq.TCP_KEEPALIVE_CNT: 3}
"""Seconds: for those who send no heartbeats, and are cut off."""
_BACKLOG = 512
_COPIED = 16 << 10
_DRAWN = 5
"""Bytes of a name that ZeroMQ gives who says none; the first one is zero."""
_NOBODY = [-1, 0]
_NOW, _MORE, _READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)


class Line:
    """A bound ROUTER. Belongs to one thread.

    Args:
        options: Of the server: where to listen, and whom to let in.
    """

    def __init__(self, options: Options) -> None:
        check_binds(options)
        self._bind = options.bind
        self.context: zmq.Context[Any] = zmq.Context(io_threads=2)
        self.context.set(zmq.MAX_SOCKETS, 64)
        self.gate = Gate(options)
        self.router = self.context.socket(zmq.ROUTER)
        self.endpoints: list[str] = []
        self.connections = Connections(encrypted=bool(options.key))
        self._gone: list[int] = []
        self._met: dict[bytes, list[int]] = {}
        """Peers that are known: over which descriptor, and how many messages they were sent."""
        self.dropped = 0
        self.rung = self.tolled = self.knocked = True
        """Whether the ROUTER may have something to receive, something may have come of a connection, and somebody may
        be at the gate."""
        self._touched = False
        """Whether something was sent since the ROUTER had nothing to receive: it may have taken notice then."""

    def open(self) -> None:
        """Bind.

        Raises:
            ConnectorError: An address is taken or not of this machine.
        """
        router = self.router
        options = {
            zmq.LINGER: 0,
            zmq.ROUTER_MANDATORY: 1,
            zmq.ROUTER_HANDOVER: 0,
            zmq.SNDHWM: ANSWERS,
            zmq.RCVHWM: 0,  # libzmq dies of a heartbeat among what it had stopped to take when its sender went
            zmq.BACKLOG: _BACKLOG,
            zmq.MAXMSGSIZE: MAX_MESSAGE,
            zmq.HEARTBEAT_IVL: 0,  # and of sending one then
            zmq.TCP_MAXRT: _UNACKNOWLEDGED,
            **_KEPT_ALIVE,
            zmq.HANDSHAKE_IVL: _HANDSHAKE,
            zmq.IPV6: int(any("[" in endpoint for endpoint in self._bind)),
        }
        for option, value in options.items():
            router.setsockopt(option, value)
        with contextlib.suppress(zmq.ZMQError):  # a libzmq that was built without; `connections` looks, too
            for user in users():
                router.setsockopt(zmq.IPC_FILTER_UID, user)
        self.gate.open(self.context, router)
        self.monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_ACCEPTED)
        for endpoint in self._bind:
            try:
                router.bind(endpoint)
            except zmq.ZMQError as error:
                raise _unbound(endpoint, error) from error
            if endpoint.startswith("ipc:///"):
                os.chmod(endpoint.removeprefix("ipc://"), 0o600)
            self.endpoints.append(router.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        self._ports = {int(end.rpartition(":")[2]) for end in self.endpoints if end.startswith("tcp:")}

    def watch(self, poll: Poll) -> None:
        """Be told what happens from now on: each socket is asked when its descriptor rang, and not before.

        A descriptor tells of what its socket has not taken notice of yet. So each is asked until it has nothing more,
        and the ROUTER, which may take notice while it sends, anew after that (`settle`).
        """
        calls = (self._ring, self._toll, self._knock)
        for socket, call in zip((self.router, self.monitor, self.gate.socket), calls, strict=True):
            if socket is not None:
                poll.add(int(socket.getsockopt(zmq.FD)), call)

    def _ring(self, _: int) -> None:
        self.rung = True

    def _toll(self, _: int) -> None:
        self.tolled = True

    def _knock(self, _: int) -> None:
        self.knocked = True

    def look_again(self) -> None:
        """Take nothing for known: somebody may have been told something, and failed at it."""
        self.rung = self.tolled = self.knocked = True

    def settle(self) -> None:
        """What was sent may have let the ROUTER take notice of something, which its descriptor tells no more."""
        if self._touched and not self.rung:
            self._touched = False
            self.rung = self._readable()

    def _readable(self) -> bool:
        return bool(int(self.router.getsockopt(zmq.EVENTS)) & _READABLE)

    def receive(self) -> tuple[bytes, int, list[memoryview]] | None:
        """Who sent what has come next, over which descriptor; None when nothing waits, or a stranger said it."""
        self._touched = False
        self.rung = self._readable()  # cheaper than an exception
        if not self.rung:
            return None
        who = part = self.router.recv(_NOW, copy=False)
        parts = []
        while part.more:
            part = self.router.recv(_NOW, copy=False)
            parts.append(part)
        try:
            descriptor = int(who.get(zmq.SRCFD))
        except zmq.ZMQError:  # of ZMTP 1.0, which no client speaks, ZeroMQ does not know the connection
            self.dropped += 1
            return None
        name = who.bytes
        if self._met.get(name, _NOBODY)[0] != descriptor:
            self._notice()  # what was there before has gone, and this one has come
        if self.connections.excludes(descriptor) or (name[0] == 0 and len(name) != _DRAWN):
            self.dropped += 1  # another user's, or under a name like those that the side channel gives
            return None
        views = [part.buffer for part in parts]
        self.connections.heard(descriptor, views)
        return name, descriptor, views

    def send(
        self, who: bytes, verb: str, request: bytes, fields: dict[str, Any], body: Sequence[memoryview] = ()
    ) -> bool:
        """Whether the message is on its way; not when the peer has gone or does not read."""
        self._touched = True
        parts: list[Any] = [who, encode(verb, request, fields), *body]
        try:
            if body and sum([view.nbytes for view in body]) > _COPIED:
                self.router.send_multipart(parts, zmq.NOBLOCK, copy=False)
            else:
                for part in parts[:-1]:
                    self.router.send(part, _MORE)
                self.router.send(parts[-1], _NOW)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.dropped += 1
            if error.errno == zmq.EAGAIN:
                self._end(who)
            return False
        if who in self._met:
            self._met[who][1] += 1
        return True

    def meet(self, who: bytes, descriptor: int) -> None:
        """A peer is heard for the first time. What `gone` told before may have been of this descriptor."""
        self._met[who] = [descriptor, 0]

    def part(self, who: bytes) -> None:
        """A peer that is met no more, because it has gone or lost something."""
        self._met.pop(who, None)

    def _end(self, who: bytes) -> None:
        """End the connection of a peer whose queue is full; what it was sent before may be lost, too.

        What a peer asked before it went is heard later, when its queue is full still, and its descriptor may be
        somebody else's. Such a one is met anew, and is sent nothing any more.
        """
        descriptor, sent = self._met.get(who, _NOBODY)
        if sent >= ANSWERS:
            self.connections.end(descriptor)

    def reaches(self, who: bytes) -> bool:
        """Whether a peer is connected. It gets an empty message, which clients pass over.

        One that has come again, while nobody had noticed yet that its former connection was dead, has no name. So if it
        is not there, who has said nothing and came about then has to come again.
        """
        self._touched = True
        try:
            self.router.send_multipart([who, b""], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN:
                return True
            self.connections.end_doubles(time.monotonic())
            return False
        return True

    def admit(self) -> None:
        """Decide about those who knocked."""
        self.knocked = False
        self.gate.answer()

    def gone(self) -> list[int]:
        """Descriptors of connections that have ended since the last call."""
        self._notice()
        gone, self._gone, self.tolled = self._gone, [], False
        return gone

    def _notice(self) -> None:
        """Learn who has come, and who has gone."""
        self.tolled = bool(self._gone)
        while True:
            try:
                event = recv_monitor_message(self.monitor, zmq.NOBLOCK)
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_ACCEPTED:
                self.connections.come(int(event["value"]), self._ports)
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self.connections.leave(int(event["value"]))
                self._gone.append(int(event["value"]))
                self.tolled = True  # until somebody has asked who is gone

    def close(self) -> None:
        """Unbind and end every connection."""
        self.gate.close()
        self.router.disable_monitor()
        self.monitor.close(0)
        self.router.close(0)
        self.context.term()


def _unbound(endpoint: str, error: zmq.ZMQError) -> ProxyfabError:
    if error.errno == zmq.EADDRINUSE:
        return ConnectorError(f"Cannot listen at {endpoint}: another server does; choose another port, or 0 for any.")
    if error.errno in (zmq.EINVAL, zmq.EPROTONOSUPPORT):
        return ConfigurationError(f"{endpoint!r} is no endpoint to bind; write tcp://127.0.0.1:0 or ipc:///path.")
    if error.errno in (1, 13):
        return AccessDenied(f"Cannot listen at {endpoint}: {error.strerror}; choose a port above 1023.")
    return ConnectorError(f"Cannot listen at {endpoint}: {error.strerror}; is it an address of this machine?")
