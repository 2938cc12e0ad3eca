"""`coffer init`: create an archive and its key file, and say why the key file matters."""

from typing import Final

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

_ELSEWHERE: Final = (
    "Put the key file on another disk ([keys] key_file), or give it a passphrase ([keys] passphrase_file)"
)


@click.command(
    epilog="""\b
Examples:
  coffer init                            the archive ./archive-data, its key file beside it
  coffer init --archive /srv/coffer      there, with the key file /srv/coffer.key
  coffer --config /etc/coffer.toml init  where the config file says

\b
A key file on the archive's own disk, without a passphrase, is warned of: a thief of that disk has both.
--yes-same-disk accepts that without a warning."""
)
@click.option("--yes-same-disk", is_flag=True, help="Accept a key file on the archive's own disk, without a warning.")
@archive_options()
@json_option
@click.pass_obj
def init(chosen: Chosen, yes_same_disk: bool) -> None:
    """Create an empty archive and its first key. Never touches an existing archive."""
    config = chosen.admit(Action.CREATE).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.anchor.key_place import exposed_key
    from coffer.server.anchor.mark_file import MarkFile
    from coffer.server.engine.create import create_archive
    from coffer.server.engine.providers import provider_location

    exposed = exposed_key(config)
    if exposed is not None and not yes_same_disk:
        output.warn(exposed, f"{_ELSEWHERE}; --yes-same-disk accepts it")
    had_key = config.keys.key_file.exists()
    create_archive(config)
    folder = ArchiveFolder.open(config.archive)
    mark = MarkFile.of(config, folder.archive_id)
    in_file = config.keys.provider == "file"
    if chosen.json:
        facts = {"archive": config.archive, "provider": config.keys.provider, "vkey": folder.vkey, "mark": mark.path}
        made = {"key_file": config.keys.key_file, "key_file_made": not had_key} if in_file else {}
        output.as_json({**facts, **made})
        return
    output.say(f"archive made   {config.archive}")
    if in_file:
        output.say(f"key file {'used' if had_key else 'made'}  {config.keys.key_file}")
        advice = "Copy the key file now to a safe place that is not on this machine."
    else:
        output.say(f"key kept by    {provider_location(config.keys)}")
        advice = "Make sure now that its backup works, or split the key: coffer keys split --help."
    output.say()
    output.say(advice)
    output.say("If you lose it, you lose every object in the archive, and nobody can recover them.")
    output.say()
    output.say(f"verifier key   {folder.vkey}")
    output.say(f"mark           {mark.path}")
    output.say(
        "Keep a copy of the verifier key elsewhere too: coffer verify --vkey KEY then proves that this is your archive."
    )
    for concern in mark.concerns():
        output.warn(concern, "docs/integrity.md says where a mark protects the archive")
    output.say()
    output.say("Next: coffer serve")
