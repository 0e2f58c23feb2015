"""One connection to one Redis server: entered, spoken to, with a deadline for each exchange.

redis-py makes the connection (sockets, TLS, names); the handshake is one round trip of ours; commands leave by
scatter-gather, replies arrive through `parser`. Promises: no payload byte is copied or joined on its way out; no call
outlives what `begin` allowed; after any exception the link is to be closed, as nobody knows what is still on its way.
Belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterable, Sequence
from os import urandom
from time import monotonic
from typing import Any

from redis import exceptions
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from proxyfab.grace import LEAST, grace
from proxyfab.resp.errors import ELSEWHERE, Late
from proxyfab.resp.parser import InPlaceParser, Reply, checked
from proxyfab.resp.place import Address, Place

JOINED = 16 * 1024
"""Commands up to here are joined: a copy is cheaper than a vector."""
_VECTORS = 1024
_FEW = 100
_KEEPALIVE = {socket.TCP_KEEPIDLE: 2, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3}
_UNANSWERED = 5000
"""Milliseconds after which a host that acknowledges nothing is dead (TCP_USER_TIMEOUT)."""
CONNECT = 5.0
SILENCE = 5.0
"""Seconds that a server may take for a word, while it is listened to for something that may happen or not."""

Part = bytes | memoryview


class Link:
    """A connection.

    Args:
        address: The server.
        place: How to enter it.
        secret: The password.
        mark: A key where the server's epoch is kept; b"" for none.
        protocol: 3 for a link that is told things unasked, else 2.
        seconds: That connecting and entering may take.

    Raises:
        redis.exceptions.RedisError: It cannot be reached, or refuses.
    """

    def __init__(
        self,
        address: Address,
        place: Place,
        secret: str | None,
        *,
        mark: bytes = b"",
        protocol: int = 2,
        seconds: float = CONNECT,
    ) -> None:
        self.address = address
        self.epoch = ""
        """Drawn when the server was first used; another one after it lost everything."""
        self.used = self.looked = monotonic()
        self.pace = 0.0
        """Seconds that the server took to let us in."""
        self.before = b""
        """What stands before each command: nothing, or ASKING, where the slot of its key is on its way here."""
        self.missing: dict[bytes, None] = {}
        """Keys that the server said are missing, and will say when that changes (`waiting`)."""
        self.doubted = monotonic()
        self._place = place
        self._secret = secret
        self._mark = mark
        self._protocol = protocol
        self._seconds = seconds
        self._connection = _connection(address, place, min(seconds, CONNECT), self._enter)
        try:
            self._connection.connect()
        except BaseException:
            self.close()  # redis-py does, but only after errors of its own
            raise
        self._connection.redis_connect_func = None  # no circle: a link that is dropped is closed at once

    def close(self) -> None:
        """Let go of it; what is on its way is lost."""
        self._connection.disconnect()

    def interrupt(self) -> None:
        """From another thread: whoever waits on it finds it broken."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # a TLS socket's own would take its state along

    # -- speaking ----------------------------------------------------------------------------------------------------

    def begin(self, seconds: float) -> None:
        """Allow what comes next so many seconds."""
        self.parser.deadline = monotonic() + seconds

    def send(self, parts: Sequence[Part], nbytes: int) -> None:
        """Send the parts of a command, `nbytes` in all; of several, where `before` stands between them already."""
        self.parser.arm()
        if self.before:
            parts, nbytes = [self.before, *parts], nbytes + len(self.before)
        try:
            if len(parts) == 1 or nbytes <= JOINED:
                self._socket.sendall(parts[0] if len(parts) == 1 else b"".join(parts))
            elif self._plain:
                self._send_vector(list(parts))
            else:
                for part in parts:
                    self._socket.sendall(part)
        except (BlockingIOError, TimeoutError):
            raise exceptions.TimeoutError("the deadline passed") from None

    def hear(self, until: float, least: float = LEAST) -> None:
        """Wait for the first word of an answer, until shortly after a deadline; the rest has what `begin` allowed.

        Args:
            until: The deadline, in monotonic seconds; infinite for none but `begin`'s.
            least: Seconds after that, or now, in which the word may come, if the server is near.

        Raises:
            Late: There was none. The link is whose wait it is, and the answer may be read later on.
            redis.exceptions.TimeoutError: There was none for what `begin` allowed.
        """
        until = max(until, monotonic()) + grace(self.pace, least)
        try:
            self.parser.first(until)
        except exceptions.TimeoutError:
            if monotonic() < until:
                raise
            raise Late(self.address, self) from None

    def ask(self, command: bytes) -> None:
        """Send a short command."""
        self.send((command,), len(command))

    def call(self, *words: bytes) -> Reply:
        """Send one command and return its reply.

        Raises:
            ResponseError: The reply is an error.
        """
        self.ask(pack(*words))
        return checked(self.parser.read())

    def replies(self, count: int) -> list[Reply]:
        """So many replies; the first error among them is raised when all have been received."""
        found = [self.parser.read() for _ in range(count)]
        for reply in found:
            checked(reply)
        return found

    def calls(self, commands: Iterable[bytes], *, lenient: bool = False) -> list[Reply]:
        """Send packed commands at once and return their replies.

        Args:
            commands: None of them in a transaction.
            lenient: None for a value of a strange type, and what another node should be asked is no error, but found
                among the replies (`errors.ELSEWHERE`).
        """
        commands = list(commands)
        self.ask(self.before.join(commands))
        found = [self.parser.read() for _ in commands]
        if lenient:
            found = [None if strange(reply) else reply for reply in found]
            return [reply if isinstance(reply, ELSEWHERE) else checked(reply) for reply in found]
        return [checked(reply) for reply in found]

    def transaction(self, parts: Sequence[Part], nbytes: int, count: int) -> list[Reply] | None:
        """The replies to `count` commands done at once; None where something that was watched has changed.

        One ASKING is for all of it. A command that is refused when it is done has its error among the replies.
        """
        self.send([_MULTI, *parts, _EXEC], len(_MULTI) + nbytes + len(_EXEC))
        if count <= _FEW:
            done: list[Reply] | None = self.replies(count + 2)[-1]
            return done
        for reply in (found := self.parser.many(count + 2)):  # nothing comes behind them
            checked(reply)
        return found[-1]  # type: ignore[no-any-return]  # as above

    def look(self) -> str:
        """The epoch as it is now, drawn anew where the server has lost all it had; `""` where it tells none."""
        self.epoch, self.looked = "", monotonic()
        commands = _epoch(self._mark)
        self.ask(b"".join(commands))
        self._learn([self.parser.read() for _ in commands])  # to draw one may be refused
        return self.epoch

    def stale(self) -> bool:
        """Whether the server has closed an idle link, or said something that nobody asked for: notices were."""
        told = self._protocol == 3
        if self.parser.pending and not told:
            return True
        if not self._plain:
            return self.wait(0)  # what it is cannot be looked at without reading it
        try:
            return not (self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) and told)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def fileno(self) -> int:
        """Of its socket."""
        number: int = self._socket.fileno()
        return number

    def wait(self, seconds: float) -> bool:
        """Whether something arrives within so many seconds."""
        if self.parser.pending:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        pending = getattr(self._socket, "pending", None)  # TLS keeps bytes of its own
        return bool((pending is not None and pending()) or poll.poll(max(seconds, 0) * 1000))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _send_vector(self, parts: list[Any]) -> None:
        if len(parts) > 8 and max(map(len, parts)) <= JOINED:  # many small ones
            parts = [b"".join(parts[at : at + _VECTORS]) for at in range(0, len(parts), _VECTORS)]
        at = 0
        while at < len(parts):
            sent = self._socket.sendmsg(parts[at : at + _VECTORS])
            while at < len(parts) and sent >= len(parts[at]):
                sent -= len(parts[at])
                at += 1
            if at < len(parts):
                parts[at] = memoryview(parts[at])[sent:]
                self.parser.arm()

    def _enter(self, connection: Any) -> None:
        """The handshake, in one round trip; called by redis-py when the socket is there."""
        parser = self.parser = connection._parser
        parser.on_connect(connection)
        sock = self._socket = connection._sock
        self._plain = not self._place.tls
        if self._plain:
            sock.settimeout(None)  # the kernel keeps the time: one system call receives any number of bytes
        if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED)
        parser.wholly(self._plain)
        self.begin(self._seconds)
        commands, optional = self._greeting()
        asked = monotonic()
        self.ask(b"".join(commands + optional))
        greeted = [parser.read() for _ in commands]
        answers = [parser.read() for _ in optional]
        self.pace = monotonic() - asked
        for reply in greeted:
            if isinstance(reply, exceptions.ResponseError) and "already" not in str(reply):
                raise reply
            checked(reply)
        self._learn(answers)

    def _learn(self, answers: Sequence[Reply]) -> None:
        """The epoch, where the server told one."""
        if answers and isinstance(answers[-1], bytes):
            self.epoch = answers[-1].decode(errors="replace")

    def _greeting(self) -> tuple[list[bytes], list[bytes]]:
        """What must succeed, and what tells the epoch where that is allowed."""
        commands = []
        if self._protocol == 3:
            commands.append(pack(b"HELLO", b"3", *self._credentials(b"AUTH", full=True)))
            commands.append(pack(b"CLIENT", b"TRACKING", b"ON"))
        elif self._secret is not None:
            commands.append(pack(b"AUTH", *self._credentials(full=False)))
        if self._place.database:
            commands.append(pack(b"SELECT", b"%d" % self._place.database))
        return commands or [pack(b"PING")], _epoch(self._mark) if self._mark else []

    def _credentials(self, *before: bytes, full: bool) -> list[bytes]:
        if self._secret is None:
            return []
        user = [self._place.user.encode()] if self._place.user else [b"default"] if full else []
        return [*before, *user, self._secret.encode()]


def _epoch(mark: bytes) -> list[bytes]:
    """Draws the server's epoch if it has none, and asks for it."""
    return [pack(b"SET", mark, urandom(4).hex().encode(), b"NX"), pack(b"GET", mark)]


def strange(reply: Reply) -> bool:
    """Whether what was asked for is no string."""
    return isinstance(reply, exceptions.ResponseError) and str(reply).startswith("WRONGTYPE")


def pack(*words: bytes) -> bytes:
    """A command as it is sent."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


_MULTI, _EXEC = pack(b"MULTI"), pack(b"EXEC")
ASKING = pack(b"CLIENT", b"REPLY", b"SKIP") + pack(b"ASKING")
"""Stands before a command for a key whose slot is on its way to the server that is asked; has no reply of its own."""


def _connection(address: Address, place: Place, seconds: float, enter: Any) -> Any:
    """redis-py's connection, which it gives no complete types."""
    host, port = address
    options: dict[str, Any] = {
        "parser_class": InPlaceParser,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "redis_connect_func": enter,
    }
    kind: Any = UnixDomainSocketConnection
    if port == 0:
        return kind(path=host, **options)
    options |= {"host": host, "port": port, "socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    if place.tls:
        options |= {
            "ssl_ca_certs": place.ca or None,
            "ssl_certfile": place.cert or None,
            "ssl_keyfile": place.key or None,
            "ssl_cert_reqs": "required" if place.verify else "none",
            "ssl_check_hostname": place.verify,
        }
    kind = SSLConnection if place.tls else Connection
    return kind(**options)
