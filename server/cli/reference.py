"""Render docs/cli.md from the commands and the error tree; `python -m coffer.server.cli.reference docs` writes it.

Rule: the page contains nothing that is not in the code; a test compares the two.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from coffer.keys import errors
from coffer.server.cli.integrity.verify import UNANCHORED
from coffer.server.cli.root import INTERNAL_ERROR, INTERRUPTED, main
from coffer.server.config.reference import configuration_page

_INTRODUCTION = """# Command line

`coffer --help` and `coffer COMMAND --help` print the same text. Results go to standard output, progress and errors to
standard error: an error is a line with the cause and a line with the remedy. With `--json` both are JSON.
"""


def exit_codes() -> list[tuple[int, str, str]]:
    """Every exit code: number, name, meaning."""
    rows = [
        (0, "done", "Everything was done."),
        (1, "findings", "A check found problems, or the erasure is not effective yet."),
    ]
    rows.append((2, "usage", "The command line is wrong; nothing was done."))
    unanchored = "A verification without findings had nothing from outside the archive folder to compare with."
    rows.append((UNANCHORED, "not checked from outside", unanchored))
    for name in errors.__all__:
        kind = getattr(errors, name)
        if kind is not errors.CofferError:
            rows.append((kind.exit_code, name, (kind.__doc__ or "").strip().split("\n")[0]))
    rows.append((INTERNAL_ERROR, "internal error", "A bug in Coffer: please report it."))
    rows.append((INTERRUPTED, "interrupted", "Ctrl-C."))
    return sorted(rows)


def command_line_page() -> str:
    """The whole page, ending in one newline."""
    table = "\n".join(f"| {code} | {name} | {meaning} |" for code, name, meaning in exit_codes())
    parts = [_INTRODUCTION, "## Exit codes", "", "| Code | Name | Meaning |", "|---|---|---|", table, ""]
    for context in _contexts(main, None, "coffer"):
        lines = context.get_help().splitlines()
        parts += [f"## {context.command_path}", "", "```text", *(line.rstrip() for line in lines), "```", ""]
    return "\n".join(parts)


def _contexts(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    """The command and all its subcommands, as called in a terminal of 100 columns."""
    context = click.Context(command, parent, info_name=name, terminal_width=100, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from _contexts(one, context, below)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "cli.md").write_text(command_line_page(), encoding="utf-8")
    (folder / "configuration.md").write_text(configuration_page(), encoding="utf-8")
