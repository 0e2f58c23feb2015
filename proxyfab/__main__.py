"""`python -m proxyfab` is the command line."""

from proxyfab.cli import main

main()
