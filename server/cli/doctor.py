"""`coffer doctor`: examine the installation, and say what to do about each finding."""

from __future__ import annotations

import click
import msgspec

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer doctor                     before an installation goes into service, and whenever something is odd
  coffer doctor --no-connect        without calling the peers
  coffer doctor --json | jq '.results[] | select(.state != "ok")'

\b
Changes nothing and works beside a running server. Peers get a C-ECHO, those with TLS only the handshake. It looks at
condition and settings: what is stored is proved by coffer verify. Exit code 1 if something failed; warnings alone end
with 0."""
)
@click.option("--connect/--no-connect", default=True, show_default=True, help="Call every configured peer.")
@archive_options()
@json_option
@click.pass_obj
def doctor(chosen: Chosen, connect: bool) -> None:
    """Examine disk, permissions, ports, keys and their copies, clock, certificates, backups and peers."""
    from coffer.server.checkup.examination import examine
    from coffer.server.checkup.result import State

    admitted = chosen.existing(Action.INSPECT)
    results = examine(admitted.config, chosen.locations()[0], connect=connect)
    counts = {state: sum(each.state == state for each in results) for state in State}
    if chosen.json:
        output.as_json({"results": msgspec.to_builtins(results), "failed": counts[State.FAILED]})
    else:
        for each in results:
            output.say(f"{each.state:<8} {each.about:<13} {output.plain(each.what)}")
            if each.remedy and each.state is not State.OK:
                output.say(f"{'':<22} {output.plain(each.remedy)}")
        output.say(f"{counts[State.OK]} ok, {counts[State.WARNING]} warnings, {counts[State.FAILED]} failed")
    if counts[State.FAILED]:
        raise click.exceptions.Exit(1)
