"""Servers from edge to cloud as one description: who is below whom, who may do what, which topics are gathered upwards.

    [servers.hub]                       [servers.edge]                      [topics.frames]
    role = "hub"                        role = "edge"                       from = ["edge"]
    address = "hub.lab:4222"            address = "127.0.0.1:4222"          to = "hub"
    leaf = "hub.lab:7422"               upstream = "hub"                    retention = "7d"
    store = "/var/lib/proxyfab"         store = "/var/lib/proxyfab"

Each server keeps what was published to it, whether or not it reaches the one above. A gathered topic lies on every
server from where it is published to where it is gathered, and each takes from those right below it.

Promises: pure; what makes no sense is refused with the name of what is wrong. No secret is in a description: `env:NAME`
or a bcrypt hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from proxyfab.errors import ConfigurationError
from proxyfab.events.access import ADMIN, nats_token
from proxyfab.events.model import Grant, Topic
from proxyfab.events.people import ENV, WORD, Callout, Principal, Tokens, check_people, described, grants_of

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of a server's certificate, its key, and whom it and its clients believe."""

    cert: str
    key: str
    ca: str = ""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One server.

    Attributes:
        role: `edge` (nobody is below it), `site`, or `hub` (nobody is above it).
        address: `host:port` where clients find it.
        store: Directory of what it keeps.
        upstream: The server above it.
        leaf: `host:port` where those below find it.
        via: `host:port` to dial instead of the upstream's `leaf`: a tunnel, a relay.
        listen: `host:port` to listen at, where that is not `address`.
        advertise: Whether it tells those below of other addresses of its own.
        link: `env:NAME` of the password of its link upwards; NAME_URL in its own environment is the URL with it.
        tls: Certificates; without, nothing is encrypted.
    """

    role: Literal["edge", "site", "hub"]
    address: str
    store: str
    upstream: str = ""
    leaf: str = ""
    via: str = ""
    listen: str = ""
    advertise: bool = False
    link: str = ""
    tls: Tls | None = None


class Gathered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A topic that is gathered upwards.

    Attributes:
        origins: Servers that it is published to (`from`).
        to: The server where all of it is; it may publish, too. One between may not, for what says that its producers
            have ended would have to go round in a circle.
        partitions: As of any topic; so are `retention` (seconds, or as in `"7d"`), `max_bytes`, `full` and `release`.
        account: Whose it is.
    """

    origins: list[str] = msgspec.field(name="from")
    to: str
    partitions: int = 1
    retention: float | str | None = None
    max_bytes: int | None = None
    full: str = "reject"
    release: str = "all_groups_acked"
    account: str = "main"


class Held(NamedTuple):
    """A gathered topic on one server.

    Attributes:
        server: Which.
        topic: What is made there.
        below: Servers that records come from.
        known: Servers whose producers come along.
        lift: Whether its own producers come along.
    """

    server: str
    topic: Topic
    below: tuple[str, ...]
    known: tuple[str, ...]
    lift: bool


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A description, checked.

    Attributes:
        servers: By name, which is its JetStream domain, too.
        principals: By name. Without any, every server is open, and may be reached from its own machine only.
        topics: By name.
        namespace: What subjects and streams begin with: `?ns=` of its URLs.
        callout: Who says who may enter, where the servers do not know it by themselves.
        tokens: By name, whose tokens it believes.
    """

    servers: dict[str, Server]
    principals: dict[str, Principal] = {}
    topics: dict[str, Gathered] = {}
    namespace: str = "pf"
    callout: Callout | None = None
    tokens: dict[str, Tokens] = {}

    @classmethod
    def parse(cls, text: str | bytes) -> Topology:
        """The topology that a TOML document describes.

        Raises:
            ConfigurationError: It does not describe one; the message says where.
        """
        found = described(text, cls, "This is no topology")
        found.check()
        return found

    def check(self) -> None:
        """Refuse what makes no sense; raises ConfigurationError."""
        if not self.servers:
            raise ConfigurationError("This topology has no servers; describe one in [servers.NAME].")
        for name, server in self.servers.items():
            self._check_server(name, server)
        self._check_addresses()
        for name in self.servers:
            list(self.above(name))
        check_people(self, asked=self.callout is not None)
        for name, principal in self.principals.items():
            for where in principal.servers:
                self._known(where, f"principal {name}")
        for name in self.topics:
            self.held(name)

    @property
    def accounts(self) -> list[str]:
        """Those of principals and topics; none in an open topology."""
        return sorted({each.account for each in self.principals.values()})

    def above(self, name: str) -> Iterator[str]:
        """The servers above one, the nearest first; raises ConfigurationError where that never ends."""
        seen = [name]
        while upstream := self.servers[seen[-1]].upstream:
            if upstream in seen:
                circle = " -> ".join([*seen[seen.index(upstream) :], upstream])
                raise ConfigurationError(f"Servers are above one another: {circle}. One of them has no upstream.")
            seen.append(upstream)
            yield upstream

    def grants(self, account: str, server: str = "") -> list[Grant]:
        """Those of an account's principals that a server knows."""
        return [
            grant
            for name, each in self.principals.items()
            if each.account == account and (not server or not each.servers or server in each.servers)
            for grant in grants_of(name, each)
        ]

    def url(self, server: str, principal: str = "", *, domain: str = "") -> str:
        """How a broker is opened there."""
        options = {"ns": self.namespace} if self.namespace != "pf" else {}
        known = self.servers[server]
        if principal:
            who = self.principals[principal]
            options |= {"user": principal} if who.password or who.nkey else {}
            options |= {"inbox": f"_INBOX.{nats_token(principal)}"}
            options |= {"password": who.password} if who.password.startswith("env:") else {}
        if known.tls is not None:
            options |= {"tls": "1"} | ({"ca": known.tls.ca} if known.tls.ca else {})
        options |= {"domain": domain} if domain else {}
        query = "&".join([f"{name}={value}" for name, value in options.items()])
        return f"nats://{known.address}{'?' if query else ''}{query}"

    def administrator(self, account: str) -> str:
        """A principal of an account who may do everything; "" where nobody is needed. Raises ConfigurationError."""
        if not self.principals:
            return ""
        for name, each in sorted(self.principals.items()):
            if each.account == account and ADMIN in each.grants.get("*", ()):
                return name
        raise ConfigurationError(
            f'The account {account} has nobody who may make topics; grant somebody {{ "*" = ["admin"] }}.'
        )

    def held(self, topic: str) -> list[Held]:
        """A gathered topic on each of its servers, those below first; raises ConfigurationError."""
        each = self.topics[topic]
        servers = self._servers_of(topic, each)
        children = {
            name: [other for other in servers if self.servers[other].upstream == name and other != each.to]
            for name in servers
        }

        def known(name: str) -> list[str]:
            return [found for child in children[name] for found in (known(child) if children[child] else [child])]

        for name in each.origins:
            if children[name] and name != each.to:
                raise ConfigurationError(
                    f"Topic {topic} is published at {name}, and comes by it from {', '.join(children[name])}: give "
                    f"what {name} publishes a topic of its own."
                )
        return [
            Held(
                name,
                self._made(topic, each, top=name == each.to),
                tuple(children[name]),
                tuple(known(name)),
                lift=name != each.to and not children[name],
            )
            for name in servers
        ]

    def _servers_of(self, topic: str, each: Gathered) -> list[str]:
        """Those from the origins to where all of it is, those below first."""
        for name in (*each.origins, each.to):
            self._known(name, f"topic {topic}")
        depths: dict[str, int] = {each.to: 0}
        for origin in each.origins:
            path = [origin, *self.above(origin)]
            if each.to not in path:
                raise ConfigurationError(f"Topic {topic} cannot be gathered: {each.to} is not above {origin}.")
            path = path[: path.index(each.to)]
            depths |= {name: len(path) - place for place, name in enumerate(path)}
        return sorted(depths, key=lambda name: (-depths[name], name))

    def _made(self, name: str, each: Gathered, *, top: bool) -> Topic:
        """Objects are released where all groups are; below, nothing but time takes them."""
        return Topic(
            name,
            each.partitions,
            seconds(each.retention),
            each.max_bytes,
            each.full,
            release=each.release if top else "never",
        )

    def _known(self, name: str, whose: str) -> None:
        if name not in self.servers:
            raise ConfigurationError(f"The {whose} speaks of a server {name!r}; there are {', '.join(self.servers)}.")

    def _check_server(self, name: str, server: Server) -> None:
        if not WORD.fullmatch(name):
            raise ConfigurationError(f"A server cannot be called {name!r}: letters, digits, '_' and '-'.")
        for what in ("address", "leaf", "via", "listen"):
            text = getattr(server, what)
            if text:
                host_port(text, f"{what} of the server {name}")
        if server.role == "hub" and server.upstream:
            raise ConfigurationError(f"The hub {name} has an upstream; nobody is above a hub.")
        if server.role != "hub" and not server.upstream:
            raise ConfigurationError(f"The {server.role} {name} has no upstream; say which server is above it.")
        if server.upstream:
            self._known(server.upstream, f"upstream of {name}")
            above = self.servers[server.upstream]
            if above.role == "edge":
                raise ConfigurationError(f"{name} is below {server.upstream}, which is an edge: make that a site.")
            if not above.leaf:
                raise ConfigurationError(f"{server.upstream} has no leaf address for {name} to dial: leaf = host:port.")
            if self.principals and not server.link:
                raise ConfigurationError(f"The link of {name} upwards needs a password: link = 'env:NAME'.")
        if server.link and not ENV.fullmatch(server.link):
            raise ConfigurationError(f"The link of {name} is not env:NAME.")
        if not self.principals and not _local(server):
            raise ConfigurationError(
                f"{name} can be reached from elsewhere, and there are no principals: say who may enter."
            )

    def _check_addresses(self) -> None:
        taken: dict[str, str] = {}
        for name, server in self.servers.items():
            for text in (server.address, server.leaf):
                if text and taken.setdefault(text, name) and taken[text] != name:
                    raise ConfigurationError(f"{name} and {taken[text]} both listen at {text}.")
            if server.address == server.leaf:
                raise ConfigurationError(f"{name} listens for clients and servers at the same {server.leaf}.")


def host_port(text: str, what: str) -> tuple[str, int]:
    """A host and a port; raises ConfigurationError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"The {what} is {text!r}; write host:port.")
    return host, int(port)


def seconds(text: float | str | None) -> float | None:
    """`"7d"` as seconds; numbers are seconds already."""
    if text is None or isinstance(text, (int, float)):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", text)
    if match is None:
        raise ConfigurationError(f"{text!r} is no time; write seconds, or as in 90s, 15min, 12h, 7d.")
    return float(match[1]) * UNITS[match[2]]


def _local(server: Server) -> bool:
    return all(text.rpartition(":")[0] in _LOOPBACK for text in (server.listen or server.address, server.leaf) if text)


def environment(topology: Topology, server: str) -> Mapping[str, str]:
    """The variables that a server's configuration refers to, and what each is."""
    found: dict[str, str] = {}
    callout = topology.callout
    if callout is not None:
        found[callout.password[4:]] = "password of the callout"
    for name, each in topology.principals.items() if callout is None else ():
        if each.password.startswith("env:") and (not each.servers or server in each.servers):
            found[each.password[4:]] = f"password of {name}"
    for name, other in topology.servers.items():
        if other.link and other.upstream == server:
            found[other.link[4:]] = f"password of the link of {name}"
        if other.link and name == server:
            found |= {
                f"{other.link[4:]}_URL_{account}".upper().replace("-", "_"): f"URL of the link upwards for {account}"
                for account in topology.accounts
            }
    return found
