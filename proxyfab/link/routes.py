"""The ways to another site, in their order: its own address, then each relay. The one that led there is tried first."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from functools import partial

from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.link.attending import call
from proxyfab.link.dialling import Dial, usual
from proxyfab.link.doors import Hello, Refused, knock
from proxyfab.link.identity import Identity

_DIAL = 10.0
"""Seconds that a stream may take to come about."""
_SHORT = 4.0
"""Seconds for a direct dial where there is another way."""
_REMEMBERED = 30.0
"""Seconds in which the way that led there last is tried first."""


class Routes:
    """How streams to one site are opened. Thread-safe.

    Args:
        identity: This site's.
        peer: The other site's name.
        address: Where it listens; None where it does not.
        relays: Host and port of each relay.
        dial: Makes connections.
    """

    def __init__(
        self,
        identity: Identity,
        peer: str,
        address: tuple[str, int] | None,
        relays: Sequence[tuple[str, int]] = (),
        dial: Dial = usual,
    ) -> None:
        self._identity, self._peer, self._dial = identity, peer, dial
        self._ways = ([("direct", address)] if address is not None else []) + [("relay", relay) for relay in relays]
        self._good: tuple[float, int] | None = None
        """When which way led there."""

    def __bool__(self) -> bool:
        return bool(self._ways)

    @property
    def way(self) -> str:
        """The kind of the way that led there last: `direct`, `relay`, or `""`."""
        return "" if self._good is None else self._ways[self._good[1]][0]

    def __call__(self, hello: Hello) -> tuple[ssl.SSLSocket, bool]:
        """Open a stream; raises as `knock` does, with what went wrong on each way."""
        order = list(range(len(self._ways)))
        good = self._good
        if good is not None and time.monotonic() - good[0] < _REMEMBERED:
            order.remove(good[1])
            order.insert(0, good[1])
        troubles: list[ProxyfabError] = []
        for number in order:
            try:
                found = self.try_one(number, hello)
            except Refused:  # it was reached
                raise
            except ProxyfabError as error:
                troubles.append(error)
            else:
                self._good = time.monotonic(), number
                return found
        if len(troubles) == 1:
            raise troubles[0]
        raise ConnectorError(" ".join(str(trouble) for trouble in troubles))

    def try_one(self, number: int, hello: Hello) -> tuple[ssl.SSLSocket, bool]:
        """Open a stream on one of the ways."""
        kind, address = self._ways[number]
        if kind == "direct":
            timeout = _SHORT if len(self._ways) > 1 else _DIAL
            return knock(self._identity, self._peer, address, hello, timeout=timeout, dial=self._dial)
        target = self._identity.public_of(self._peer)
        through = partial(_through, self._identity, target, self._dial)
        return knock(self._identity, self._peer, address, hello, timeout=_DIAL, dial=through)

    @property
    def ways(self) -> list[tuple[str, tuple[str, int]]]:
        """Kind and address of each."""
        return list(self._ways)


def _through(identity: Identity, target: bytes, dial: Dial, host: str, port: int, timeout: float) -> socket.socket:
    return call(identity, (host, port), target, timeout, dial)
