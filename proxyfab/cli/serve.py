"""`serve`: a node server in the foreground, until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import click

from proxyfab.cli.gateway import site_of, site_options
from proxyfab.cli.output import Seconds
from proxyfab.errors import ConfigurationError, MissingDependency
from proxyfab.opening import open_connector
from proxyfab.osio.shared import default_root
from proxyfab.spec import ConnectorSpec, nbytes

if TYPE_CHECKING:
    from proxyfab.server.node import Node

_PART = 4
"""The part of shared memory that a server takes by default."""


@click.command()
@click.option("--bind", multiple=True, default=["tcp://127.0.0.1:0"], show_default=True, help="Where to listen.")
@click.option("--storage", help="URL of a connector that keeps the objects, instead of memory and a spill directory.")
@click.option("--memory", help="Bytes of objects in shared memory, as in 4GiB; default: a quarter of it.")
@click.option("--spill", type=click.Path(file_okay=False), help="Directory for what does not fit into --memory.")
@click.option("--quota", help="Bytes of objects in memory and spilled; default: what the disk takes.")
@click.option("--uploads", default="1GiB", show_default=True, help="Bytes of objects that are being received at most.")
@click.option("--advertise", default="", help="host:port that keys carry; default: the first --bind.")
@click.option("--key", default="", help="Id of the server's CURVE key (`proxyfab keys`); needed beyond loopback.")
@click.option(
    "--allow", type=click.Path(dir_okay=False), help="File of clients' public keys, instead of the keyring's."
)
@click.option(
    "--orphans",
    default=60.0,
    type=Seconds(),
    show_default=True,
    help="Seconds without a connection until a remote client has ended.",
)
@click.option("--side/--no-side", default=True, help="Whether to offer sockets beside ZeroMQ, which are faster.")
@click.option("--ready-file", type=click.Path(dir_okay=False), help="Written when clients can connect (JSON).")
@click.option("--ready-fd", type=int, help="Written to and closed when clients can connect (JSON).")
@site_options
@click.option("--private", type=click.Path(file_okay=False), hidden=True, help="Serve zmq://auto in this directory.")
def serve(
    bind: tuple[str, ...],
    storage: str | None,
    memory: str | None,
    spill: str | None,
    quota: str | None,
    uploads: str,
    advertise: str,
    key: str,
    allow: str | None,
    orphans: float,
    side: bool,
    ready_file: str | None,
    ready_fd: int | None,
    private: str | None,
    **gateway: Any,
) -> None:
    """Run a node server: it keeps the objects of a node or a site for zmq:// clients anywhere.

    What it holds is lost when it ends. On its own machine clients read and write through shared memory.
    """
    try:
        from proxyfab.server.node import Node
        from proxyfab.server.private import Private
    except ModuleNotFoundError as error:
        raise MissingDependency(f"serve needs {error.name!r}: pip install 'proxyfab[zmq]'") from error
    from proxyfab.server.options import Options
    from proxyfab.server.storage import storage_of

    url = _storage(storage, memory, spill, quota)
    room = Private(private) if private is not None else None
    options = Options(
        bind=bind if room is None else (room.endpoint,),
        advertise=advertise,
        key=key,
        allow=allow or "",
        side=side,
        uploads=nbytes(uploads),
        orphans=orphans,
        site=site_of(gateway, url),
    )
    node = Node(options, storage_of(open_connector(url)), is_over=None if room is None else room.is_over)
    _run(node, url, ready_file, ready_fd)


def _run(node: Node, storage: str, ready_file: str | None, ready_fd: int | None) -> None:
    endpoints = node.open()

    ready: dict[str, object] = {"url": f"zmq://{node.address}", "endpoints": endpoints}
    if node.far is not None:
        ready |= {"site": node.far.site, "listen": node.far.listening}
    said = f"{storage} at {ready['url']}"
    if node.far is not None:
        dialled = f"is dialled at {node.far.listening}" if node.far.listening else "only dials others"
        said += f", gateway of site {node.far.site}, which {dialled}"
    run_until_told("serve", said, node, {**ready, "incarnation": node.incarnation}, ready_file, ready_fd)


def _storage(storage: str | None, memory: str | None, spill: str | None, quota: str | None) -> str:
    """The URL of the storage."""
    if storage is not None:
        if memory or spill or quota:
            raise ConfigurationError("--memory, --spill and --quota are for the storage that --storage replaces.")
        return storage
    root = default_root()
    place = os.path.dirname(root) if not os.path.isdir(root) else root
    limit = nbytes(memory) if memory else shutil.disk_usage(place).total // _PART
    directory = os.path.abspath(spill or f"{tempfile.gettempdir()}/proxyfab-{os.geteuid()}-spill")
    options = [("limit", str(limit)), *([("quota", str(nbytes(quota)))] if quota else [])]
    return str(ConnectorSpec("bounded", options=(*options, ("slow", f"file://{directory}"))))


class Stoppable(Protocol):
    """What runs until it is told to stop."""

    def run(self) -> None:
        """Serve; comes back after `stop`."""

    def stop(self) -> None:
        """Have `run` come back; a handler of signals may call it."""


def run_until_told(
    command: str, said: str, server: Stoppable, ready: dict[str, object], path: str | None, descriptor: int | None
) -> None:
    """Run a server that can be reached, until SIGTERM or SIGINT, and say so first.

    Args:
        command: Its name, for people.
        said: What it is and where, for people.
        server: What is run.
        ready: What is written for programs, as JSON and with the process.
        path: A file for that, which is removed at the end.
        descriptor: A descriptor for that, which is closed then.
    """

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _tell(json.dumps({**ready, "pid": os.getpid()}), path, descriptor)
    click.echo(f"proxyfab {command}: {said}, pid {os.getpid()}", err=True)
    try:
        server.run()
    finally:
        if path is not None and os.path.exists(path):
            os.unlink(path)


def _tell(text: str, path: str | None, descriptor: int | None) -> None:
    """Say that clients can connect: in a file, and on a descriptor that is closed then."""
    if path is not None:
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
