"""What a node server serves, where, and within which limits: plain data."""

from __future__ import annotations

from dataclasses import dataclass

READ = "read"
RIGHTS = (READ, "copies", "put", "evict", "push")
"""What a site may be allowed to do at another one (`proxyfab.server.rights`)."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another site."""

    name: str
    key: bytes
    """The public half of its Ed25519 key."""
    address: tuple[str, int] | None = None
    """Where it is dialled; None where it has to dial."""
    may: frozenset[str] = frozenset({READ})
    """What it may do here."""
    spaces: frozenset[str] = frozenset()
    """In which namespaces only; none for all of them."""


@dataclass(frozen=True, slots=True)
class Site:
    """What makes a node server a site's gateway."""

    name: str
    """Also the id of its `sign` key in the keyring."""
    listen: tuple[str, int] | None = None
    """Where other sites dial."""
    peers: tuple[Neighbour, ...] = ()
    relays: tuple[tuple[str, int], ...] = ()
    copies: int = 1 << 30
    """Bytes of other sites' objects that are kept, at most."""
    keep: float = 3600.0
    """Seconds that a copy is kept at most."""
    streams: int = 8
    """Streams of a link that is dialled from here."""
    dialler: str = "usual"
    """What makes connections, by its name among `proxyfab.diallers`."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a node server; sizes in bytes, times in seconds."""

    bind: tuple[str, ...] = ("tcp://127.0.0.1:0",)
    advertise: str = ""
    """The address that keys carry, `host:port`; by default what was bound to."""
    key: str = ""
    """Id of the server's CURVE key in the keyring; needed beyond loopback."""
    allow: str = ""
    """File of public keys that are let in; by default the keyring's list for `key`."""
    side: bool = True
    """Whether to offer a way beside ZeroMQ to who may use it (`proxyfab.server.side`)."""
    uploads: int = 1 << 30
    """Bytes of objects that are being received, at most."""
    objects: int = 1 << 40
    """Bytes of one object at most."""
    grant: float = 30.0
    """Seconds that a client of this machine may take to fill shared memory it was granted, and more for much."""
    idle: float = 30.0
    """Seconds that a transfer may stand still."""
    orphans: float = 60.0
    """Seconds without a connection after which a client of another machine has ended, and its unnamed stores too."""
    patience: float = 5.0
    """Seconds that a stopping server gives to those it is serving."""
    site: Site | None = None
    """Of which site this is the gateway, if it is one."""
