"""`ls`, `du` and `inspect`: what lies in a store."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click

from proxyfab.abc import Connector, Stat, SupportsScan
from proxyfab.buffers import Frames
from proxyfab.cli.output import age, as_json, public, show, show_json, size, store_url
from proxyfab.cli.places import check_there
from proxyfab.errors import CapabilityError, IntegrityError, KeyNotFound
from proxyfab.keys import Key
from proxyfab.opening import open_connector, seal_of
from proxyfab.spec import StoreSpec
from proxyfab.wire.payload import decode
from proxyfab.wire.sealed import ALGORITHMS, Header, is_sealed


def connect(url: str) -> Connector:
    """The connector behind a store's URL, with its layers and its seal."""
    spec = StoreSpec.parse(url)
    return open_connector(spec.connector, seal=seal_of(spec.seal or None))


def connect_there(url: str) -> Connector:
    """The same, of a place that is there.

    Raises:
        ConnectorError: Nobody has put anything there yet, so it may be mistyped.
    """
    connector = connect(url)
    check_there(connector)
    return connector


def holdings(connector: Connector) -> list[Stat]:
    """Everything that lies there, oldest first."""
    if not isinstance(connector, SupportsScan):
        raise CapabilityError(f"{connector.scheme}:// cannot list what it holds.")
    return sorted(connector.scan(), key=lambda stat: stat.created)


@click.command()
@store_url
@as_json
def ls(url: str, as_json: bool) -> None:
    """List the objects of a store, oldest first. URL defaults to shm://, all stores in this machine's shared memory."""
    found = holdings(connect_there(url))
    if as_json:
        show_json([stat._asdict() | {"key": str(stat.key)} for stat in found])
        return
    rows = [
        (stat.key, size(stat.nbytes), age(stat.created), age(stat.expires) if stat.expires else "never", _owner(stat))
        for stat in found
    ]
    show(("key", "size", "age", "expires in", "owner"), rows)


@click.command()
@store_url
@as_json
def du(url: str, as_json: bool) -> None:
    """Sum up the objects of a store per namespace."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(list)
    for stat in holdings(connect_there(url)):
        sums[stat.namespace, _owner(stat)].append(stat.nbytes)
    rows = [(name, owner, len(sizes), sum(sizes)) for (name, owner), sizes in sorted(sums.items())]
    total = ("total", "", sum(row[2] for row in rows), sum(row[3] for row in rows))
    if as_json:
        show_json([dict(zip(("namespace", "owner", "objects", "bytes"), row, strict=True)) for row in rows])
        return
    cells = [(name, owner, count, size(nbytes)) for name, owner, count, nbytes in [*rows, total]]
    show(("namespace", "owner", "objects", "size"), cells)


@click.command()
@click.argument("key")
@store_url
@as_json
def inspect(key: str, url: str, as_json: bool) -> None:
    """Show what an object is without unpickling it, and verify its bytes. KEY is as `ls` prints it.

    What a sealed object is can be seen with its key and the store's whole URL: 'file:///place?ns=run7#seal=encrypt:lab'.
    """
    connector = connect_there(url)
    stat = connector.stat(Key.parse(key))
    frames = connector.get(Key.parse(key))
    if stat is None or frames is None:
        raise KeyNotFound(f"Nothing lies under {key} in {public(url)}; `proxyfab ls {public(url)}` lists what does.")
    found: dict[str, Any] = stat._asdict() | {"key": str(stat.key)}
    found |= _sealed(frames) if is_sealed(frames) else _described(frames)
    if as_json:
        show_json(found)
    else:
        show(("", ""), [(name, "-" if value is None or value == "" else value) for name, value in found.items()])
    if found["intact"] is False:
        raise IntegrityError(f"{key} in {public(url)} is damaged: {found['damage']}")


def _described(frames: Frames) -> dict[str, Any]:
    try:
        payload = decode(frames)
    except IntegrityError as error:
        return {"intact": False, "damage": str(error)}
    found = {"type": payload.type, "codec": payload.codec, "origin": payload.origin, "meta": payload.meta}
    return found | {"buffers": [view.nbytes for view in payload.buffers], "intact": True}


def _sealed(frames: Frames) -> dict[str, Any]:
    """What a seal says of itself; nothing of it is verified without the key."""
    try:
        header = Header.parse(frames)
    except IntegrityError as error:
        return {"intact": False, "damage": str(error)}
    seal = f"{'encrypted' if header.encrypts else 'signed'}, {ALGORITHMS[header.algorithm]}"
    hint = "sealed: what it is, and whether it is intact, can be told only with its key and #seal= in the URL"
    return {"seal": seal, "key id": header.key_id, "content": header.nbytes, "intact": None, "note": hint}


def _owner(stat: Stat) -> str:
    return stat.owner or "named, persistent"
