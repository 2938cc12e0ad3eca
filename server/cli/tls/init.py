"""`coffer tls init`: an authority and certificates for a first try."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from coffer.keys.errors import ConfigError
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, json_option


@click.command(
    epilog="""\b
Examples:
  coffer tls init /etc/coffer/tls --host pacs.example.org --host 10.0.0.5
  coffer tls init tls-test --peer CT1 --peer ORTHANC=10.0.0.7

\b
Writes ca.pem (give it to every peer), ca.key, coffer.pem and coffer.key, and for each --peer NAME.pem and NAME.key, and
prints the lines for coffer.toml. A peer that Coffer calls needs its HOST in its certificate. The authority is for
trials: whoever has ca.key is believed as anybody. Coffer does not need ca.key: move it to another machine. Nothing is
overwritten."""
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--host", "hosts", multiple=True, help="Name or address by which peers call Coffer; may be repeated.")
@click.option("--peer", "peers", multiple=True, help="Make a certificate for NAME or NAME=HOST too; may be repeated.")
@json_option
@click.pass_obj
def init(chosen: Chosen, folder: Path, hosts: tuple[str, ...], peers: tuple[str, ...]) -> None:
    """Make an authority, Coffer's certificate and those of peers, for a first try of TLS."""
    from coffer.keys.disk import durable
    from coffer.server.tls.authority import Authority, write_pem

    hosts_of = {name: host for name, _, host in (each.partition("=") for each in peers)}
    if any(not name or {"/", "\0"} & set(name) or name in {"ca", "coffer", ".", ".."} for name in hosts_of):
        raise ConfigError("a peer's name becomes a file's name", hint="give one without /, other than ca and coffer")
    names = hosts or tuple(dict.fromkeys((socket.getfqdn(), "localhost", "127.0.0.1")))
    authority = Authority("Coffer test authority")
    made = {"ca": authority.itself, "coffer": authority.issue("coffer", names)}
    made |= {name: authority.issue(name, [host] if host else []) for name, host in hosts_of.items()}
    if not folder.exists():
        durable.make_folder(folder)
    for name, issued in made.items():
        write_pem(folder / f"{name}.key", issued.key_pem, secret=True)
        write_pem(folder / f"{name}.pem", issued.certificate_pem, secret=False)
    where = folder.absolute()
    if chosen.json:
        output.as_json({"folder": str(where), "names": list(names), "certificates": sorted(made)})
        return
    output.say(f"an authority and {len(made) - 1} certificates in {where}, valid for two years")
    output.say(f"Peers may call Coffer {' or '.join(names)}.")
    output.say("Move ca.key to another machine: whoever has it is believed as anybody.\n\nFor coffer.toml:\n")
    output.say("[dimse]\ntls_port = 2762\n\n[tls]")
    for key, file in (("certificate_file", "coffer.pem"), ("key_file", "coffer.key"), ("ca_file", "ca.pem")):
        output.say(f'{key} = "{where / file}"')
