"""The node servers that one connector talks to: its own, and those that took the objects whose keys it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from proxyfab.connectors.zmq.link import Link
from proxyfab.connectors.zmq.locator import Locator, endpoint
from proxyfab.connectors.zmq.private import Files, Memberships
from proxyfab.errors import ConfigurationError, ConnectorError, ObjectLost
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.policy import check_address
from proxyfab.spec import ConnectorSpec
from proxyfab.zeromq.connection import Broken
from proxyfab.zeromq.guard import CLIENT, Guard

AUTO = "auto"
"""Stands for the private server of this user on this machine."""
TIMEOUT = 60.0


class Reach(NamedTuple):
    """How a connector reaches its servers. Plain data; what a URL says."""

    address: str
    timeout: float = TIMEOUT
    shared: bool = True
    key: str = ""
    identity: str = CLIENT
    side: str = "1"

    @classmethod
    def parse(cls, spec: ConnectorSpec) -> Reach:
        """What a URL says, without its namespace.

        Raises:
            ConfigurationError: It makes no sense.
        """
        options = spec.take("ns", "timeout", "shared", "key", "as", "side")
        if spec.path.strip("/") and spec.host:
            raise ConfigurationError(f"{spec} has a path; a node server is named as in zmq://host:port?ns=name.")
        return cls(
            spec.host or spec.path,
            _seconds(options.get("timeout", str(TIMEOUT))),
            _switch(options.get("shared", "1")),
            options.get("key", ""),
            options.get("as", CLIENT),
            _way(options.get("side", "1")),
        )

    def url(self, namespace: str) -> str:
        """The inverse of `parse`."""
        options = [("ns", namespace)]
        if self.timeout != TIMEOUT:
            options.append(("timeout", f"{self.timeout:g}"))
        if not self.shared:
            options.append(("shared", "0"))
        if self.key:
            options.append(("key", self.key))
        if self.identity != CLIENT:
            options.append(("as", self.identity))
        if self.side != "1":
            options.append(("side", self.side))
        host, path = ("", self.address) if self.address.startswith("/") else (self.address, "")
        return str(ConnectorSpec("zmq", host, path, tuple(options)))

    def check(self) -> None:
        """Refuse an address or a timeout that makes no sense."""
        if self.address != AUTO:
            endpoint(self.address)
        if not self.timeout > 0:
            raise ConfigurationError(f"A timeout is a positive number of seconds, not {self.timeout!r}.")


class Spot(NamedTuple):
    """Where an object lies, or is put: which server, and under which namespace there."""

    link: Link
    incarnation: str
    """Which has to answer; `""` for whichever is there."""
    namespace: str

    def where(self) -> str:
        """The locator that a key carries."""
        welcome = self.link.known()
        return str(Locator(self.namespace, welcome.incarnation, welcome.address))


class Servers:
    """Links by address. Thread-safe and fork-safe.

    Args:
        reach: How to reach them.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._links: dict[str, Link] = {}
        self._members = Memberships()
        self._closed = False
        on_fork(self)

    def after_fork(self) -> None:
        """The uses of private servers are the parent's; links see to themselves."""
        self._members.after_fork()

    def own(self) -> Link:
        """The link to the connector's own server."""
        if self._closed:
            raise ConnectorError(f"zmq://{self._reach.address} was closed; open a new one.")
        if self._reach.address != AUTO:
            return self._link(self._reach.address, self._reach.key)
        files = Files.here()
        self._members.take(files, self._reach.timeout, start=True)
        return self._link(files.socket, revive=partial(self._members.renew, files))

    def fresh(self, timeout: float) -> Link:
        """A link of its own to the connector's server; who asks closes it."""
        reach, own = self._reach, self.own()
        guard = Guard(own.address, reach.key, reach.identity)
        timeout = min(reach.timeout, timeout)
        return Link(own.address, timeout, shared=reach.shared, side=reach.side, options=guard.options)

    def find(self, key: Key | None, namespace: str, ends: float = math.inf) -> Spot:
        """Where the object of a key lies; without a key, or with one that does not say, it is the own namespace.

        Who has to know by `ends` (monotonic seconds) may be told the second of two addresses of one server.
        """
        own = self.own()
        if key is None or not key.where:
            return Spot(own, "", namespace)
        locator = Locator.of(key)
        if locator.address != own.address and not _is_of(own, locator, ends):
            own = self._other(locator.address)
        return Spot(own, locator.incarnation, locator.namespace)

    def _other(self, address: str) -> Link:
        check_address("zmq", address)
        files = Files.at(address)
        if files is not None and not self._members.take(files, self._reach.timeout, start=False):
            raise ObjectLost(f"The private node server at {address} has ended, and what it held is lost.")
        return self._link(address)

    def _link(self, address: str, key: str = "", revive: Callable[[float], None] | None = None) -> Link:
        link = self._links.get(address)
        if link is None:
            guard = Guard(address, key, self._reach.identity)
            reach = self._reach
            made = Link(
                address, reach.timeout, shared=reach.shared, side=reach.side, options=guard.options, revive=revive
            )
            link = self._links.setdefault(address, made)
        return link

    def close(self) -> None:
        """End the connections, and the uses of private servers."""
        self._closed = True
        for link in list(self._links.values()):
            link.close()
        self._members.leave()


def _is_of(link: Link, locator: Locator, ends: float) -> bool:
    """Whether a link's server took an object, or did before it was started anew; it may go by several addresses."""
    try:
        welcome = link.known(ends)
    except (ConnectorError, Broken):  # another server may answer, even if this one does not
        return False
    return locator.incarnation == welcome.incarnation or locator.address == welcome.address


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"timeout={text!r} is not a number of seconds.") from None


def _way(text: str) -> str:
    if text not in ("0", "1", "tcp"):
        raise ConfigurationError(f"side={text!r} is none of 0, 1 and tcp.")
    return text


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ConfigurationError(f"shared={text!r} is neither 0 nor 1.")
    return text == "1"
