"""Sites: the collections that one `globus://` joins, where each lies, and which of them is here.

A site in a URL is `at=COLLECTION,/path/on/it,/path/here[,host pattern]`. One alone is here. Of several it is the one
that `$PROXYFAB_GLOBUS_COLLECTION` names, or the only one whose pattern fits this machine's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from proxyfab.errors import ConfigurationError
from proxyfab.trace import here as this_host

_COLLECTION = r"[A-Za-z0-9-]{1,64}"


class Site(NamedTuple):
    """A directory that Globus and the machines of a site see, each by a path of its own."""

    collection: str
    """Of the collection, its UUID."""
    path: str
    """Of the directory, as the collection shows it."""
    local: str
    """Of the same directory, on the site's machines."""
    hosts: str = ""
    """A shell pattern of the names of these machines."""

    @classmethod
    def parse(cls, text: str) -> Site:
        """The inverse of `str(site)`."""
        parts = text.split(",")
        if len(parts) not in (3, 4) or not all(part.startswith("/") for part in parts[1:3]):
            raise ConfigurationError(f"at={text!r} is no site: write at=COLLECTION,/path/on/it,/path/here[,host*].")
        if not re.fullmatch(_COLLECTION, parts[0]):
            raise ConfigurationError(f"{parts[0]!r} is no collection: take its UUID from the Globus web application.")
        return cls(parts[0], *(os.path.normpath(part) for part in parts[1:3]), *parts[3:])

    def __str__(self) -> str:
        return ",".join(self if self.hosts else self[:3])


def local_site(sites: Sequence[Site], here: str | None) -> Site:
    """The site that this process is at.

    Raises:
        ConfigurationError: None, or more than one, fits; or a collection is named twice.
    """
    if len({site.collection for site in sites}) < len(sites) or not sites:
        raise ConfigurationError("globus:// needs at least one site, and each collection once: at=UUID,/path,/local.")
    wanted = here or os.environ.get("PROXYFAB_GLOBUS_COLLECTION", "")
    if wanted:
        fitting = [site for site in sites if site.collection == wanted]
    else:
        fitting = [site for site in sites if site.hosts and fnmatch(this_host(), site.hosts)]
    if len(sites) == 1 and not wanted:
        return sites[0]
    if len(fitting) != 1:
        known = ", ".join(site.collection for site in sites)
        raise ConfigurationError(
            f"Which of {known} is at {this_host()} cannot be told; set PROXYFAB_GLOBUS_COLLECTION to one of them."
        )
    return fitting[0]
