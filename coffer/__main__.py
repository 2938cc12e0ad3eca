"""`python -m coffer`: the command line."""

from coffer.server.cli import main

main()
