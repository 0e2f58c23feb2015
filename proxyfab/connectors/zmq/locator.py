"""What stands in a key of a node server: namespace, incarnation and address, so that any process finds the object."""

from __future__ import annotations

import re
from typing import NamedTuple

from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.keys import Key
from proxyfab.osio.namespace import NAME

_LOCATOR = re.compile(rf"(?P<namespace>{NAME})/(?P<incarnation>[0-9a-f]{{12}})/(?P<address>[^\s@?#]+)")
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})|(?P<path>/[^\s@?#]{1,100})")


class Locator(NamedTuple):
    """Where an object lies."""

    namespace: str
    incarnation: str
    address: str
    """`host:port`, or the path of a socket of this machine."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.incarnation}/{self.address}"

    @classmethod
    def of(cls, key: Key) -> Locator:
        """What a key says.

        Raises:
            ConnectorError: It is no key of a node server.
        """
        match = _LOCATOR.fullmatch(key.where)
        if match is None or _ADDRESS.fullmatch(match["address"]) is None:
            raise ConnectorError(f"{key} is no key of a node server: it names no namespace, server and address.")
        return cls(match["namespace"], match["incarnation"], match["address"])


def endpoint(address: str) -> str:
    """The endpoint that ZeroMQ connects to.

    Raises:
        ConfigurationError: It is neither `host:port` nor an absolute path.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise ConfigurationError(f"{address!r} is no address of a node server; write zmq://host:port or zmq://auto.")
    return f"ipc://{address}" if match["path"] else f"tcp://{address}"
