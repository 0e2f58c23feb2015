"""Upkeep: shards that are lost, broken or in the wrong place."""

from __future__ import annotations

from proxyfab.erasure.locator import Locator
from proxyfab.scattering.getting import Found
from proxyfab.scattering.scattering import Scattering


class Mending:
    """Repairs in the background."""

    scattering: Scattering

    def noticed(self, locator: Locator, found: Found) -> None:
        """A piece has bad shards."""

    def close(self) -> None:
        """Stop."""
