"""The other sites that a gateway knows: who they are, how they are reached, and the links to them."""

from __future__ import annotations

import math
import os
from ssl import SSLSocket

from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.keyring import Keyring
from proxyfab.link.attending import Attendance
from proxyfab.link.doors import Hello, refuse, welcome
from proxyfab.link.identity import Identity
from proxyfab.link.line import Answerer
from proxyfab.link.listening import Greeter, Listener
from proxyfab.link.peering import Options, Peering
from proxyfab.link.room import Room
from proxyfab.link.routes import Routes
from proxyfab.registry import load
from proxyfab.server.options import Site
from proxyfab.server.rights import described

_REFUSAL = 10.0
_NEARER = 0.5
_PART = 2
"""The part of the machine's memory that what all other sites send may take together, until it is stored."""


class Sites:
    """Links by site. Thread-safe.

    Args:
        site: This one, and those it knows.
        keyring: Where its secret key lies.
        asked: Takes what other sites ask.
    """

    def __init__(self, site: Site, keyring: Keyring, asked: Answerer) -> None:
        peers = {peer.name: peer.key for peer in site.peers}
        if site.name in peers:
            raise ConfigurationError(f"Site {site.name!r} is its own peer; name others by --peer.")
        self._site = site
        self._dial = dial = load("diallers", site.dialler)
        self._identity = Identity(site.name, bytes(keyring.signing(site.name)), peers)
        self.room = Room(_memory() // _PART)
        options = Options(streams=site.streams, room=self.room)
        self._routes = {
            peer.name: Routes(self._identity, peer.name, peer.address, site.relays, dial) for peer in site.peers
        }
        self._peerings = {
            name: Peering(site.name, name, asked, knock=routes or None, options=options)
            for name, routes in self._routes.items()
        }
        self._greeter = Greeter(self._identity, self._take)
        self._listener: Listener | None = None
        self._attending: list[Attendance] = []

    def open(self) -> None:
        """Listen and dial."""
        if self._site.listen is not None:
            self._listener = Listener(self._greeter, self._site.listen)
        known, greet = self._identity.known, self._greeter.greet
        self._attending = [Attendance(self._identity, relay, known, greet, self._dial) for relay in self._site.relays]
        for peering in self._peerings.values():
            peering.start()

    @property
    def listening(self) -> str:
        """Host and port where other sites dial; `""` where they cannot."""
        return "" if self._listener is None else "{}:{}".format(*self._listener.address)

    def _take(self, connection: SSLSocket, hello: Hello) -> None:
        peering = self._peerings.get(hello.site)
        if peering is None:
            refuse(connection, f"Site {self._site.name} does not know {hello.site}.", timeout=_REFUSAL)
        elif hello.probe:
            with connection:
                may = next(described(peer) for peer in self._site.peers if peer.name == hello.site)
                welcome(connection, fresh=False, timeout=_REFUSAL, may=may)
        else:
            peering.take(connection, hello)

    def peering(self, site: str) -> Peering:
        """The links to another site.

        Raises:
            AccessDenied: It is none that this gateway knows.
        """
        found = self._peerings.get(site)
        if found is None:
            known = ", ".join(sorted(self._peerings)) or "none"
            raise AccessDenied(
                f"The gateway of site {self._site.name} knows no site {site!r} (it knows {known}): start it with "
                f"--peer {site}=HOST:PORT#KEY."
            )
        return found

    def nearer(self, than: Peering) -> list[Peering]:
        """Sites that there are links to and whose way is half as long at most, the nearest one first; where there is no
        link to that site, all.
        """
        limit = than.rtt * _NEARER if than.streams else math.inf
        found = [each for each in self._peerings.values() if each is not than and each.streams and each.rtt <= limit]
        return sorted(found, key=lambda each: each.rtt)

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """Totals and levels, for `status`."""
        totals: dict[str, float] = {}
        levels: dict[str, float] = {}
        for name, peering in self._peerings.items():
            levels[f"streams_{name}"] = peering.streams
            totals |= {f"link_{name}_{what}": number for what, number in peering.figures.items()}
            totals[f"link_{name}_links"] = peering.links
        levels["coming_bytes"] = self.room.taken
        levels["relays"] = sum(attendance.here for attendance in self._attending)
        return totals, levels

    def sweep(self) -> None:
        """Let go of what waits for sites that have long been gone."""
        for peering in self._peerings.values():
            peering.sweep()

    def close(self) -> None:
        """Hear and dial no more."""
        if self._listener is not None:
            self._listener.close()
        for attendance in self._attending:
            attendance.close()
        for peering in self._peerings.values():
            peering.close()


def _memory() -> int:
    """Bytes of this machine's."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
