"""CURVE on the client's side: which server it accepts, and which key it shows."""

from __future__ import annotations

import zmq

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
        """
        keyring = Keyring()
        found = self._key.encode() or keyring.server(f"tcp://{self._address}") or keyring.server(self._address)
        if not found:
            return {}
        public, secret = keyring.curve(self._identity)
        return {zmq.CURVE_SERVERKEY: found, zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: bytes(secret)}
