"""The command line `coffer`: one command per file, errors as a cause and a remedy, results as text or JSON."""

from coffer.server.cli.root import main

__all__ = ["main"]
