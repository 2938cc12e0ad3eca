"""`coffer init`: make an archive and its key file, and say what the key file means."""

import click

from server.cli import output
from server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer init                            the archive ./archive-data, its key file beside it
  coffer init --archive /srv/coffer      there, with the key file /srv/coffer.key
  coffer --config /etc/coffer.toml init  where the config file says"""
)
@archive_options()
@json_option
@click.pass_obj
def init(chosen: Chosen) -> None:
    """Make an empty archive and its key file. Never touches an archive that is there already."""
    config = chosen.load()
    from server import logs
    from server.engine import Engine

    logs.configure(config.log, level="error")
    had_key = config.keys.key_file.exists()
    Engine.create(config)
    if chosen.json:
        output.as_json({"archive": config.archive, "key_file": config.keys.key_file, "key_file_made": not had_key})
        return
    output.say(f"archive made   {config.archive}")
    output.say(f"key file {'used' if had_key else 'made'}  {config.keys.key_file}")
    output.say()
    output.say("Copy the key file to a safe place that is not on this machine, now.")
    output.say("Whoever loses it loses every object of the archive, and nobody can bring them back.")
    output.say()
    output.say("Next: coffer serve")
