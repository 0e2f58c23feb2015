"""The one command and how it finds its subcommands: each lives in its own module and is imported when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from proxyfab.errors import ConfigurationError, ProxyfabError

_COMMANDS = {
    "auth": "proxyfab.cli.auth",
    "bench": "proxyfab.cli.bench",
    "broker": "proxyfab.cli.broker",
    "demo": "proxyfab.cli.run",
    "doctor": "proxyfab.cli.doctor",
    "du": "proxyfab.cli.holdings",
    "erasure": "proxyfab.cli.erasure",
    "events": "proxyfab.cli.events",
    "gc": "proxyfab.cli.gc",
    "globus": "proxyfab.cli.globus",
    "inspect": "proxyfab.cli.holdings",
    "keys": "proxyfab.cli.keys",
    "ls": "proxyfab.cli.holdings",
    "relay": "proxyfab.cli.relay",
    "serve": "proxyfab.cli.serve",
    "top": "proxyfab.cli.top",
    "topology": "proxyfab.cli.topology",
}


class _Commands(click.Group):
    """Loads a subcommand's module when it is named, and turns the library's errors into one line and status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        return getattr(importlib.import_module(module), cmd_name)  # type: ignore[no-any-return]  # the table names commands

    def invoke(self, ctx: click.Context) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here, or the interpreter finds the full disk when it ends
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        except ProxyfabError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads has seen enough; click ends quietly
                raise
            if error.filename is not None:  # not of printing, then
                raise click.ClickException(f"{error.filename}: {error.strerror or error}.") from error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what could not be printed goes nowhere
            raise click.ClickException(f"Cannot print: {error.strerror or error}.") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="proxyfab")
def main() -> None:
    """Move large objects by reference: look at stores, clean them up, check this machine, see it work."""
