"""What redis-py, sockets and servers complain of, as errors of proxyfab: what failed, where, what to do."""

from __future__ import annotations

import ssl
import struct
from typing import Any, NamedTuple

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from proxyfab.errors import AccessDenied, CapacityError, ConnectorError, IntegrityError, ProxyfabError

ELSEWHERE = (MovedError, AskError)
"""Another node of the cluster has the key, and this one says which."""
MOVED = (*ELSEWHERE, ReadOnlyError)
"""Another server has the key, or is the master now."""
SOON = (TryAgainError, ClusterDownError, MasterDownError, BusyLoadingError)
"""The servers are busy with themselves; they answer in a moment."""
FOREIGN = (RedisError, OSError, MemoryError, RecursionError)
"""What may come out of a link."""
NONSENSE = (TypeError, ValueError, LookupError, AttributeError, struct.error)
"""What comes of an answer that is something else than such a command has."""


class Late(Exception):
    """The time of who waits for a server is over; whether it is only slow nobody knows yet.

    Args:
        address: The server.
        link: On which its answer may still come, and which is the caller's now; None for none.
    """

    def __init__(self, address: tuple[str, int], link: Any = None) -> None:
        super().__init__("The time is over.")
        self.address = address
        self.link = link
        self.trouble: BaseException | None = None
        """Why the server is known to be away; None for unknown."""


class Doing(NamedTuple):
    """What was being done, for messages."""

    what: str
    where: str
    late: str = "was not finished in time"
    """What it means that a deadline passed."""


def worth(error: BaseException, again: bool, several: bool) -> bool:
    """Whether another attempt may end better, and does no harm.

    Args:
        error: What the last one met.
        again: Whether what is done may be repeated when nobody knows whether it was done.
        several: Whether the place is several servers, of which another one may be asked.
    """
    if isinstance(error, (*MOVED, *SOON)):
        return not isinstance(error, MOVED) or several
    if isinstance(error, (AuthenticationError, ResponseError, TimeoutError, MemoryError, RecursionError)):
        return False
    unsent = isinstance(error, (RedisError, OSError)) and "onnecting to" in str(error)
    return again or unsent


def is_refusal(error: BaseException) -> bool:
    """Whether the right server answered, and says no."""
    return isinstance(error, ResponseError) and not isinstance(error, (*MOVED, *SOON))


def translate(error: BaseException, doing: Doing) -> ProxyfabError:
    """The error of proxyfab that `error` is."""
    said = f"{doing.what} at {doing.where}"
    detail = (str(error) or type(error).__name__).rstrip(".")
    if isinstance(error, TimeoutError) and "connecting" in detail:
        return ConnectorError(
            f"{said} failed: nobody answers at that address. Check host and port, and the network between (firewalls)."
        )
    if isinstance(error, TimeoutError):
        return ConnectorError(
            f"{said} {doing.late}; is the server stopped, busy or unreachable? `proxyfab doctor` tells."
        )
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return AccessDenied(f"{said} was refused: {detail}. Check user and password, and what the user may do (ACL).")
    if isinstance(error, OutOfMemoryError):
        return CapacityError(
            f"{said} failed, the server's memory is full: {detail}. Evict objects, or raise its maxmemory."
        )
    if isinstance(error, MemoryError):
        return CapacityError(f"{said} needs more memory than this process gets; read a range, or make room.")
    if isinstance(error, (InvalidResponse, RecursionError)):
        return ConnectorError(f"{said} failed: {detail}. Is it a Redis server, and is TLS (rediss://) as it expects?")
    if isinstance(error, SOON):  # some of these are errors of connections
        return ConnectorError(f"{said} failed, the server is not ready: {detail}. Try again in a moment.")
    if isinstance(error, ResponseError):
        return _refused(error, said, detail)
    if isinstance(error, ssl.SSLEOFError) and "connecting" not in detail:
        detail = "the server closed the connection"
    elif isinstance(error, ssl.SSLError) or "SSL" in detail or "CERTIFICATE" in detail:
        return ConnectorError(f"{said} failed in TLS: {detail}. Check ?ca=, ?cert= and whether the port speaks TLS.")
    hint = "; does the port speak TLS (rediss://)" if "reset by peer" in detail else ""
    return ConnectorError(f"{said} failed: {detail}. Is the server running, and its host and port right{hint}?")


def _refused(error: ResponseError, said: str, detail: str) -> ProxyfabError:
    if "WRONGTYPE" in detail:
        return IntegrityError(f"{said}: what lies under this key is not proxyfab's ({detail}); evict it.")
    if isinstance(error, MOVED):
        return ConnectorError(f"{said} failed: {detail}. Name the cluster (?cluster=1) or the sentinel (?sentinel=).")
    if "NOAUTH" in detail or "WRONGPASS" in detail:
        return AccessDenied(f"{said} was refused: {detail}. Set the password: ?password=env:NAME.")
    if "MISCONF" in detail:
        return CapacityError(f"{said} failed: {detail}. The server cannot write its snapshots; look at its disk.")
    return ConnectorError(f"{said} failed, the server answered: {detail}.")
