"""How a TCP connection to another site, or to a relay, is made: straight, or through the proxy that a site prescribes.

A tunnel of SSH or Globus needs nothing here: its local end is an address like any other, as a site is known by its key
and not by its name. What needs more than an address registers a function under `proxyfab.diallers`.
"""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from proxyfab.errors import ConfigurationError

Dial = Callable[[str, int, float], socket.socket]
"""Connects to a host and a port within a number of seconds: straight, or through a tunnel."""
_HEAD = 16 << 10
_PORT = 3128


def straight(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection."""
    return socket.create_connection((host, port), timeout)


def usual(host: str, port: int, timeout: float) -> socket.socket:
    """Straight, or through the proxy that `HTTPS_PROXY` names, unless `NO_PROXY` says that this host needs none."""
    proxy = proxy_for(host, os.environ)
    return through(proxy, host, port, timeout) if proxy else straight(host, port, timeout)


def proxy_for(host: str, environment: Mapping[str, str]) -> str:
    """The proxy that an environment names for a host; `""` for none."""
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""
    spared = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    for each in filter(None, (part.strip().lower() for part in spared.split(","))):
        domain = each.lstrip("*").lstrip(".")
        if each == "*" or host.lower() == domain or host.lower().endswith(f".{domain}"):
            return ""
    return "" if host in ("localhost", "127.0.0.1", "::1") else proxy


def through(proxy: str, host: str, port: int, timeout: float) -> socket.socket:
    """A connection that a proxy makes for us (HTTP's CONNECT, RFC 9110 section 9.3.6).

    Raises:
        OSError: It does not answer, or does not want to.
    """
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigurationError(f"HTTPS_PROXY={parts.hostname or proxy!r} is no proxy of the form http://HOST:PORT.")
    ends = time.monotonic() + timeout
    connection = straight(parts.hostname, parts.port or _PORT, timeout)
    try:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(secret).decode()}")
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        status = _answer(connection, ends)
        if status[1:2] != ["200"]:
            where = f"{parts.hostname}:{parts.port or _PORT}"
            raise ConnectionError(f"the proxy {where} answers CONNECT {target} with {' '.join(status)[:200]!r}")
    except BaseException:
        connection.close()
        raise
    return connection


def _answer(connection: socket.socket, ends: float) -> list[str]:
    """The words of the first line of what a proxy answers; reads to the end of its head, and not a byte more."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        connection.settimeout(max(ends - time.monotonic(), 0.001))
        byte = connection.recv(1)
        if not byte or len(head) > _HEAD:
            raise ConnectionError("the proxy's answer to CONNECT is none")
        head += byte
    return bytes(head).split(b"\r\n", 1)[0].decode("latin-1").split()
