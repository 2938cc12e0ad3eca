"""`coffer reload`: have a running server read its users and TLS files again."""

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer reload                      after a certificate, a key, ca_file or crl_file was replaced
  coffer users remove ct1 && coffer reload

\b
All or nothing: exit code 11 if the files do not fit together, and the old set stays in use; 6 if no server runs here.
Open associations go on, except those whose certificate is no longer good: they are ended. The server also finds changed
TLS files by itself, within 15 seconds, and never changed users. A user who was removed is denied from the next request
on. A change of coffer.toml needs a restart."""
)
@archive_options()
@json_option
@click.pass_obj
def reload(chosen: Chosen) -> None:
    """Have the running server read users, certificates, key, authorities and revocation lists again."""
    from coffer.server.host.control import give_order

    give_order(chosen.existing(Action.RELOAD).config.archive, "reload")
    if chosen.json:
        output.as_json({"reloaded": True})
        return
    output.say("the server uses users and TLS files as they are now")
