"""`site://aps?gateway=host:port`: objects of several sites, all through the gateway of one's own.

A gateway is a node server (`proxyfab serve --site`) that knows others. A key says at which site its object is at home;
whoever reads it asks his own gateway, which fetches it once for all of its site. So a reference that was made at one
site resolves at any other, and processes need no way out of their own.

Which gateway that is a reference from elsewhere cannot know: `PROXYFAB_SITE=alcf=login1:5555` says it for a process and
its children, and then counts for every URL of another site. Without it a URL's own `gateway=` is used.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from proxyfab.abc import check_batch, check_ttl
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.channel import Channel
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.connectors.zmq.servers import TIMEOUT, Reach, Spot
from proxyfab.connectors.zmq.spaces import draw
from proxyfab.errors import ConfigurationError, ConnectorError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.osio.namespace import is_name
from proxyfab.policy import check_address, is_received
from proxyfab.spec import ConnectorSpec, check_name
from proxyfab.wire.messages import Message
from proxyfab.zeromq.guard import CLIENT

VARIABLE = "PROXYFAB_SITE"
_STAGED = 600.0
"""Seconds that an object lives here which another site is to take, if its process is killed meanwhile."""
_PART = 0.9
"""Of a call's time a gateway may take so much for what it asks other sites."""


class SiteSpot(Spot):
    """Where an object lies, or is put, for processes of any site."""

    __slots__ = ()

    def where(self) -> str:
        """The locator that a key carries: site, namespace and incarnation of its gateway."""
        if "/" in self.namespace:  # another site's: written so already
            return self.namespace
        welcome = self.link.known()
        return f"{welcome.site}/{self.namespace}/{welcome.incarnation}"


class SiteConnector(ZMQConnector):
    """Objects of several sites. Thread-safe and fork-safe.

    Args:
        site: This process's site; `""` for the one that `PROXYFAB_SITE` names.
        name: A name makes the namespace persistent while the gateway runs; without one it lives with this process.
        gateway: `host:port` of the gateway; by default what `PROXYFAB_SITE` says.
        timeout: Seconds a call may take.
        shared: Whether to use shared memory where the gateway is of this machine.
        key: The gateway's public CURVE key; by default what the keyring knows of its address.
        identity: Id of this client's own CURVE key in the keyring.
        side: Which side channels to use, as for `zmq://`.
    """

    scheme: ClassVar[str] = "site"

    def __init__(
        self,
        site: str = "",
        name: str | None = None,
        *,
        gateway: str = "",
        timeout: float = TIMEOUT,
        shared: bool = True,
        key: str = "",
        identity: str = CLIENT,
        side: str = "1",
    ) -> None:
        self._given = site, gateway
        here, own = _environment()
        moved = bool(here) and site not in ("", here)
        self.site = here if moved else site or here
        address = own if moved or not gateway else gateway
        if not address or not self.site:
            raise ConfigurationError(
                f"site://{site} names no gateway: write site://NAME?gateway=HOST:PORT, or say which is one's own by "
                f"{VARIABLE}=NAME=HOST:PORT."
            )
        if is_received() and address != own:
            check_address("site", address)
        if name is not None and moved and name.startswith("~"):
            name = draw()  # the one in the URL lives with a process of another site
        super().__init__(address, name, timeout=timeout, shared=shared, key=key, identity=identity, side=side)
        self._extra = {"within": timeout * _PART}

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> SiteConnector:
        spec = ConnectorSpec.parse(url)
        options = dict(spec.options)
        gateway = options.pop("gateway", "")
        reach = Reach.parse(ConnectorSpec("zmq", "gateway:1", spec.path, tuple(options.items()), spec.layers))
        if name is not None:
            check_name(name)
        namespace = name or options.get("ns")
        if namespace is not None and not is_name(namespace):
            raise ConfigurationError(f"{namespace!r} cannot name a store; use letters, digits, '.', '_' and '-'.")
        _, timeout, shared, key, identity, side = reach
        return cls(
            spec.host, namespace, gateway=gateway, timeout=timeout, shared=shared, key=key, identity=identity, side=side
        )

    @property
    def spec(self) -> str:
        site, gateway = self._given
        options = dict(ConnectorSpec.parse(self.reach.url(self.namespace)).options)
        said = {"gateway": gateway, **options} if gateway else options
        return str(ConnectorSpec("site", site, "", tuple(said.items())))

    @property
    def place(self) -> str:
        return f"site://{self.site}"

    def _spot(self, namespace: str, incarnation: str = "") -> Spot:
        link = self.servers.own()
        found = link.known().site
        if found != self.site:
            what = f"the gateway of site {found}" if found else "no gateway, but a node server without --site"
            raise ConfigurationError(f"{link.address} is {what}, not the gateway of site {self.site}.")
        return SiteSpot(link, incarnation, namespace)

    def _find(self, key: Key | None, ends: float = math.inf) -> Spot:  # noqa: ARG002 - no gateway has to be asked
        if key is None or not key.where:
            return self._spot(self.namespace)
        site, namespace, incarnation = _home(key)
        return self._spot(namespace, incarnation) if site == self.site else self._spot(key.where)

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        home = None if key is None or not key.where else _home(key)
        if key is None or home is None or home[0] == self.site:
            return super().put(frames, key=key, ttl=ttl, replace=replace)
        check_ttl(ttl)
        self._give(frames, key, ttl, replace, time.monotonic() + self.timeout)
        return key

    def _give(self, frames: Frames, key: Key, ttl: float | None, replace: bool, ends: float) -> None:
        """Put here what another site is to take from here; one call, however many requests it is."""
        staged = super().put(frames, ttl=_STAGED)
        spot = self._find(staged)
        left = max(ends - time.monotonic(), 0.001)
        said = {"ns": key.where, "ids": [key.id], "ttl": ttl, "replace": replace, "within": left * _PART}
        try:
            self._told(spot, "give", {**said, "staged_ns": spot.namespace, "staged": staged.id}, ends)
        finally:
            if time.monotonic() < ends:
                with contextlib.suppress(ProxyfabError):  # it expires
                    self._told(spot, "evict", {"ns": spot.namespace, "ids": [staged.id]}, ends)

    def _told(self, spot: Spot, verb: str, fields: dict[str, Any], ends: float) -> None:
        """A request that is answered until then, by the very gateway that has what was put for it."""

        def once(channel: Channel, request: bytes) -> Message:
            if channel.welcome.fields["incarnation"] != spot.incarnation:
                raise ConnectorError(
                    f"The gateway at {spot.link.address} was started anew amid a put under a key of another site, and "
                    "whether that was done is not known: see whether it is there, or put it with replace=True."
                )
            channel.send(verb, request, fields)
            return channel.answer(request, ends)

        spot.link.call(verb, once, timeout=max(ends - time.monotonic(), 0.001))

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        if keys is None or all(not key.where or _home(key)[0] == self.site for key in keys):
            return super().put_many(many, keys=keys, ttl=ttl, replace=replace)
        check_batch(many, keys)
        check_ttl(ttl)
        ends = time.monotonic() + self.timeout
        found: list[Key] = []
        for frames, key in zip(many, keys, strict=True):
            if not key.where or _home(key)[0] == self.site:
                found.append(super().put(frames, key=key, ttl=ttl, replace=replace))
            else:
                self._give(frames, key, ttl, replace, ends)
                found.append(key)
        return found

    def push(self, keys: Sequence[Key], to: str) -> list[bool]:
        """Bring objects to another site before somebody asks for them there; says which of them are there now."""
        return [bool(there) for there in self._ask("push", keys, "found", {"to": to})]


def _home(key: Key) -> list[str]:
    parts = key.where.split("/")
    if len(parts) != 3 or not all(parts):
        raise ConnectorError(f"{key} is no key of a site: it names no site, namespace and incarnation.")
    return parts


def _environment() -> tuple[str, str]:
    """The site and the gateway that the environment names."""
    text = os.environ.get(VARIABLE, "")
    name, _, gateway = text.partition("=")
    if text and not (name and gateway):
        raise ConfigurationError(f"{VARIABLE}={text!r} makes no sense; write {VARIABLE}=NAME=HOST:PORT.")
    return name, gateway
