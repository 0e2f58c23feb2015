"""The side channel: what a server offers beside its ROUTER to who may leave ZeroMQ aside (`wire.side` says how).

Rules:
1. A Unix socket lies in a directory of the server's own (0700), in shared memory, and takes its own user only. It goes
   with the server, however that ends (`osio.namespace`).
2. TCP is offered where the server listens on loopback without a key. Who is to be let in with a key stays with ZeroMQ,
   which encrypts.
3. Nobody is heard before he has proved that he knows the token, which the ROUTER hands out to who got past the gate.
4. Who is in the middle of something and silent is gone; who holds nothing may be silent for as long as he likes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

from proxyfab.errors import AccessDenied, ProxyfabError
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.machine import sight_of
from proxyfab.osio.shared import default_root
from proxyfab.osio.sockets import SIDE, tune, user_of
from proxyfab.server.gate import stays_here
from proxyfab.server.poll import Poll
from proxyfab.server.stream import Ears, Stream
from proxyfab.wire.messages import Message
from proxyfab.wire.side import SILENCE, TOKEN, opened, proof

if TYPE_CHECKING:
    from proxyfab.server.options import Options
    from proxyfab.server.peers import Peer

_LONGEST = 100
_BACKLOG = 512
_AT_ONCE = 32
_STRANGERS = 128
"""Connections at most of which nobody has proved anything yet; the oldest one goes."""
_INTRODUCTION = 5.0


class Owner(Protocol):
    """The server, as its side channel sees it."""

    def come(self, who: bytes, descriptor: int, way: Stream) -> None:
        """A client is there."""

    def hear(self, who: bytes, message: Message) -> None:
        """It said something."""

    def place(self, who: bytes, message: Message, nbytes: int) -> list[memoryview]:
        """Where a body of it is to be received."""

    def leave(self, who: bytes) -> None:
        """It has gone."""

    def holds(self, who: bytes) -> bool:
        """Whether it is in the middle of something."""


class Side:
    """Listeners and connections. Belongs to the loop's thread.

    Args:
        options: Of the server.
        poll: That watches.
        owner: Whom to tell.
    """

    def __init__(self, options: Options, poll: Poll, owner: Owner) -> None:
        self._options, self._poll, self._owner = options, poll, owner
        self._token = os.urandom(TOKEN)
        self._listeners: list[socket.socket] = []
        self._deaf: list[socket.socket] = []
        self._streams: dict[bytes, Stream] = {}
        self._strangers: dict[bytes, float] = {}
        self._count = 0
        self._path = ""
        self._offer: dict[str, Any] = {}
        self._ears = Ears(self._hear, self._place, self._end)
        self.dropped = 0

    def open(self, endpoints: list[str]) -> None:
        """Listen beside what the ROUTER is bound to. What cannot be had is not offered."""
        if not self._options.side:
            return
        with contextlib.suppress(OSError, ProxyfabError):
            self._listen_here()
        tcp = [endpoint for endpoint in endpoints if endpoint.startswith("tcp://") and stays_here(endpoint)]
        if tcp and not self._options.key:
            with contextlib.suppress(OSError):
                self._listen_tcp(tcp[0].removeprefix("tcp://").rpartition(":")[0].strip("[]"))
        at = [end[6:] if end.startswith("ipc://") else end.rpartition(":")[2] for end in endpoints]
        if self._listeners:
            self._offer |= {"token": self._token, "at": at}

    def _listen_here(self) -> None:
        root = default_root()
        lodging = Lodging(root, None)
        path = f"{root}/{lodging.name}/{SIDE}"
        if len(path.encode()) > _LONGEST:
            return
        lodging.open()
        self._listen(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
        self._path = path
        self._offer |= {"space": lodging.name, "sight": sight_of(root)}

    def _listen_tcp(self, host: str) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        self._listen(listener, address)
        self._offer["port"] = listener.getsockname()[1]

    def _listen(self, listener: socket.socket, address: Any) -> None:
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self._listeners.append(listener)
        self._watch(listener)

    def _watch(self, listener: socket.socket) -> None:
        self._poll.add(listener.fileno(), lambda _: self._accept(listener))

    @property
    def sending(self) -> bool:
        """Whether something waits to be sent."""
        return any(stream.stuck for stream in self._streams.values())

    def said(self, peer: Peer) -> dict[str, Any]:
        """What hello is answered with: the offer, or to who has taken it a proof that this is the same server."""
        stream = self._streams.get(peer.who)
        if stream is not None:
            return {"proof": proof(self._token, "server", stream.nonce)}
        return {"side": self._offer} if self._offer else {}

    # -- connections ---------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor is left: not asked again before the next sweep
                self._poll.remove(listener.fileno())
                self._deaf.append(listener)
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        try:
            tune(connection)
            allowed = connection.family != socket.AF_UNIX or user_of(connection) == os.geteuid()
        except OSError:
            allowed = False
        if not allowed:
            self.dropped += 1
            connection.close()
            return
        self._count += 1
        who = b"\0side" + self._count.to_bytes(8, "big")  # no routing id of ZeroMQ's that others may choose
        self._streams[who] = Stream(connection, who, self._poll, self._ears)
        self._strangers[who] = time.monotonic()
        if len(self._strangers) > _STRANGERS:
            self._drop(self._streams[next(iter(self._strangers))])

    def _hear(self, stream: Stream, message: Message) -> None:
        if not stream.nonce:
            stream.nonce = opened(self._token, message)
            del self._strangers[stream.who]
            self._owner.come(stream.who, stream.descriptor, stream)
        self._owner.hear(stream.who, message)

    def _place(self, stream: Stream, message: Message, nbytes: int) -> list[memoryview]:
        if not stream.nonce:
            raise AccessDenied("A side channel begins with hello, which has no body.")
        return self._owner.place(stream.who, message, nbytes)

    def _end(self, stream: Stream) -> None:
        """A connection has ended by itself."""
        self._streams.pop(stream.who, None)
        if self._strangers.pop(stream.who, None) is None:
            self._owner.leave(stream.who)

    def _drop(self, stream: Stream) -> None:
        self.dropped += 1
        stream.close()
        self._end(stream)

    def forget(self, who: bytes) -> None:
        """The server has let go of a peer."""
        stream = self._streams.pop(who, None)
        if stream is not None:
            stream.close()

    def sweep(self, now: float) -> None:
        """What is done about once a second (rule 4)."""
        for stream in list(self._streams.values()):
            since = self._strangers.get(stream.who)
            if since is not None:
                silent = now - since > _INTRODUCTION
            elif stream.stuck:
                silent = now - stream.moved > SILENCE
            else:
                busy = stream.begun or self._owner.holds(stream.who)
                silent = busy and now - max(stream.heard, stream.moved) > SILENCE
            if silent:
                self._drop(stream)
        while self._deaf:
            self._watch(self._deaf.pop())

    def close(self) -> None:
        """Listen no more and end every connection."""
        for listener in self._listeners:
            if listener not in self._deaf:
                self._poll.remove(listener.fileno())
            listener.close()
        for stream in list(self._streams.values()):
            stream.close()
        self._streams.clear()
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
