"""How commands speak: facts and tables on standard output, progress and errors on standard error.

Rule: what comes from a data set is shown with control characters replaced, so that no patient name can drive a
terminal; bars and colours appear only on a terminal.
"""

import datetime as dt
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from coffer.keys.disk import durable
from coffer.keys.errors import InputError, UnavailableError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def require_streams() -> None:
    """Put something in the place of standard streams that were closed by whoever started us (`2>&-`).

    Otherwise the next file that is opened, a segment for example, would be standard error, and what a library says
    there would be written into it. Standard output fails when it is written to: nobody shall believe it was read.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def forget_unwritten() -> None:
    """Let what standard output does not take go nowhere: Python would try once more at the end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def plain(text: str) -> str:
    """`text` without anything a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def size(count: int) -> str:
    """A number of bytes for people: `1.5 MiB`."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def when(ms: int) -> str:
    """Milliseconds since 1970 as UTC in ISO 8601, to the second."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds")


def say(text: str = "") -> None:
    """One line on standard output."""
    click.echo(text)


def as_json(value: Any) -> None:
    """`value` on standard output as one line of JSON."""
    click.echo(msgspec.json.encode(value, enc_hook=str).decode())


def json_array(values: Iterable[Any]) -> int:
    """A JSON array on standard output, a row per line as it comes. Returns the number of rows."""
    count = 0
    for value in values:
        click.echo(("[\n" if count == 0 else ",\n") + msgspec.json.encode(value, enc_hook=str).decode(), nl=False)
        count += 1
    click.echo("\n]" if count else "[]")
    return count


def facts(pairs: Mapping[str, str]) -> None:
    """Names and values, aligned."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name:<{width}}  {plain(value)}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """A table on standard output: drawn on a terminal, tab separated into a pipe. Returns the number of rows."""
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        count = 0
        for row in rows:
            click.echo("\t".join(plain(v) for v in row))
            count += 1
        return count
    drawn = Table(*columns, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(plain(v)) for v in row))
    Console().print(drawn)
    return drawn.row_count


def failure(cause: str, remedy: str, exit_code: int, *, as_json: bool) -> None:
    """An error on standard error: a line with the cause, one with the remedy."""
    if as_json:
        told = {"error": cause, "remedy": remedy, "exit_code": exit_code}
        click.echo(msgspec.json.encode(told).decode(), err=True)
        return
    click.echo(f"{click.style('error:', fg='red')} {_lines(cause)}", err=True)
    if remedy:
        click.echo(f"{click.style('remedy:', fg='yellow')} {_lines(remedy)}", err=True)


def warn(cause: str, remedy: str) -> None:
    """What does not keep a command from its work, on standard error."""
    click.echo(f"{click.style('warning:', fg='yellow')} {_lines(cause)}", err=True)
    click.echo(f"{click.style('remedy:', fg='yellow')} {_lines(remedy)}", err=True)


def into(path: Path, data: bytes) -> None:
    """A result that everybody may read, into a file instead of standard output: it takes the place of what has the
    name, and goes through no link that somebody put there. Raises InputError."""
    try:
        durable.replace(path, data, 0o644)
    except UnavailableError as error:
        raise InputError(str(error), hint="name a folder that exists, and that you may write to") from error


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


@dataclass(slots=True)
class Bar:
    """A progress bar that may not be there."""

    _progress: Progress | None
    _task: TaskID | None

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it: a total that costs something to know need not be known otherwise."""
        return self._progress is not None

    def expect(self, more: int) -> None:
        """Say that so many more are to come."""
        if self._progress is not None and self._task is not None:
            total = self._progress.tasks[self._task].total
            self._progress.update(self._task, total=(total or 0) + more)

    def advance(self, count: int = 1, total: int | None = None) -> None:
        """Say that `count` more are done, of `total` where it is known by now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, total=total)

    def reach(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)


@contextmanager
def progress(title: str, total: int | None = None, *, hidden: bool = False, in_bytes: bool = False) -> Iterator[Bar]:
    """A bar on standard error while the block runs, on a terminal only; `in_bytes` shows sizes and the rate."""
    if hidden or not sys.stderr.isatty():
        yield Bar(None, None)
        return
    counts: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    title_and_bar = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    columns = (*title_and_bar, *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield Bar(shown, shown.add_task(title, total=total))
