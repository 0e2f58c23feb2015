"""The command line: `proxyfab COMMAND`. Exit status 0 is well, 1 is a problem that was found, 2 is a wrong call."""

from proxyfab.cli.main import main

__all__ = ["main"]
