"""Whether a machine can be found and a port on it be reached: the first steps of diagnosing any place across a network.

Promises: each step ends within its deadline, also where a name server is silent or packets vanish; nothing is sent to
who answers. Leaves to the caller what is spoken there.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

from proxyfab.abc import Finding
from proxyfab.background import aside
from proxyfab.errors import ResolveTimeout

_Address = tuple[socket.AddressFamily, tuple[str, int]]


def reach(host: str, port: int, *, timeout: float = 5.0) -> Iterator[Finding]:
    """Two findings, `name` and `port`, or one if the name is not known.

    Args:
        host: A name or an address.
        port: Of TCP.
        timeout: Seconds that each step may take.
    """
    finding, addresses = _name(host, port, timeout)
    yield finding
    if addresses:
        yield _port(host, port, addresses, timeout)


def _name(host: str, port: int, timeout: float) -> tuple[Finding, list[_Address]]:
    task = aside(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), f"looking up {host}")
    try:
        answers = task.result(timeout)
    except ResolveTimeout:
        detail = f"{host}: no answer from the name service within {timeout:g} s; check /etc/resolv.conf and the network"
        return Finding("name", "fail", detail), []
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        detail = f"{host}: {reason}; check the spelling and /etc/resolv.conf, or give the address as a number"
        return Finding("name", "fail", detail), []
    found: list[_Address] = list(dict.fromkeys((answer[0], (str(answer[4][0]), port)) for answer in answers))
    numbers = ", ".join(address for _, (address, _) in found)
    return Finding("name", "ok", host if numbers == host else f"{host} is {numbers}"), found


def _port(host: str, port: int, addresses: list[_Address], timeout: float) -> Finding:
    deadline = time.monotonic() + timeout
    failed: OSError = OSError("no address was tried")
    for family, address in addresses:
        started = time.monotonic()
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(max(deadline - started, 0.001))
                probe.connect(address)
        except OSError as error:
            failed = error
        else:
            took = (time.monotonic() - started) * 1e3
            return Finding("port", "ok", f"{address[0]} accepts connections at port {port} ({took:.1f} ms)")
    return Finding("port", "fail", f"{host}:{port} {_reason(failed, timeout)}")


def _reason(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return (
            f"did not answer within {timeout:g} s: the machine is off, or a firewall drops what is sent there; "
            "check the address, the route and the firewall"
        )
    if error.errno == errno.ECONNREFUSED:
        return "refuses connections: no server listens there; start it, or check the port and the address it binds to"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"cannot be reached ({error.strerror}); check the network and the route to it"
    return f"cannot be connected to: {error.strerror or error}"
