"""What can hand an object from one process to another: the base class, and the table of those that are measured.

A System lives twice, in a producer's process and in a consumer's. The producer puts, gives the consumer a token, and
the consumer gets. Where the two are one process by nature (`alone`), the producer gets too.
"""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from benchmarks.harness import Place
from benchmarks.steps import Reply, consume

TABLE = {
    "raw-memcpy": "benchmarks.baselines.raw:Memcpy",
    "raw-tmpfs": "benchmarks.baselines.raw:TmpfsFile",
    "raw-disk": "benchmarks.baselines.raw:DiskFile",
    "pickle-pipe": "benchmarks.baselines.pickles:Pipe",
    "process-pool": "benchmarks.baselines.pickles:Pool",
    "proxystore-local": "benchmarks.baselines.proxystore_files:Local",
    "proxystore-tmpfs": "benchmarks.baselines.proxystore_files:Tmpfs",
    "proxystore-disk": "benchmarks.baselines.proxystore_files:Disk",
    "ray": "benchmarks.baselines.ray_objects:Ray",
    "dask": "benchmarks.baselines.dask_scatter:Dask",
    "proxyfab-memory": "benchmarks.fabric:Memory",
    "proxyfab-shm": "benchmarks.fabric:SharedMemory",
    "proxyfab-tmpfs": "benchmarks.fabric:Tmpfs",
    "proxyfab-disk": "benchmarks.fabric:Disk",
}
ALONE = frozenset({"raw-memcpy", "proxystore-local", "proxyfab-memory"})
"""Those that have no second process: what they put, they get themselves."""
NEEDS = {"proxystore": "proxystore", "ray": "ray", "dask": "distributed"}
"""The package without which a system (by the first word of its name) cannot be measured."""


class System:
    """One way to hand over objects. Subclasses say how; these defaults suit anything that a short token can name.

    Attributes:
        alone: The consumer is the producer's own process.
        parts: Put and get can be told apart; otherwise only the whole is measured.
    """

    alone: ClassVar[bool] = False
    parts: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        self.place = place
        self._peer: Connection[Any, Any] | None = None

    # In the producer.

    def put(self, obj: Any) -> Any:
        """Store an object; what is returned names it."""
        raise NotImplementedError

    def drop(self, token: Any) -> None:
        """Delete what `put` stored. Not timed."""

    def stored(self) -> int:
        """Bytes that the store holds now."""
        return 0

    def address(self) -> Any:
        """What the consumer needs to attach; must pickle."""

    def launch(self, name: str) -> None:
        """Start the consumer's process."""
        _, self._peer = start("consumer", name, self.place)
        self._peer.send(self.address())

    def deliver(self, token: Any, *, metered: bool) -> Reply:
        """Give the consumer the token and wait until it has got and read the object."""
        assert self._peer is not None
        self._peer.send_bytes((b"m" if metered else b"t") + self.pack(token))
        reply: Reply = self._peer.recv()
        return reply

    def pack(self, token: Any) -> bytes:
        """The token as it travels."""
        return pickle.dumps(token)

    # In the consumer.

    def attach(self, address: Any) -> None:
        """Connect to what the producer made."""

    def unpack(self, token: bytes) -> Any:
        """The inverse of `pack`."""
        return pickle.loads(token)

    def get(self, token: Any) -> Any:
        """The object; held by nobody else afterwards, so that the next get cannot profit."""
        raise NotImplementedError

    # In both.

    def close(self) -> None:
        """Stop what was started."""
        if self._peer is not None:
            self._peer.send_bytes(b"q")
            self._peer.close()
            self._peer = None

    def serve(self, socket: Any) -> None:
        """The consumer's life: answer each token, until told to quit."""
        while (message := socket.recv_bytes())[:1] != b"q":
            token = self.unpack(message[1:] if len(message) < 4096 else memoryview(message)[1:])
            socket.send(consume(partial(self.get, token), metered=message[:1] == b"m"))


def start(role: str, name: str, place: Place, **options: Any) -> tuple[subprocess.Popen[bytes], Connection[Any, Any]]:
    """A fresh interpreter that is one end of a pair, and the pipe to it, which ends when it does."""
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "benchmarks.pairs", role, str(theirs.fileno()), name, *place]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **options)
    theirs.close()
    return process, ours


def load(name: str) -> type[System]:
    """The class behind a name in TABLE; ImportError when its package is missing."""
    module, _, attribute = TABLE[name].partition(":")
    found: type[System] = getattr(importlib.import_module(module), attribute)
    return found
