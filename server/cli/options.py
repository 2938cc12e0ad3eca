"""Options every command has: which archive, which config file, text or JSON; and the archive they lead to.

Rule: an option given after the command goes before the one given ahead of it, and both before the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coffer.keys.errors import ConfigError
from coffer.server.cli import output
from coffer.server.config.find import find_config, remedy_for
from coffer.server.config.load import DEFAULT_ARCHIVE, load_config

if TYPE_CHECKING:
    from coffer.server.config.settings import Config
    from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive, WritableArchive

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Chosen:
    """What the user chose on the command line and in the environment."""

    archive: Path | None = None
    config: Path | None = None
    json: bool = False
    told: bool = False

    def locations(self) -> tuple[Path | None, Path | None]:
        """The config file, if there is one, and the archive folder, if the config file is not to name it.

        Says, on standard error, which file was passed over because it lies in an archive folder.
        """
        found = find_config(self.config, self.archive)
        for path in () if self.told else found.ignored:
            output.warn(f"{path.absolute()} is not read: it lies in an archive folder", remedy_for(path.absolute()))
        self.told = True
        return found.path, self.archive or (None if found.path else Path(DEFAULT_ARCHIVE))

    def load(self) -> Config:
        """The configuration. Raises ConfigError naming every problem in the file."""
        return load_config(*self.locations())

    def existing(self) -> Config:
        """The configuration of an archive that is there. Raises ConfigError as `load`, and if there is none."""
        config = self.load()
        if not os.path.lexists(config.archive / "archive.json"):
            raise ConfigError(
                f"there is no archive in {config.archive}",
                hint="make one with `coffer init`, or name another with --archive, --config or COFFER_ARCHIVE",
            )
        return config

    def open_reading(self, *, may_lag: bool = False) -> ReadableArchive:
        """The archive, open to read.

        Raises as `server.engine.opening.open_reading`, and ConfigError; UnavailableError where the index is so far
        behind the log that answers would lack what is stored, unless it `may_lag`.
        """
        config = self._quiet()
        from coffer.server.engine.opening import open_reading

        archive = open_reading(config)
        if not may_lag:
            require_level(archive)
        return archive

    def open_for_keys(self, *, may_lag: bool = False) -> KeyAdminArchive:
        """The archive, open to change its keys, also beside the process that writes. Raises as `open_reading`."""
        config = self._quiet()
        from coffer.server.engine.archive import WritableArchive
        from coffer.server.engine.opening import open_for_keys

        archive = open_for_keys(config)
        if not may_lag and not isinstance(archive, WritableArchive):
            require_level(archive)
        return archive

    def open_writer(self) -> WritableArchive:
        """The archive, open as its one writer. Raises as `server.engine.opening.open_writer`, and ConfigError."""
        config = self._quiet()
        from coffer.server.engine.opening import open_writer

        return open_writer(config)

    def open_for_rebuild(self) -> WritableArchive:
        """As `open_writer`, with an empty index."""
        config = self._quiet()
        from coffer.server.engine.opening import open_for_rebuild

        return open_for_rebuild(config)

    def _quiet(self) -> Config:
        """As `existing`; the command itself reports, for the log is the server's."""
        config = self.existing()
        from coffer.server.observe import logs

        logs.configure(config.log, level="error")
        return config


def require_level(archive: ReadableArchive) -> None:
    """Close the archive and raise UnavailableError where its index lacks what is stored; tell of what is skipped."""
    if archive.shortfall is not None:
        archive.close()
        raise archive.shortfall
    skipped = archive.index.skipped_objects
    if skipped:
        from coffer.server.engine.archive import SKIPPED

        click.echo(f"note: {skipped} {SKIPPED}", err=True)


def officer_option(function: F) -> F:
    """Add --officer: the person's name that is kept with the deed."""
    return click.option("--officer", metavar="NAME", help="Who does it.  [default: the account]")(function)


def confirm(question: str, *, yes: bool, told: Sequence[str] = ()) -> None:
    """Ask before what cannot be undone, on standard error, after the lines of `told`. Without a terminal and without
    --yes: wrong usage, exit code 2."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This cannot be undone: say --yes where nobody can be asked.")
    for line in told:
        click.echo(line, err=True)
    click.confirm(question, abort=True, err=True)


def archive_options(*, environment: bool = False) -> Callable[[F], F]:
    """Add --archive and --config; with `environment` (on the group only) read from the environment too."""

    def remember(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
        if value is not None and param.name is not None:
            setattr(ctx.ensure_object(Chosen), param.name, value)

    def add(function: F) -> F:
        for name, kind, text in (
            ("config", click.Path(path_type=Path, dir_okay=False), "The config file."),
            ("archive", click.Path(path_type=Path, file_okay=False), "The archive folder."),
        ):
            function = click.option(
                f"--{name}",
                type=kind,
                callback=remember,
                expose_value=False,
                help=text,
                envvar=f"COFFER_{name.upper()}" if environment else None,
                show_envvar=environment,
            )(function)
        return function

    return add


def json_option(function: F) -> F:
    """Add --json: print what the command found as one JSON value."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.ensure_object(Chosen).json |= value

    return click.option("--json", is_flag=True, callback=remember, expose_value=False, help="Print the facts as JSON.")(
        function
    )
