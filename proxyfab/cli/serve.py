"""`serve`: a node server in the foreground, until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import json
import os
import signal
from types import FrameType

import click

from proxyfab.errors import MissingDependency
from proxyfab.opening import open_connector


@click.command()
@click.option("--bind", multiple=True, default=["tcp://127.0.0.1:0"], show_default=True, help="Where to listen.")
@click.option("--storage", default="shm://", show_default=True, help="URL of the connector that keeps the objects.")
@click.option("--advertise", default="", help="host:port that keys carry; by default what was bound to.")
@click.option("--ready-file", type=click.Path(dir_okay=False), help="Written when clients can connect (JSON).")
@click.option("--ready-fd", type=int, help="Written to and closed when clients can connect (JSON).")
def serve(bind: tuple[str, ...], storage: str, advertise: str, ready_file: str | None, ready_fd: int | None) -> None:
    """Run a node server: objects of this node or site, for zmq:// clients anywhere."""
    try:
        from proxyfab.server.node import Node
    except ModuleNotFoundError as error:
        raise MissingDependency(f"serve needs {error.name!r}: pip install 'proxyfab[zmq]'") from error
    from proxyfab.server.options import Options
    from proxyfab.server.storage import Storage

    node = Node(Options(bind=bind, advertise=advertise), Storage(open_connector(storage)))
    endpoints = node.open()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        node.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    ready = {"url": f"zmq://{node.address}", "endpoints": endpoints, "pid": os.getpid()}
    _tell(json.dumps({**ready, "incarnation": node.incarnation}), ready_file, ready_fd)
    click.echo(f"serving {storage} at {ready['url']} (pid {os.getpid()})", err=True)
    node.run()


def _tell(text: str, path: str | None, descriptor: int | None) -> None:
    if path is not None:
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
