"""What commands print: facts and tables on standard output, progress and errors on standard error.

Rule: text from a data set is shown with control characters replaced, so that no patient name can control a terminal;
bars and colours appear only on a terminal, and rich, which draws them, is imported only there.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.clock import LAST_MS
from coffer.keys.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def require_streams() -> None:
    """Replace the standard streams that the parent process closed (`2>&-`).

    Otherwise the next file that is opened, a segment for example, would become standard error, and a library's messages
    would be written into it. The replacement of standard output fails when it is written to, so that a command whose
    output is lost does not succeed.
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
    """Discard what standard output does not accept: Python would try again at exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def plain(text: str) -> str:
    """`text` without anything that a terminal would interpret."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def size(count: int) -> str:
    """A number of bytes for human readers: `1.5 MiB`."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def when(ms: int) -> str:
    """Milliseconds since 1970 as UTC in ISO 8601, to the second; a number that is no date, as it is."""
    if not 0 <= ms <= LAST_MS:
        return f"{ms} ms, which is no date"
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds")


def say(text: str = "") -> None:
    """Print one line on standard output."""
    click.echo(text)


def as_json(value: Any) -> None:
    """Print `value` on standard output as one line of JSON."""
    click.echo(_json(value))


def json_array(values: Iterable[Any]) -> int:
    """Print a JSON array on standard output, each row as it arrives, one per line. Returns the number of rows."""
    count = 0
    for value in values:
        click.echo(("[\n" if count == 0 else ",\n") + _json(value), nl=False)
        count += 1
    click.echo("\n]" if count else "[]")
    return count


def facts(pairs: Mapping[str, str]) -> None:
    """Print names and values on standard output, aligned."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name:<{width}}  {plain(value)}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Print a table on standard output: drawn on a terminal, tab-separated into a pipe. Returns the number of rows.

    No value is ever cut or broken, because the next command may need it: where the terminal is too narrow, each row is
    a paragraph with a line for each column.
    """
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        count = 0
        for row in rows:
            click.echo("\t".join(plain(v) for v in row))
            count += 1
        return count
    from rich.cells import cell_len
    from rich.console import Console

    shown = [tuple(map(plain, row)) for row in rows]
    widest = (max(map(cell_len, cells)) for cells in zip(columns, *shown, strict=True))
    console = Console()
    if sum(width + 3 for width in widest) + 1 > console.width:
        for row in shown:
            facts(dict(zip(columns, row, strict=True)))
            click.echo()
    else:
        _draw(console, columns, shown)
    return len(shown)


def _draw(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, header_style="bold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


def failure(cause: str, remedy: str, exit_code: int, *, as_json: bool) -> None:
    """Print an error on standard error: a line with the cause and a line with the remedy, or both as JSON."""
    if as_json:
        error = {"error": cause, "remedy": remedy, "exit_code": exit_code}
        click.echo(_json(error), err=True)
        return
    click.echo(f"{click.style('error:', fg='red')} {_lines(cause)}", err=True)
    if remedy:
        click.echo(f"{click.style('remedy:', fg='yellow')} {_lines(remedy)}", err=True)


def warn(cause: str, remedy: str) -> None:
    """Print a problem that does not stop the command, and its remedy, on standard error."""
    click.echo(f"{click.style('warning:', fg='yellow')} {_lines(cause)}", err=True)
    click.echo(f"{click.style('remedy:', fg='yellow')} {_lines(remedy)}", err=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a result that everybody may read to a file instead of standard output. It replaces an existing file and
    follows no symbolic link at `path`. Durable on return. Raises InputError."""
    from coffer.keys.disk import durable

    try:
        durable.replace(path, data, 0o644)
    except UnavailableError as error:
        raise InputError(str(error), hint="name an existing folder that you may write to") from error


def _json(value: Any) -> str:
    import msgspec  # not at the top: `--version` and errors as text print no JSON

    text = msgspec.json.encode(value, enc_hook=str).decode()
    if text.isprintable():
        return text
    import json  # nor does most JSON hold such characters

    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)  # such stand in strings only


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


@dataclass(slots=True)
class Bar:
    """A progress bar, or nothing where none is shown."""

    _progress: Progress | None
    _task: TaskID | None

    @property
    def is_shown(self) -> bool:
        """Whether it is visible. If it is not, the caller need not compute a total that takes time."""
        return self._progress is not None

    def expect(self, more: int) -> None:
        """Add `more` to the total."""
        if self._progress is not None and self._task is not None:
            total = self._progress.tasks[self._task].total
            self._progress.update(self._task, total=(total or 0) + more)

    def advance(self, count: int = 1, total: int | None = None) -> None:
        """Report that `count` more are done, and set the total to `total` if it is known by now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, total=total)

    def reach(self, done: int, total: int) -> None:
        """Report that `done` of `total` are done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)


@contextmanager
def progress(title: str, total: int | None = None, *, hidden: bool = False, in_bytes: bool = False) -> Iterator[Bar]:
    """A bar on standard error while the block runs, only on a terminal; `in_bytes` shows sizes and the rate."""
    if hidden or not sys.stderr.isatty():
        yield Bar(None, None)
        return
    from rich import progress as bars
    from rich.console import Console

    sizes: tuple[ProgressColumn, ...] = (bars.DownloadColumn(), bars.TransferSpeedColumn())
    counts = sizes if in_bytes else (bars.MofNCompleteColumn(),)
    title_and_bar = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TaskProgressColumn())
    columns = (*title_and_bar, *counts, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield Bar(shown, shown.add_task(title, total=total))
