"""`erasure://`: objects that outlive the places they lie in, over any connectors."""

from proxyfab.connectors.erasure.connector import ErasureConnector

__all__ = ["ErasureConnector"]
