"""`doctor --peer`: which way leads to another site, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxyfab.abc import Finding
from proxyfab.cli.gateway import address, neighbour
from proxyfab.errors import ConfigurationError, ProxyfabError
from proxyfab.keyring import Keyring, check_id


def examine_peer(site: str, peer: str, relays: Sequence[str]) -> Iterator[Finding]:
    """The keys, each way, and which one a gateway would take.

    Args:
        site: This one's name.
        peer: `NAME=HOST:PORT#KEY`, and what it may do.
        relays: `HOST:PORT` of each.
    """
    from proxyfab.link.examining import examine
    from proxyfab.link.identity import Identity
    from proxyfab.server.rights import described

    if not site:
        raise ConfigurationError("doctor --peer shows this site's key there: name the site by --site.")
    try:
        other = neighbour(peer)
        identity = Identity(check_id(site), bytes(Keyring().signing(site)), {other.name: other.key})
    except ConfigurationError:
        raise
    except ProxyfabError as error:
        yield Finding("keys", "fail", str(error))
        return
    yield Finding("keys", "ok", f"the key of site {site} and the public one of site {other.name} are here")
    yield Finding("rights", "ok", f"what site {other.name} may do here, started with this --peer: {described(other)}")
    yield from examine(identity, other.name, other.address, [address(relay) for relay in relays])
