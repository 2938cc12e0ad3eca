"""The options of every command (which archive, which config file, text or JSON) and the archive they lead to.

Rule: an option after the command's name overrides one before it, and both override the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coffer.keys.errors import CofferError, ConfigError
from coffer.server.cli import output

if TYPE_CHECKING:
    from coffer.archive.events.users import UsersLoaded
    from coffer.server.access.action import Action, Resource
    from coffer.server.access.decision import Policy
    from coffer.server.access.principal import Principal
    from coffer.server.config.settings import Config
    from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive, WritableArchive

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Chosen:
    """What the user chose on the command line and in the environment."""

    archive: Path | None = None
    config: Path | None = None
    json: bool = False
    has_warned: bool = False

    def locations(self) -> tuple[Path | None, Path | None]:
        """The config file, if there is one, and the archive folder, unless the config file is to name it.

        Warns once on standard error about files that are ignored because they are in an archive folder.
        """
        from coffer.server.config.find import find_config, remedy_for
        from coffer.server.config.load import DEFAULT_ARCHIVE

        found = find_config(self.config, self.archive)
        for path in () if self.has_warned else found.ignored:
            output.warn(f"{path.absolute()} is not read: it is in an archive folder", remedy_for(path.absolute()))
        self.has_warned = True
        return found.path, self.archive or (None if found.path else Path(DEFAULT_ARCHIVE))

    def admit(self, action: Action, officer: str | None = None, *, resource: Resource | None = None) -> Admitted:
        """The configuration, if it permits `action` to the account that runs the command, acting as `officer`;
        `resource` is what it concerns, if that is not the archive.

        Raises ConfigError naming every problem in the file, InputError for an unusable name, AccessDeniedError.
        """
        from coffer.server.config.load import load_config

        return admit(load_config(*self.locations()), action, officer, resource=resource)

    def existing(self, action: Action, officer: str | None = None) -> Admitted:
        """As `admit`, for an archive that exists. Raises the same errors, UnavailableError if this account may not look
        into it, ConfigError if there is none, and NotFoundError if its archive.json is missing."""
        from coffer.server.identity.account import require_open_to_account

        admitted = self.admit(action, officer)
        require_open_to_account(admitted.config.archive)
        if not os.path.lexists(admitted.config.archive / "archive.json"):
            raise self._missing(admitted.config.archive)
        return admitted

    def _missing(self, archive: Path) -> CofferError:
        from coffer.archive.store.folder import ArchiveFolder, has_segments

        if has_segments(archive):
            return ArchiveFolder.missing(archive)
        found, named = self.locations()
        if found is None or named is not None:
            remedy = "create one with `coffer init`, or name another with --archive, --config or COFFER_ARCHIVE"
            return ConfigError(f"there is no archive in {archive}", hint=remedy)
        return ConfigError(
            f"there is no archive in {archive}, the place that {found} names",
            hint=f'put the path of the archive into {found}: archive = "..."; a new one is created by coffer init',
        )


@dataclass(frozen=True, slots=True)
class Admitted:
    """An archive's configuration, and the principal to whom the command's action is permitted.

    A command reaches archive and configuration in no other way.
    """

    config: Config
    principal: Principal
    policy: Policy

    def open_reading(self, *, may_lag: bool = False, heeds_users: bool = True) -> ReadableArchive:
        """The archive, open to read.

        Raises the same errors as `server.engine.opening.open_reading`, unless `heeds_users` is False as
        `ReadableArchive.require_users`, and UnavailableError if the index is so far behind the log that results would
        be incomplete, unless it `may_lag`.
        """
        from coffer.server.engine.opening import open_reading

        archive = open_reading(self.config)
        if heeds_users:
            _require_users(archive)
        if not may_lag:
            require_level(archive)
        return archive

    @contextmanager
    def change_keys(self, *, may_lag: bool = False) -> Iterator[KeyAdminArchive]:
        """The archive, open to change its keys, also beside a running writer; what the block changed is signed on
        return. Raises as `open_reading`, and as `server.keyops.key_change.changing_keys`."""
        from coffer.server.engine.archive import WritableArchive
        from coffer.server.keyops.key_change import changing_keys

        with changing_keys(self.config) as archive:
            self._record_users(archive)
            if not may_lag and not isinstance(archive, WritableArchive):
                require_level(archive)
            yield archive

    def open_writer(self) -> WritableArchive:
        """The archive, open as its one writer. Raises the same errors as `server.engine.opening.open_writer`."""
        from coffer.server.engine.opening import open_writer

        archive = self._recorded(open_writer(self.config))
        archive.deliver()
        return archive

    def open_past_mark(self) -> WritableArchive:
        """As `open_writer`, whatever the mark outside the folder says."""
        from coffer.server.engine.opening import open_past_mark

        return self._recorded(open_past_mark(self.config))

    def open_for_rebuild(self) -> WritableArchive:
        """As `open_writer`, with an empty index."""
        from coffer.server.engine.opening import open_for_rebuild

        return self._recorded(open_for_rebuild(self.config))

    def missing_users(self) -> UsersLoaded | None:
        """As `server.mailbox.users_record.missing_users`, of an archive that need not have an index yet."""
        from contextlib import closing

        from coffer.archive.reader import LogReader
        from coffer.archive.store.folder import ArchiveFolder
        from coffer.server.engine.providers import open_keyring, provider_of
        from coffer.server.mailbox.users_record import missing_users

        folder = ArchiveFolder.open(self.config.archive)
        provider = provider_of(self.config.keys, folder.archive_id)
        with closing(open_keyring(folder, provider, readonly=True)) as keyring, closing(LogReader(folder)) as reader:
            return missing_users(keyring, reader, self.policy.directory)

    def record_users(self) -> None:
        """Record the users as their file says now, or that there are none, durable and signed on return. Raises as
        `change_keys`, whatever the log has of users."""
        from coffer.server.keyops.key_change import changing_keys
        from coffer.server.mailbox.users_record import record_users

        with changing_keys(self.config, heeds_users=False) as archive:
            record_users(archive.keyring, archive.policy.directory)

    def _recorded(self, archive: WritableArchive) -> WritableArchive:
        _require_users(archive)
        try:
            self._record_users(archive)
        except BaseException:
            archive.close()
            raise
        return archive

    def _record_users(self, archive: KeyAdminArchive) -> None:
        """Leave the hash of the users for the log before anything else is: a list put back is seen by what is done
        under it. A command that only reads can record nothing."""
        if not self.policy.directory.is_open:
            from coffer.server.mailbox.users_record import record_users

            record_users(archive.keyring, self.policy.directory)


def admit(config: Config, action: Action, officer: str | None = None, *, resource: Resource | None = None) -> Admitted:
    """As `Chosen.admit`, for a configuration that is already loaded."""
    from coffer.server.access.action import ARCHIVE
    from coffer.server.access.decision import FULFILLED, policy_of
    from coffer.server.identity.account import operator
    from coffer.server.observe import logs

    logs.configure(config.log, level="error")  # the command reports by itself; the log is for the server
    policy = policy_of(config)
    principal = operator(policy.directory, officer, config.dimse.ae_title)
    policy.require(principal, action, ARCHIVE if resource is None else resource, fulfils=FULFILLED.get(action, ()))
    return Admitted(config, principal, policy)


def _require_users(archive: ReadableArchive) -> None:
    """Close the archive and raise what `ReadableArchive.require_users` raises."""
    try:
        archive.require_users()
    except BaseException:
        archive.close()
        raise


def require_level(archive: ReadableArchive) -> None:
    """Close the archive and raise UnavailableError if its index is incomplete; print a note about skipped objects."""
    if archive.shortfall is not None:
        archive.close()
        raise archive.shortfall
    skipped = archive.index.skipped_objects
    if skipped:
        from coffer.server.engine.archive import SKIPPED

        click.echo(f"note: {skipped} {SKIPPED}", err=True)


def officer_option(function: F) -> F:
    """Add --officer: the person's name that is recorded with the action."""
    return click.option("--officer", metavar="NAME", help="Who does this.  [default: the account]")(function)


def confirm(question: str, *, yes: bool, lines: Sequence[str] = ()) -> None:
    """Print `lines` and ask for confirmation of an irreversible act, on standard error. Without a terminal and without
    --yes: wrong usage, exit code 2."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This cannot be undone: give --yes, because there is no terminal to confirm it on.")
    for line in lines:
        click.echo(line, err=True)
    click.confirm(question, abort=True, err=True)


def archive_options(*, environment: bool = False) -> Callable[[F], F]:
    """Add --archive and --config; with `environment` (on the group only) also read from the environment."""

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
    """Add --json: print the result as one JSON value."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.ensure_object(Chosen).json |= value

    return click.option("--json", is_flag=True, callback=remember, expose_value=False, help="Print results as JSON.")(
        function
    )
