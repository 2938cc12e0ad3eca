"""`coffer shred study`: destroy the keys of a study or a patient at once, and what it shares with requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keys.errors import AccessDeniedError
from server.cli import output
from server.cli.options import Chosen, archive_options, confirm, json_option, officer_option, open_for_keys

if TYPE_CHECKING:
    from server.engine import Engine
    from server.shredding import Doomed


def asked(function: Any) -> Any:
    """The options that say what, why and by whom."""
    for option in (
        officer_option,
        click.option(
            "--reason", required=True, metavar="TEXT", help="Why. It is kept for good: write no name into it."
        ),
        click.option("--issuer", metavar="TEXT", help="With --patient: who gave the Patient ID, where several did."),
        click.option("--patient", metavar="ID", help="All studies of the patient with this Patient ID."),
        click.argument("study", metavar="[STUDY_UID]", required=False),
    ):
        function = option(function)
    return function


@click.command(
    epilog="""\b
Examples:
  coffer shred study 1.2.840.99999.1 --reason 'erasure request 2026-17'
  coffer shred study --patient 4711 --reason 'erasure request 2026-18' --yes --json

\b
Works beside a running server, which answers "gone" at once. Exit code 10 where a hold, the retention or the rule of
two officers forbids it: then nothing was done. Stopped in the middle, say it again."""
)
@asked
@click.option("--yes", is_flag=True, help="Do not ask.")
@archive_options()
@json_option
@click.pass_obj
def study(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    study: str | None,
    patient: str | None,
    issuer: str | None,
    reason: str,
    officer: str | None,
    yes: bool,
) -> None:
    """Shred a study, or all studies of a patient."""
    with open_for_keys(chosen) as engine:
        from server.officers import Officer
        from server.shredding import Deed, Shredding

        needed = engine.config.keys.shred_approvals
        if needed > 1:
            raise AccessDeniedError(
                f"{needed} officers must agree ([keys] shred_approvals)", hint="ask with coffer shred request"
            )
        doomed = chosen_studies(engine, study, patient, issuer)
        told = [output.plain(f"  {each.subject.study_uid}  {each.instances} instances") for each in doomed]
        confirm(f"Destroy the keys of {len(doomed)} studies? Nothing brings them back", yes=yes, told=told)
        key_ids = Shredding(engine).shred(doomed, Deed(reason, (Officer.here(officer),)))
        report(chosen, engine, doomed, key_ids)


def chosen_studies(engine: Engine, study: str | None, patient: str | None, issuer: str | None) -> list[Doomed]:
    from server.shredding import by_patient, by_study

    if (study is None) == (patient is None) or (issuer is not None and patient is None):
        raise click.UsageError("Give a STUDY_UID, or --patient (and --issuer).")
    return by_study(engine, study) if study is not None else by_patient(engine, patient or "", issuer)


def report(chosen: Chosen, engine: Engine, doomed: list[Doomed], key_ids: list[bytes]) -> None:
    from keys.shred import tombstones
    from server.shredding import wait_until_settled

    with output.progress("clearing the index", hidden=chosen.json) as bar:
        settled = wait_until_settled(engine, progress=bar.reach)
    instances = sum(each.instances for each in doomed)
    stones = tombstones(engine.keyring)
    meant = {key_id for each in doomed for key_id in each.key_ids} | {*key_ids}
    until = max((stones[key_id].until_ms for key_id in meant & stones.keys()), default=0)
    if chosen.json:
        output.as_json(
            {
                "studies": len(doomed),
                "instances": instances,
                "study_keys": [key_id.hex() for key_id in key_ids],
                "state": "scheduled",
                "backups_until": output.when(until),
                "recorded": settled,
            }
        )
        return
    output.say(f"{len(doomed)} studies with {instances} instances are shredded: nobody can open them")
    output.say(f"backups of the keyring may hold their keys until {output.when(until)}")
    if not settled:
        output.say("the process that writes will record it; coffer shred list shows when it has")
