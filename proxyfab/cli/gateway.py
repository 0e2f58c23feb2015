"""What makes a node server a site's gateway, as options of `serve`: its name, its peers, its relays."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxyfab.cli.output import Seconds
from proxyfab.errors import ConfigurationError
from proxyfab.keyring import Keyring, check_id
from proxyfab.spec import ConnectorSpec, nbytes

if TYPE_CHECKING:
    from proxyfab.server.options import Neighbour, Site

F = TypeVar("F", bound=Callable[..., Any])
_PART = 2
"""The part of the memory that other sites' objects take by default."""

_OPTIONS = (
    click.option("--site", default="", help="Be the gateway of this site; its key is `proxyfab keys make sign SITE`."),
    click.option("--listen", default="", help="HOST:PORT where other sites dial (TLS; port 0 is any)."),
    click.option(
        "--peer",
        "peers",
        multiple=True,
        help="Another site, NAME=HOST:PORT#KEY: where it is dialled, and its public key. Without HOST:PORT it dials; "
        "without #KEY the keyring has it (`proxyfab keys import verify NAME`). It may read what is here; "
        "behind a comma, may=read+copies+put+evict+push (or all) says what it may do, and in=NAMESPACE+... where only. "
        "May be repeated.",
    ),
    click.option("--relay", "relays", multiple=True, help="HOST:PORT of a relay, for sites that cannot be dialled."),
    click.option("--copies", help="Bytes of other sites' objects that are kept; default: half of the memory."),
    click.option(
        "--keep", default=3600.0, type=Seconds(), show_default=True, help="Seconds that such a copy is kept at most."
    ),
    click.option(
        "--dialler", default="usual", help="What dials, by its name among the entry points proxyfab.diallers."
    ),
    click.option("--streams", default=8, type=click.IntRange(1, 32), show_default=True, help="TCP streams to a site."),
)


def site_options(command: F) -> F:
    """The options, for a command that takes them as keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def site_of(given: dict[str, Any], storage: str) -> Site | None:
    """The gateway that the options ask for, if they do.

    Args:
        given: Their values.
        storage: URL of the storage, for its limit.
    """
    from proxyfab.server.options import Site

    if not given["site"]:
        if given["listen"] or given["peers"] or given["relays"]:
            raise ConfigurationError("--listen, --peer and --relay are for a gateway; name its site by --site.")
        return None
    limit = int(dict(ConnectorSpec.parse(storage).options).get("limit", 2 << 30))
    return Site(
        name=check_id(given["site"]),
        listen=address(given["listen"]) if given["listen"] else None,
        peers=tuple(neighbour(text) for text in given["peers"]),
        relays=tuple(address(text) for text in given["relays"]),
        copies=nbytes(given["copies"]) if given["copies"] else limit // _PART,
        keep=given["keep"],
        streams=given["streams"],
        dialler=given["dialler"],
    )


def neighbour(text: str) -> Neighbour:
    """Another site: `NAME=HOST:PORT#KEY,may=RIGHT+RIGHT,in=NAMESPACE+NAMESPACE`, of which all but the name may lack."""
    from proxyfab.server.options import Neighbour
    from proxyfab.server.rights import granted

    name, _, rest = text.partition("=")
    way, *words = rest.split(",")
    where, _, key = way.partition("#")
    may, spaces = granted(words)
    public = public_key(key, name) if key else Keyring().verifying(check_id(name))
    return Neighbour(check_id(name), public, address(where) if where else None, may, spaces)


def public_key(key: str, name: str = "") -> bytes:
    """A site's key from its base64; `name` is the site's, where that is known."""
    try:
        public = base64.b64decode(key, validate=True)
    except ValueError:
        public = b""
    if len(public) != 32:
        whose = f"The key of site {name}" if name else f"The key {key!r} of a site"
        raise ConfigurationError(f"{whose} is not the base64 of 32 bytes; `proxyfab keys show {name or 'SITE'}`.")
    return public


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{text!r} is no address; write HOST:PORT.")
    return host.strip("[]"), int(port)
