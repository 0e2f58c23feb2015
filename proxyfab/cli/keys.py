"""`keys`: the keyring's commands. What is printed is public; secrets stay in their files."""

from __future__ import annotations

from typing import TextIO

import click

from proxyfab.cli.gateway import address as host_port
from proxyfab.cli.output import as_json, show, show_json
from proxyfab.errors import ConfigurationError
from proxyfab.keyring import KINDS, Held, Keyring

_kind = click.argument("kind", type=click.Choice(KINDS))
_made = click.argument("kind", type=click.Choice([kind for kind in KINDS if kind != "verify"]))
_id = click.argument("id")
_COLUMNS = ("kind", "id", "public", "where")
_DIGITS = 40
"""Of a public curve key."""


class _TakesKey(click.Command):
    """Its last argument is a public curve key, which may begin with a dash and have an option's letter behind it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        keys = [
            each for each in args if each.startswith("-") and len(each) == _DIGITS and not each.startswith("--name")
        ]
        others = [each for each in args if each not in keys]
        return super().parse_args(ctx, [*others, "--", *keys] if keys else others)


@click.group()
def keys() -> None:
    """Make, list and exchange keys. They lie in $PROXYFAB_KEYS, or in ~/.config/proxyfab/keys.

    Kinds: symmetric (encrypt and sign among those who have it), sign and verify (Ed25519: who verifies needs only the
    public half), curve (servers and clients of `proxyfab serve`).
    """


@keys.command()
@_made
@_id
@as_json
def make(kind: str, id: str, as_json: bool) -> None:
    """Make a new random key and print its public half, where it has one."""
    _show([Keyring().make(kind, id)], as_json)


@keys.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List every key here, without its secret."""
    _show(Keyring().held(), as_json)


@keys.command("show")
@_id
@as_json
def show_public(id: str, as_json: bool) -> None:
    """Print the public halves of the keys of this id, to be given to others."""
    found = [held for held in Keyring().held() if held.id == id]
    if not found:
        raise ConfigurationError(f"There is no key {id!r} in {Keyring().directory}; `proxyfab keys list` shows all.")
    _show(found, as_json)


@keys.command("import")
@_kind
@_id
@click.argument("file", type=click.File(errors="replace"))
@as_json
def import_(kind: str, id: str, file: TextIO, as_json: bool) -> None:
    """Take in a key from FILE (- for standard input): a key file, or the base64 of a public or symmetric key."""
    _show([Keyring().add(kind, id, file.read())], as_json)


@keys.command(cls=_TakesKey)
@click.argument("server")
@click.argument("public")
@click.option("--name", default="", help="Whose key it is; shown in the server's list of peers.")
def allow(server: str, public: str, name: str) -> None:
    """Let the client with the PUBLIC curve key in at the server with key SERVER."""
    Keyring().allow(server, public, name)
    click.echo(f"{server} lets in {len(Keyring().peers(server))} clients")


@keys.command(cls=_TakesKey)
@click.argument("address")
@click.argument("public")
def trust(address: str, public: str) -> None:
    """Note the PUBLIC curve key of the server at ADDRESS (tcp://host:port), so that clients here accept no other."""
    scheme, way, where = address.rpartition("://")
    if scheme not in ("", "tcp", "zmq", "ipc"):
        raise ConfigurationError(f"{address!r} is no server's address; write tcp://HOST:PORT.")
    if scheme != "ipc":
        host_port(where)
    Keyring().know(f"tcp{way}{where}" if scheme == "zmq" else address, public)
    click.echo(f"{address} has to prove that it holds {public}")


@keys.command()
@_kind
@_id
@click.confirmation_option(prompt="What this key sealed cannot be opened here any more. Remove it?")
def remove(kind: str, id: str) -> None:
    """Delete a key's file."""
    if not Keyring().remove(kind, id):
        raise ConfigurationError(f"There is no {kind} key {id!r} in {Keyring().directory}.")
    click.echo(f"removed the {kind} key {id}")


def _show(found: list[Held], as_json: bool) -> None:
    if as_json:
        show_json([held._asdict() for held in found])
    else:
        show(_COLUMNS, [(held.kind, held.id, held.public or "-", held.where) for held in found])
