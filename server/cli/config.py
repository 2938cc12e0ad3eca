"""`coffer config`: check the config file before the server does."""

from pathlib import Path

import click
import msgspec

from coffer.keys.errors import ConfigError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, admit, archive_options, json_option
from coffer.server.config.find import require_outside
from coffer.server.config.load import check_text, read_text
from coffer.server.config.settings import Dimse, Http


@click.group()
def config() -> None:
    """Check the configuration."""


@config.command(
    epilog="""\b
Examples:
  coffer config check
  coffer config check --config /etc/coffer.toml --json

\b
Every key is described in docs/configuration.md. Exit code 11 if something must be changed."""
)
@archive_options()
@json_option
@click.pass_obj
def check(chosen: Chosen) -> None:
    """Read the config file and report each problem with its line and its remedy. Changes nothing."""
    source, archive = chosen.locations()
    text = "" if source is None else read_text(source)
    base = Path.cwd() if source is None else source.absolute().parent
    loaded, problems = check_text(text, base, archive, is_file=source is not None)
    if loaded is not None:
        admit(loaded, Action.CONFIGURE)
    if source is not None and loaded is not None:
        require_outside(source, loaded.archive)
    if chosen.json:
        effective = None if loaded is None else msgspec.to_builtins(loaded, enc_hook=str)
        output.as_json({"file": source, "ok": not problems, "problems": problems, "config": effective})
    elif loaded is not None:
        from coffer.server.engine.providers import guarded, provider_location

        where = f"{source} is valid" if source else "no config file: the defaults apply"
        output.say(where)
        output.facts(
            {
                "archive": str(loaded.archive),
                "key": provider_location(loaded.keys),
                "key memory": guarded(),
                "DICOM": f"{loaded.dimse.ae_title} on {loaded.dimse.host} {_ports(loaded.dimse)}",
                "HTTP": f"{loaded.http.host} {_ports(loaded.http)}" if loaded.http.enabled else "off",
                "peers": ", ".join(p.ae_title for p in loaded.peers) or "none",
            }
        )
    else:
        for problem in problems:
            output.say(f"{source}:{problem.line}: {problem.cause}\n    {problem.remedy}")
    if problems:
        count = len(problems)
        raise ConfigError(
            f"{count} problem{'s' if count > 1 else ''} in {source}", hint="correct the lines named above"
        )


def _ports(door: Dimse | Http) -> str:
    plain = [f"port {door.port}"] if door.port else []
    return ", ".join([*plain, *([f"port {door.tls_port} with TLS"] if door.tls_port else [])])
