"""Run a server of events in the foreground: what `proxyfab broker zmq://host:port` does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from proxyfab.server.events.host import MEMORY, EventServer
from proxyfab.server.options import Options
from proxyfab.spec import ConnectorSpec


def run_zmq_broker(
    url: str,
    *,
    memory: int = MEMORY,
    key: str = "",
    allow: str = "",
    ready: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Serve topics in memory at a URL until SIGTERM or SIGINT; belongs to the main thread.

    Args:
        url: `zmq://host:port`, port 0 for any, or `zmq:///path/of/a/socket`.
        memory: Bytes of records at most.
        key: Id of the server's CURVE key in the keyring; needed beyond loopback.
        allow: File of clients' public keys, instead of the keyring's.
        ready: Is told url, endpoints, pid and incarnation when clients can connect.

    Raises:
        ConfigurationError: The URL makes no sense, or is reached from elsewhere and there is no key.
        ConnectorError: Nobody can listen there.
    """
    spec = ConnectorSpec.parse(url)
    spec.take()
    bind = f"ipc://{spec.path}" if not spec.host else f"tcp://{spec.host}"
    server = EventServer(Options(bind=(bind,), key=key, allow=allow), memory)
    endpoints = server.open()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        server.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        address = endpoints[0].removeprefix("tcp://").removeprefix("ipc://")
        ready(
            {
                "url": f"zmq://{address}",
                "endpoints": endpoints,
                "pid": os.getpid(),
                "incarnation": server.incarnation,
            }
        )
        server.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
