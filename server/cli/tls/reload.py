"""`coffer reload`: have a running server read its TLS files again."""

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer reload                      after a certificate, a key, ca_file or crl_file was replaced
  coffer reload && echo in use

\b
All or nothing: exit code 11 if the files do not fit together, and the old set stays in use; 6 if no server runs here.
Open associations go on, except those whose certificate is no longer good: they are ended. The server also finds changed
files by itself, within 15 seconds. A change of coffer.toml needs a restart."""
)
@archive_options()
@json_option
@click.pass_obj
def reload(chosen: Chosen) -> None:
    """Have the running server read certificates, key, authorities and revocation lists again."""
    from coffer.server.host.control import give_order

    give_order(chosen.existing(Action.RELOAD).config.archive, "reload")
    if chosen.json:
        output.as_json({"reloaded": True})
        return
    output.say("the server uses the TLS files as they are now")
