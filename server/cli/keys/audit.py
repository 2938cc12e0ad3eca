"""`coffer keys audit`: whether the keyring is the one that belongs to this log."""

from dataclasses import asdict

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

_FINDINGS = 1


@click.command(
    "audit",
    epilog="""\b
Examples:
  coffer keys audit
  coffer keys audit --json

\b
Finds a keyring that is cut, older than the log, of another archive, or that contains keys which were shredded or
replaced, a destroyed epoch whose secret is back, rows that somebody altered, removed, put back or took from a copy,
and holds, requests, epochs and shares that are not what the whole log says of them. The last two need the key; without
it the audit says so and does the rest. Writes nothing, and may run beside a server. It reports which
providers could not be reached, and therefore were not asked.
Exit codes: 0 no findings, 1 findings, others as for every command.""",
)
@archive_options()
@json_option
@click.pass_obj
def audit(chosen: Chosen) -> None:
    """Check the keyring against the log: a key for everything that must be readable, none for what was erased."""
    config = chosen.existing(Action.AUDIT_KEYS).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.engine.providers import provider_of
    from coffer.server.keyops.check import KeyAudit

    folder, findings = ArchiveFolder.open(config.archive), []
    with output.progress("reading the log", hidden=chosen.json) as bar:
        work = KeyAudit(folder, provider_of(config.keys, folder.archive_id), bar.reach)
        for finding in work.findings():
            findings.append(finding)
            if not chosen.json:
                output.say(finding)
    counts = asdict(work.summary)
    if chosen.json:
        output.as_json({"archive": str(config.archive), **counts, "findings": findings})
    else:
        output.say(
            f"{counts['records']} records; keys: {counts['in_use']} in use, {counts['shredded']} shredded,"
            f" {counts['replaced']} replaced, {counts['unused']} not used yet:"
            f" {len(findings) or 'no'} findings"
        )
        if counts["unasked"]:
            output.say(f"not asked whether destroyed epochs are back: {', '.join(counts['unasked'])}")
        if counts["unchecked"]:
            output.say(f"not checked with the key whether rows were altered: {counts['unchecked']}")
    if findings:
        click.get_current_context().exit(_FINDINGS)
