"""`auth`: who may enter a NATS, said by a service that its servers ask; and what they and it need for that."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import click

from proxyfab.brokers.nats.place import Place
from proxyfab.cli.output import as_json, show_json
from proxyfab.errors import ConfigurationError
from proxyfab.keyring import Keyring

KEY = "callout"
URL = "nats://127.0.0.1:4222"

described = click.argument("file", type=click.Path(dir_okay=False, exists=True))
keyed = click.option("--key", default=KEY, show_default=True, help="Id of the key that signs answers, in the keyring.")


@click.group()
def auth() -> None:
    """Let the servers of a NATS ask who may enter, with a password or a token, and what each may do."""


@auth.command()
@keyed
@as_json
def key(key: str, as_json: bool) -> None:
    """Print the issuer that servers are to believe (A...), and make its key if there is none."""
    from proxyfab.server.auth.claims import Signer

    ring = Keyring()
    if not ring.has("sign", key):
        ring.make("sign", key)
    issuer = Signer(ring.signing(key)).public
    if as_json:
        show_json({"issuer": issuer, "key": key})
    else:
        click.echo(issuer)


@auth.command("hash")
def hash_() -> None:
    """Read a password and print the hash that a description may have instead of it."""
    from proxyfab.server.auth.identity import hashed

    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    click.echo(hashed(password))


@auth.command()
@described
def config(file: str) -> None:
    """Print what a server of its own is told, which `proxyfab broker --config` adds; a topology's are rendered."""
    from proxyfab.events.people import People
    from proxyfab.events.topology_text import accounts, lines

    people = People.parse(Path(file).read_bytes())
    if people.callout is None:
        raise ConfigurationError(f"{file} has no [callout]; add it with the issuer that `proxyfab auth key` prints.")
    click.echo(lines(accounts(people)), nl=False)


@auth.command()
@described
@click.argument("url", default="")
@keyed
@click.option("--life", default=3600.0, show_default=True, help="Seconds after which who entered is asked again.")
@as_json
def serve(file: str, url: str, key: str, life: float, as_json: bool) -> None:
    """Answer the servers at URL by what FILE says, until told to stop (SIGTERM, SIGINT); changes of FILE count at once.

    The password to enter with is in the variable that [callout] names. Who is refused, and why, is printed.
    """
    from proxyfab.server.auth.callout import Callout, Decision, Service, line, record
    from proxyfab.server.auth.claims import Signer
    from proxyfab.server.auth.identity import Book

    def tell(told: Decision | str) -> None:
        click.echo(record(told) if as_json else line(told))
        sys.stdout.flush()

    if not 1 <= life <= 86_400 * 365:
        raise ConfigurationError(f"--life {life:g} makes no sense: write seconds, from 1 on.")
    book = Book(file, tell)
    people, _ = book()
    if people.callout is None:
        raise ConfigurationError(f"{file} has no [callout]; add it with the issuer that `proxyfab auth key` prints.")
    signer = Signer(Keyring().signing(key))
    if signer.public != people.callout.issuer:
        raise ConfigurationError(
            f"The key {key} signs as {signer.public}, and {file} says that servers believe {people.callout.issuer}."
        )
    place = _place(url or URL, people.callout.user, people.callout.password)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Service(place, Callout(signer, book, life), tell).run(lambda: tell(f"answering at {place.label}"), stop)

    asyncio.run(run())


def _place(url: str, user: str, password: str) -> Place:
    """Where to answer: as the description says, but for what the URL says itself."""
    place = Place.parse(url)
    if place.auto:
        raise ConfigurationError("nats://auto lets in by its own token and asks nobody; name a server of yours.")
    if place.user or place.token or place.creds:
        return place
    return place._replace(user=user, password=password)
