"""`demo`: see it work."""

from __future__ import annotations

import click

from proxyfab.errors import MissingDependency


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Stream a real image through instrument, dispatcher and workers by reference, and write a report."""
    try:
        from proxyfab.demo.__main__ import demo as command
    except ImportError as error:
        raise MissingDependency(f"The demo needs {error.name!r}: pip install 'proxyfab[demo]'") from error
    command.main(list(arguments), prog_name="proxyfab demo")
