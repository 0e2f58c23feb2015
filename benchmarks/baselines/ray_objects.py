"""Ray's object store: the driver puts, an actor in another process gets. The server lives as long as the producer."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import ray

from benchmarks.harness import Place
from benchmarks.payloads import GB
from benchmarks.steps import Reply, consume
from benchmarks.systems import System


class Ray(System):
    """put: ray.put. get: ray.get inside the actor. The reference travels in an actor call, as Ray means it to."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._actor: Any = None
        self._folder = ""

    def launch(self, name: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=4 * GB,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=self._folder,
        )
        self._actor = ray.remote(_Consumer).remote()
        ray.get(self._actor.ready.remote())

    def put(self, obj: Any) -> Any:
        return ray.put(obj)

    def deliver(self, token: Any, *, metered: bool) -> Reply:
        reply: Reply = ray.get(self._actor.consume.remote([token], metered))
        return reply

    def stored(self) -> int:
        # The store is one file that is mapped whole; what it occupies never shrinks, so only growth is seen.
        status = os.statvfs("/dev/shm")
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def close(self) -> None:
        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Consumer:
    def ready(self) -> None:
        """Answers when the actor's process has started."""

    def consume(self, references: list[Any], metered: bool) -> Reply:
        return consume(lambda: ray.get(references[0]), metered=metered)
