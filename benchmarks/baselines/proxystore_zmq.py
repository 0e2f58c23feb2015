"""ProxyStore's connector for ZeroMQ (proxystore-ex), with its server in a process of its own."""

from __future__ import annotations

import gc
import socket
import warnings
from multiprocessing.connection import Connection
from typing import Any

from proxystore_ex.connectors.dim.zmq import ZeroMQConnector, start_server, wait_for_server

from proxyfab.testing.processes import Child

HOST = "127.0.0.1"


class ProxyStoreZmq:
    """Puts one object, and gets it."""

    def __init__(self, data: bytes) -> None:
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        self.child = Child(_serve, port)
        with warnings.catch_warnings():  # each of its attempts leaves a context behind, unclosed
            warnings.simplefilter("ignore", ResourceWarning)
            wait_for_server(HOST, port, timeout=20)
            self.connector = ZeroMQConnector(port, address=HOST, timeout=20)  # which looks for it once more
            gc.collect()
        self.key = self.connector.put(data)

    def get(self) -> Any:
        """The object."""
        return self.connector.get(self.key)

    def put(self, data: bytes) -> None:
        """Another object, which is evicted: their server keeps what it is given."""
        self.connector.evict(self.connector.put(data))

    def close(self) -> None:
        self.connector.evict(self.key)
        self.connector.close(kill_server=False)
        self.child.kill()
        self.child.__exit__(None, None, None)


def _serve(talk: Connection, port: int) -> None:
    start_server(HOST, port)
