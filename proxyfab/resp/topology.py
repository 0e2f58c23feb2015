"""Which server has a key: always the same one, the master that sentinels agree on, or a cluster's node for its slot.

Promises: nothing is asked before it is needed, and again only after `refresh`. Does no I/O but through the function it
is given. Thread-safe: what is known is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

from proxyfab.errors import ProxyfabError
from proxyfab.resp.errors import NONSENSE
from proxyfab.resp.place import Address, Place

Peek = Callable[[Address, Sequence[tuple[bytes, ...]], bool], list[Any]]
"""What a server answers to some commands; whether it is a sentinel."""


class Topology(Protocol):
    """Where keys are."""

    def known(self, name: bytes) -> Address | None:
        """The server that has the key, as far as is known; None for what has to be asked first."""

    def masters(self) -> list[Address]:
        """All servers that have keys."""

    def refresh(self) -> None:
        """Forget what is known: it was wrong."""


def topology_of(place: Place, peek: Peek) -> Topology:
    """The kind that `place` asks for."""
    if place.cluster:
        return _Cluster(place, peek)
    return _Sentinel(place, peek) if place.sentinel else _Single(place.hosts[0])


class _Single:
    def __init__(self, address: Address) -> None:
        self._address = address

    def known(self, name: bytes) -> Address | None:  # noqa: ARG002  # all keys are there
        return self._address

    def masters(self) -> list[Address]:
        return [self._address]

    def refresh(self) -> None:
        pass


class _Sentinel:
    def __init__(self, place: Place, peek: Peek) -> None:
        self._place = place
        self._peek = peek
        self._master: Address | None = None

    def known(self, name: bytes) -> Address | None:  # noqa: ARG002  # all keys are there
        return self._master

    def masters(self) -> list[Address]:
        master = self._master
        if master is None:
            master = self._master = self._ask()
        return [master]

    def refresh(self) -> None:
        self._master = None

    def _ask(self) -> Address:
        command = (b"SENTINEL", b"get-master-addr-by-name", self._place.sentinel.encode())
        failed: Exception | None = None
        for host in self._place.hosts:
            try:
                found = self._peek(host, [command], True)[0]
                if found:
                    return found[0].decode(), int(found[1])
            except ProxyfabError:
                raise
            except (RedisError, OSError, *NONSENSE) as error:
                failed = error
        raise ConnectionError(
            f"Error connecting to master {self._place.sentinel!r}: no sentinel knows it ({failed or 'all answered'})"
        )


class _Cluster:
    def __init__(self, place: Place, peek: Peek) -> None:
        self._place = place
        self._peek = peek
        self._slots: list[Address] | None = None
        self._known: list[Address] = list(place.hosts)

    def known(self, name: bytes) -> Address | None:
        slots = self._slots
        return None if slots is None else slots[key_slot(name)]

    def masters(self) -> list[Address]:
        return list(dict.fromkeys(self._map()))

    def refresh(self) -> None:
        self._slots = None

    def _map(self) -> list[Address]:
        slots = self._slots
        if slots is None:
            slots = self._slots = self._ask()
        return slots

    def _ask(self) -> list[Address]:
        failed: Exception | None = None
        for host in dict.fromkeys([*self._place.hosts, *self._known]):
            try:
                return self._read(host, self._peek(host, [(b"CLUSTER", b"SLOTS")], False)[0])
            except ProxyfabError:
                raise
            except (RedisError, OSError, *NONSENSE) as error:
                failed = error
        raise ConnectionError(f"Error connecting to the cluster: no node told its slots ({failed})")

    def _read(self, asked: Address, ranges: list[Any]) -> list[Address]:
        slots: list[Address | None] = [None] * 16384
        for low, high, master, *_ in ranges:
            if not 0 <= low <= high < len(slots):
                raise ValueError(f"there are no slots {low} to {high}")
            address = (master[0] or b"").decode() or asked[0], int(master[1])
            slots[low : high + 1] = [address] * (high - low + 1)
        whole = [address for address in slots if address is not None]
        if len(whole) != len(slots):
            raise ValueError(f"{len(slots) - len(whole)} of its slots belong to nobody")
        self._known = list(dict.fromkeys(whole))
        return whole
