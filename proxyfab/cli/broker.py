"""`broker`: a broker in the foreground, until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from proxyfab.errors import ConfigurationError, ConnectorError, MissingDependency
from proxyfab.spec import ConnectorSpec, nbytes

URL = "nats://127.0.0.1:4222"
TOKEN = "PROXYFAB_NATS_TOKEN"
_START = 30.0
_LAST = 3
_STAMP = re.compile(r"^\[\d+\] [\d/]+ [\d:.]+ ")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@click.command()
@click.argument("url", default=URL)
@click.option("--store-dir", type=click.Path(file_okay=False), help="Where nats:// keeps topics; default: temporary.")
@click.option("--memory", help="Bytes of records in memory at most, for zmq://, as in 1GiB.")
@click.option("--key", default="", help="Id of the server's CURVE key, for zmq:// beyond loopback.")
@click.option("--allow", default="", help="File of clients' public keys, for zmq://, instead of the keyring's.")
@click.option("--config", type=click.Path(dir_okay=False, exists=True), help="Lines to add to nats-server's own.")
@click.option("--json", "as_json", is_flag=True, help="Say where it is as JSON.")
def broker(
    url: str, store_dir: str | None, memory: str | None, key: str, allow: str, config: str | None, as_json: bool
) -> None:
    """Run a broker for topics at URL, by default nats://127.0.0.1:4222; port 0 takes any.

    nats:// runs a nats-server with JetStream, which keeps topics in --store-dir; ?sync=always brings each record to the
    disk before it is confirmed, and PROXYFAB_NATS_TOKEN is what its clients have to say. zmq:// keeps topics in memory.
    """

    def say(ready: dict[str, Any]) -> None:
        click.echo(json.dumps(ready) if as_json else ready["url"])
        sys.stdout.flush()

    scheme = ConnectorSpec.parse(url).scheme
    if scheme == "zmq":
        _zmq(url, memory, key, allow, say)
    elif scheme == "nats":
        _nats(url, store_dir, config, say)
    else:
        raise ConfigurationError(f"proxyfab runs brokers for nats:// and zmq://, not for {scheme}://.")


def _zmq(url: str, memory: str | None, key: str, allow: str, say: Callable[[dict[str, Any]], None]) -> None:
    try:
        from proxyfab.server.events.running import run_zmq_broker
    except ModuleNotFoundError as error:
        raise MissingDependency(f"broker needs {error.name!r}: pip install 'proxyfab[zmq]'") from error
    if memory is None:
        run_zmq_broker(url, key=key, allow=allow, ready=say)
    else:
        run_zmq_broker(url, memory=nbytes(memory), key=key, allow=allow, ready=say)


def _nats(url: str, store: str | None, config: str | None, say: Callable[[dict[str, Any]], None]) -> None:
    from proxyfab.brokers.nats.program import Settings, program

    spec = ConnectorSpec.parse(url)
    sync = spec.take("sync").get("sync", "")
    host, _, port = spec.host.rpartition(":")
    token, more = os.environ.get(TOKEN, ""), Path(config).read_text(errors="replace") if config else ""
    if not host or not port.isdigit() or spec.path.strip("/") or sync not in ("", "always"):
        raise ConfigurationError(f"{url} is not like nats://127.0.0.1:4222 or nats://127.0.0.1:0?sync=always.")
    if host not in _LOOPBACK and not token and not config:
        raise ConfigurationError(f"{host} is reached from elsewhere: set {TOKEN}, or say with --config who may enter.")
    with ExitStack() as stack:
        run = stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyfab-broker-"))
        kept = os.path.abspath(store or f"{run}/store")
        settings = Settings(host.strip("[]"), int(port) or -1, kept, token, sync, run, more)
        settings.write(f"{run}/configuration")
        _run([program(), "-c", f"{run}/configuration"], host, run, {"store": kept if store else ""}, say)


def _run(
    command: list[str], host: str, directory: str, about: dict[str, Any], say: Callable[[dict[str, Any]], None]
) -> None:
    """Run the server as our child, until it ends or we are told to."""
    from proxyfab.brokers.nats.program import die_with, port_of

    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: told.append(received))
    with open(f"{directory}/log", "wb") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt from the keyboard is ours to hand on
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
        )
    try:
        until = time.monotonic() + _START
        while (port := port_of(directory, server.pid)) is None:
            if told:
                return
            if server.poll() is not None or time.monotonic() > until:
                raise ConnectorError(f"nats-server did not start: {_last_lines(directory)}")
            time.sleep(0.01)
        say({"url": f"nats://{host}:{port}", "pid": os.getpid(), "server": server.pid, **about})
        while not told and server.poll() is None:
            time.sleep(0.1)
        if not told:
            raise ConnectorError(f"nats-server ended: {_last_lines(directory)}")
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _last_lines(directory: str) -> str:
    """Why a nats-server ended: what it says went wrong, or else its last lines."""
    lines = Path(directory, "log").read_text(errors="replace").splitlines()
    said = [_STAMP.sub("", line).strip() for line in lines]
    wrong = [line for line in said if line.startswith(("[FTL]", "[ERR]"))]
    return "; ".join((wrong or said)[-_LAST:]) or "it said nothing"
