"""`coffer tls check`: what a peer sees of Coffer, and Coffer of a peer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import ConfigError, NotFoundError, UnavailableError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.tls.check import Called


@click.command(
    epilog="""\b
Examples:
  coffer tls check                   do the files fit together, and what does a peer see?
  coffer tls check ORTHANC           call the peer ORTHANC of coffer.toml, and say what it shows or why it fails

\b
Changes nothing, sends no DICOM message, and works beside a server. Exit code 11 if the files do not fit together, 6 if
the peer cannot be reached or either side refuses the other."""
)
@click.argument("peer", required=False)
@archive_options()
@json_option
@click.pass_obj
def check(chosen: Chosen, peer: str | None) -> None:
    """Check certificate, key, authorities and revocation lists; with PEER, call it and explain what happens."""
    from coffer.server.tls.check import call_peer, own_facts
    from coffer.server.tls.loaded import load_set

    config = chosen.admit(Action.CHECK_TLS).config
    if config.tls.certificate_file == Path():
        raise ConfigError("no TLS is configured", hint="add [tls] to coffer.toml; coffer tls init FOLDER makes files")
    target = next((each for each in config.peers if each.ae_title == peer), None)
    if peer is not None and target is None:
        raise NotFoundError(f"there is no peer {peer}", hint="name one of [[peers]] in coffer.toml")
    loaded = load_set(config.tls)
    told: dict[str, Any] = dict(own_facts(loaded))
    called = None if target is None else call_peer(config, target, loaded)
    if chosen.json:
        output.as_json({"own": told, "peer": None if called is None else _plain(called)})
    else:
        output.facts(told)
        if called is not None:
            output.say()
            output.facts({"peer": str(peer), **_facts(called)})
    if called is not None and called.agreed is None:
        raise UnavailableError(
            f"TLS with {peer} fails: {called.why}",
            hint="see docs/security/certificates.md: each side needs the other's authority, and the name must match",
        )


def _facts(called: Called) -> dict[str, str]:
    shown, agreed = called.shown, called.agreed
    found = {} if agreed is None else {"agreed": f"{agreed.version}, {agreed.cipher}, {agreed.group} key exchange"}
    if shown is None:
        return found | {"shows": "no certificate"}
    return found | {
        "shows": shown.subject,
        "issued by": shown.issuer,
        "names": ", ".join(shown.names) or "none",
        "public key": shown.spki_sha256,
    }


def _plain(called: Called) -> dict[str, Any]:
    shown, agreed = called.shown, called.agreed
    return {
        "ok": agreed is not None,
        "why": called.why,
        "version": agreed.version if agreed else None,
        "cipher": agreed.cipher if agreed else None,
        "group": agreed.group if agreed else None,
        "certificate": None if shown is None else dataclasses.asdict(shown),
    }
