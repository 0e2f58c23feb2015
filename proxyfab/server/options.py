"""What a node server serves, where, and within which limits: plain data."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Seconds that a client of this machine may take to fill shared memory it was granted."""
    idle: float = 30.0
    """Seconds that a transfer may stand still."""
    orphans: float = 60.0
    """Seconds without a connection after which a client of another machine has ended, and its unnamed stores too."""
    patience: float = 5.0
    """Seconds that a stopping server gives to those it is serving."""
