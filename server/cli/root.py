"""The `coffer` group: which commands there are, and how every failure becomes one cause, one remedy and one exit code.

Rule: no traceback reaches the user unless `COFFER_DEBUG=1` asks for it. The module of a command is imported when the
command is asked for, and imports heavy modules only when it runs, so that `--help` and completion answer at once.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from coffer.keys.errors import CofferError
from coffer.keys.memory import hardening
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options

INTERNAL_ERROR, INTERRUPTED = 70, 130
# The module of each command below this package; in it the command has its own name.
_MODULES: Final = {
    "init": "init",
    "serve": "serve",
    "put": "put",
    "get": "get",
    "find": "search.find",
    "versions": "search.versions",
    "verify": "integrity.verify",
    "repair": "integrity.repair",
    "recover": "integrity.recover",
    "mark": "integrity.mark",
    "scrub": "integrity.scrub",
    "checkpoint": "integrity.checkpoint",
    "status": "status",
    "clock": "integrity.clock",
    "backup": "backup.group",
    "restore": "backup.restore",
    "keys": "keys.group",
    "shred": "erasure.shred",
    "hold": "erasure.hold",
    "users": "access.users",
    "access": "access.explain",
    "index": "index",
    "config": "config",
    "reload": "tls.reload",
    "tls": "tls.group",
    "completion": "completion",
    "demo": "demo",
    "doctor": "doctor",
}


class _Commands(Mapping[str, click.Command]):
    """Every command by its name; its module is imported when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"{__package__}.{_MODULES[name]}"), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)

    def __contains__(self, name: object) -> bool:
        return name in _MODULES


class _Reporting(click.Group):
    """A group that prints what its commands raise, and turns it into the exit code."""

    def main(  # type: ignore[override]  # of click's overloads only the one that ends the process is used
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click has it; a command line that cannot be parsed is a JSON error where it asks for JSON."""
        line = list(sys.argv[1:] if args is None else args)
        if not standalone_mode or "--json" not in line:
            return super().main(line, prog_name, complete_var, standalone_mode, **extra)
        try:
            sys.exit(super().main(line, prog_name, complete_var, standalone_mode=False, **extra))
        except click.ClickException as error:
            command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "coffer"
            output.failure(error.format_message(), f"{command} --help", error.exit_code, as_json=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CofferError as error:
            code = error.exit_code
            output.failure(str(error), error.hint(), code, as_json=_wants_json(ctx))
        except BrokenPipeError:
            # The reader of the output closed the pipe (`| head`); Python would complain again when it flushes at exit.
            output.forget_unwritten()
            code = 0
        except KeyboardInterrupt:
            code = INTERRUPTED
        except OSError as error:
            output.forget_unwritten()
            code = 6
            what = f"{error.filename}: " if error.filename else ""
            output.failure(
                f"{what}{error.strerror or type(error).__name__}",
                "check the path, its permissions and the free space",
                code,
                as_json=_wants_json(ctx),
            )
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001  the last place where it can be reported in a form that a user can act on
            code = INTERNAL_ERROR
            _report_bug(error, as_json=_wants_json(ctx))
        return ctx.exit(code)


def _wants_json(ctx: click.Context) -> bool:
    return isinstance(ctx.obj, Chosen) and ctx.obj.json


def _report_bug(error: Exception, *, as_json: bool) -> None:
    """Report where it happened, not the message, which may quote patient data."""
    import traceback

    if os.environ.get("COFFER_DEBUG"):
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    output.failure(
        f"internal error: {type(error).__name__} in {place}",
        "this is a bug in Coffer: report it with this line; COFFER_DEBUG=1 prints the traceback",
        INTERNAL_ERROR,
        as_json=as_json,
    )


@click.group(
    cls=_Reporting,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `coffer init`, then `coffer serve`. Every command has examples in its --help.",
)
@click.version_option(package_name="coffer-dicom", message="coffer %(version)s")
@archive_options(environment=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Coffer, an encrypted DICOM archive: nothing readable on disk, nothing changed, everything provable.

    The archive is the one given by --archive or COFFER_ARCHIVE, else the one named in the config file, else
    archive-data beside that file. The config file is the one given by --config or COFFER_CONFIG, else ./coffer.toml,
    ~/.config/coffer/coffer.toml or /etc/coffer/coffer.toml; none is read from an archive folder.
    """
    output.require_streams()
    hardening.forbid_dumps()
    ctx.ensure_object(Chosen)
