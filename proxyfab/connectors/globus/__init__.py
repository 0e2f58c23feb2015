"""`globus://`: objects as files at any number of sites, moved between them by Globus Transfer."""

from proxyfab.connectors.globus.connector import GlobusConnector

__all__ = ["GlobusConnector"]
