"""CURVE on the client's side: which server it accepts, and which key it shows."""

from __future__ import annotations

import zmq

from proxyfab.errors import AccessDenied
from proxyfab.keyring import Keyring

CLIENT = "client"
"""Id of the key in the keyring that a client shows, if its URL does not say `?as=`."""


class Guard:
    """What a connection to an address needs. Keys are read when a connection is made, and not kept.

    Args:
        address: Of the server.
        key: Its public key, if the URL says it.
        identity: Id of the client's own key.
    """

    def __init__(self, address: str, key: str, identity: str) -> None:
        self._address, self._key, self._identity = address, key, identity

    def options(self) -> dict[int, bytes]:
        """Options of the socket; none where no key of that server is known.

        Raises:
            ConfigurationError: The server has a key, and this client has none to show.
            AccessDenied: A URL, which may come from elsewhere, says another key than this keyring knows of the server.
        """
        keyring = Keyring()
        known = keyring.server(f"tcp://{self._address}") or keyring.server(self._address)
        found = self._key.encode() or known
        if known not in (None, found):
            raise AccessDenied(
                f"A URL says that the node server at {self._address} has another key than {keyring.directory} knows. "
                f"If the server has a new one, note it: proxyfab keys trust {self._address} PUBLIC"
            )
        if not found:
            return {}
        public, secret = keyring.curve(self._identity)
        return {zmq.CURVE_SERVERKEY: found, zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: bytes(secret)}
