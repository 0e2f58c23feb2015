"""Presence: a connection that says nothing but that this process lives, to a server that cannot look it up.

ZeroMQ's own thread keeps it up, and makes it anew when it breaks. Its routing id tells the process, so the server only
has to look whether it is there. Nobody reads from it: of what comes ZeroMQ keeps the last message, as it would end the
process if there were more than it may keep, the server ended, and a heartbeat fell due.
"""

from __future__ import annotations

import zmq

from proxyfab.osio.owner import Writer
from proxyfab.wire.messages import presence_of
from proxyfab.zeromq.context import contexts

_AGAIN = 1000
_HEARTBEAT, _SILENCE = 5000, 15000
"""Milliseconds."""


class Presence:
    """Held as long as objects of this process are to stay on a server.

    Args:
        endpoint: Of the server.
        options: CURVE keys.
        writer: This process.
    """

    def __init__(self, endpoint: str, options: dict[int, bytes], writer: Writer) -> None:
        self._context = contexts.take()
        self._socket = self._context.socket(zmq.DEALER)
        usual: dict[int, int] = {
            zmq.LINGER: 0,
            zmq.CONFLATE: 1,
            zmq.RECONNECT_IVL: _AGAIN,
            zmq.HEARTBEAT_IVL: _HEARTBEAT,
            zmq.HEARTBEAT_TIMEOUT: _SILENCE,
            zmq.HEARTBEAT_TTL: _SILENCE,
            zmq.IPV6: int("[" in endpoint),
        }
        for option, value in [*usual.items(), *options.items()]:
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.ROUTING_ID, presence_of(f"{writer.machine}-{writer.pid}-{writer.start}"))
        self._socket.connect(endpoint)

    def close(self) -> None:
        """End it."""
        self._socket.close(0)
        contexts.give_back(self._context)
