"""A local HTTP server that speaks enough of Globus Auth and Transfer, over directories, for the real SDK to run."""

from proxyfab.testing.globus.server import GlobusServer
from proxyfab.testing.globus.tasks import Faults

__all__ = ["Faults", "GlobusServer"]
