"""How a stream begins: a connection is dialled or comes in, each side shows who it is, and one says what it is for.

    dialler   hello {site, link, stream, probe}   which link of the two sites it belongs to, and its number there
    listener  welcome {fresh, may}                fresh: this side knew nothing of that link; may: what who only probes
                                                  may do here, in words; or: refused {why}

Promises: no step takes longer than the time there is; a stranger learns nothing but that he is none.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import NamedTuple

from proxyfab.errors import AccessDenied, ConnectorError, IntegrityError, ProxyfabError, ResolveTimeout
from proxyfab.link.dialling import Dial, straight
from proxyfab.link.frames import HEADING, heading_of_letter, read_heading
from proxyfab.link.identity import Identity, Secured
from proxyfab.link.streams import AGAIN, LOW
from proxyfab.osio import sockets
from proxyfab.wire import messages
from proxyfab.wire.messages import MAX_HEADER, NOBODY, Message

LINK = 16
"""Bytes of a link's name, which its dialler drew."""
LOST = 20
"""Seconds without an acknowledgement after which TCP gives up: longer than a cut that is worth waiting for."""
_SILENCE = 5
_WORDS = 500


class Refused(AccessDenied):
    """A site that was reached does not want a stream."""


class Hello(NamedTuple):
    """What a stream is for."""

    site: str
    link: bytes
    stream: int
    probe: bool = False
    """It is only asked whether it would be let in."""


def tune(connection: socket.socket) -> str:
    """Set a connection for long ways up. Returns the congestion control that it got: `bbr` where the host allows it."""
    sockets.tune(connection, silence=_SILENCE, lost=LOST, again=AGAIN)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, LOW)
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def knock(
    identity: Identity, peer: str, address: tuple[str, int], hello: Hello, *, timeout: float, dial: Dial = straight
) -> tuple[ssl.SSLSocket, bool]:
    """Open a stream to a site. Returns the connection, and whether the link is new to the other side.

    Raises:
        ConnectorError: Nobody answers there, or he does not speak like a site.
        AccessDenied: It is not that site, or it does not want us.
        ResolveTimeout: It took longer than `timeout` seconds.
    """
    where, ends = f"site {peer} at {address[0]}:{address[1]}", time.monotonic() + timeout
    try:
        plain = dial(*address, timeout)
        connection = _handshake(identity.client(peer), plain, ends, server=False)
    except ssl.SSLCertVerificationError as error:
        raise AccessDenied(
            f"Who answers for {where} has another key than the one that is pinned to it: {error.verify_message}."
        ) from error
    except ProxyfabError:  # of a relay's
        raise
    except TimeoutError as error:
        raise ResolveTimeout(
            f"The dial to {where} took longer than {timeout:g} s; is a firewall in between?"
        ) from error
    except OSError as error:
        raise ConnectorError(
            f"No stream to {where} could be opened: {error}. Is it up, and is the port right?"
        ) from error
    with _closed_on_error(connection):
        begun = time.monotonic()
        _say(connection, "hello", hello._asdict(), ends, where)
        answer = _hear(connection, ends, where)
        _note(connection, begun)
        if answer.verb != "welcome":
            raise Refused(f"Our stream was refused by {where}: {answer.fields.get('why', 'it does not say why')}")
        if isinstance(connection, Secured):
            connection.may = answer.text("may", "")[:_WORDS]
    return connection, answer.flag("fresh")


def open_door(identity: Identity, plain: socket.socket, *, timeout: float) -> tuple[ssl.SSLSocket, Hello]:
    """Let in who comes, if it is a peer. Returns the connection and what it is for; `welcome` or `refuse` it.

    Raises:
        AccessDenied: It is no peer, or a peer that calls itself by another's name.
        ConnectorError: It broke off.
        ResolveTimeout: It took longer than `timeout` seconds.
    """
    ends, where = time.monotonic() + timeout, "who came in"
    try:
        begun = time.monotonic()
        connection = _handshake(identity.server(), plain, ends, server=True)
        _note(connection, begun)
    except TimeoutError as error:
        raise ResolveTimeout(f"A stranger said nothing for {timeout:g} s.") from error
    except ssl.SSLError as error:
        raise AccessDenied(f"A stranger was not let in: {error.reason or error}.") from error
    except OSError as error:
        raise ConnectorError(f"A stranger broke off: {error}.") from error
    with _closed_on_error(connection):
        site = identity.peer_of(connection)
        hello = _hear(connection, ends, where)
        link = hello.fields.get("link")
        if hello.verb != "hello" or not isinstance(link, bytes) or len(link) != LINK:
            raise IntegrityError(f"Site {site} began a stream with {hello.verb!r} instead of a greeting.")
        if hello.text("site") != site:
            raise AccessDenied(f"Site {site} calls itself {hello.text('site')!r}.")
        return connection, Hello(site, link, hello.count("stream"), hello.flag("probe"))


def welcome(connection: ssl.SSLSocket, *, fresh: bool, timeout: float, may: str = "") -> None:
    """Tell a dialler that its stream is part of the link."""
    _say(connection, "welcome", {"fresh": fresh, "may": may}, time.monotonic() + timeout, "who came in")


def refuse(connection: ssl.SSLSocket, why: str, *, timeout: float) -> None:
    """Tell a dialler why its stream is not wanted, and close it."""
    with connection, contextlib.suppress(ConnectorError, ResolveTimeout):
        _say(connection, "refused", {"why": why}, time.monotonic() + timeout, "who came in")


def _note(connection: ssl.SSLSocket, begun: float) -> None:
    """A round trip has ended: who dials waits for the welcome, who listens for the end of the handshake."""
    if isinstance(connection, Secured):
        connection.rtt = time.monotonic() - begun


@contextlib.contextmanager
def _closed_on_error(connection: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _handshake(context: ssl.SSLContext, plain: socket.socket, ends: float, *, server: bool) -> ssl.SSLSocket:
    with _closed_on_error(plain):
        tune(plain)
        plain.settimeout(max(ends - time.monotonic(), 0.001))
        return context.wrap_socket(plain, server_side=server)


def _say(connection: ssl.SSLSocket, verb: str, fields: dict[str, object], ends: float, where: str) -> None:
    text = messages.encode(verb, NOBODY, fields)
    with _translated(where):
        connection.settimeout(max(ends - time.monotonic(), 0.001))
        connection.sendall(heading_of_letter(len(text)) + text)


def _hear(connection: ssl.SSLSocket, ends: float, where: str) -> Message:
    heading = read_heading(_exactly(connection, HEADING, ends, where))
    if heading.segment is not None or heading.length > MAX_HEADER:
        raise IntegrityError(f"A stream began with something else than a greeting by {where}.")
    return messages.decode([_exactly(connection, heading.length, ends, where)])


def _exactly(connection: ssl.SSLSocket, length: int, ends: float, where: str) -> bytes:
    found = bytearray()
    with _translated(where):
        while len(found) < length:
            connection.settimeout(max(ends - time.monotonic(), 0.001))
            part = connection.recv(length - len(found))
            if not part:
                raise ConnectionResetError("it closed the connection")
            found += part
    return bytes(found)


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ResolveTimeout(f"The greeting of {where} did not come in time.") from error
    except ssl.SSLError as error:
        raise AccessDenied(
            f"The greeting with {where} failed: {error.reason or error}. Does it know our key?"
        ) from error
    except OSError as error:
        raise ConnectorError(f"The greeting with {where} broke off: {error}.") from error
