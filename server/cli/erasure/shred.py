"""`coffer shred`: erase studies for good by destroying their keys."""

import click

from coffer.server.cli.erasure.approvals import approve, cancel, request
from coffer.server.cli.erasure.certificate import certificate, check
from coffer.server.cli.erasure.progress import finish, list_shreds
from coffer.server.cli.erasure.study import study


class _ByDefault(click.Group):
    """A group with a default command: `coffer shred 1.2.3` is `coffer shred study 1.2.3`."""

    default = "study"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_for_help = args[:1] in (["-h"], ["--help"])
        return super().parse_args(
            ctx, args if not args or asks_for_help or args[0] in self.commands else [self.default, *args]
        )


@click.group(
    cls=_ByDefault,
    epilog="""\b
Examples:
  coffer shred 1.2.840.99999.1 --reason 'erasure request 2026-17'
  coffer shred --patient 4711 --reason 'erasure request 2026-18' --officer Meyer
  coffer shred list
  coffer shred finish
  coffer shred certificate 5f1c0a77 -o certificates

\b
A shred cannot be undone. At once nobody can find or open the study, here or in a running server. `coffer shred finish`
makes it effective, so that no old backup opens it either: after the backups have expired, in two steps.
""",
)
def shred() -> None:
    """Erase studies for good, by destroying their keys. `coffer shred UID` is short for `coffer shred study UID`."""


for _command in (study, request, approve, cancel, finish, list_shreds, certificate, check):
    shred.add_command(_command)
