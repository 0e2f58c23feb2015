"""Scattering: an object's shards to several connectors and back, any k of k + m of which are enough.

`Scattering` puts and gets objects by locators; `Registers` agrees on what named keys mean; `upkeep` repairs.
"""

from proxyfab.scattering.scattering import Scattering

__all__ = ["Scattering"]
