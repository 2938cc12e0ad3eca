"""`coffer shred study`: destroy the keys of what somebody means at once, and what it shares with requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import doomed_parts
from coffer.server.cli.options import (
    Chosen,
    archive_options,
    confirm,
    json_option,
    officer_option,
)

if TYPE_CHECKING:
    from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive
    from coffer.server.retention.selection import PartToShred


def asked(function: Any) -> Any:
    """The options that say what, why and by whom."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show whom and what it would erase, and change nothing."),
        officer_option,
        click.option("--reason", metavar="TEXT", help="Why (required). It is kept for good: write no name into it."),
        click.option("--all-patients", is_flag=True, help="With a UID: of all patients whose objects stand under it."),
        click.option("--patient-id", metavar="ID", help="With a UID: only of the patient with this Patient ID."),
        click.option(
            "--issuer", metavar="TEXT", help="Who gave the Patient ID, where several did; empty: nobody said."
        ),
        click.option("--instance", metavar="UID", help="The object with this SOP Instance UID that is in no study."),
        click.option("--patient", metavar="ID", help="All studies of the patient with this Patient ID."),
        click.argument("study", metavar="[STUDY_UID]", required=False),
    ):
        function = option(function)
    return function


@click.command(
    epilog="""\b
Examples:
  coffer shred study 1.2.840.99999.1 --dry-run
  coffer shred study 1.2.840.99999.1 --reason 'erasure request 2026-17'
  coffer shred study --patient 4711 --reason 'erasure request 2026-18' --yes --json
  coffer shred study 1.2.840.99999.1 --patient-id 4711 --issuer HOSP --reason 'stored under the wrong study'
  coffer shred study --instance 1.2.840.99999.7 --reason 'erasure request 2026-19'

\b
Shows whom and what it erases, and what stays, and asks. Where objects of several patients stand under one UID, say
--patient-id (and --issuer) or --all-patients: each patient's part has a key of its own, and the others stay. An object
that names no study, or whose header cannot be read, goes by --instance; one that is in a study goes with its study.
Works beside a running server, which answers "gone" at once. Exit code 10 where a hold, the retention or the rule of
two officers forbids it: then nothing was done (--dry-run says so and ends with 0). Stopped in the middle, run the
command again."""
)
@asked
@click.option("--yes", is_flag=True, help="Do not ask.")
@archive_options()
@json_option
@click.pass_obj
def study(
    chosen: Chosen, /, *, reason: str | None, officer: str | None, yes: bool, dry_run: bool, **meant: Any
) -> None:
    """Shred a study, a patient's part of one, all studies of a patient, or an object that is in no study."""
    require_reason_unless(dry_run, reason)
    admitted = chosen.existing(Action.PREVIEW_SHRED if dry_run else Action.SHRED, officer)
    with admitted.open_for_keys() as archive:
        from coffer.server.erasure.shred import Authorization, Shredding
        from coffer.server.retention.preview import preview
        from coffer.server.retention.selection import as_now, require_same

        doomed = chosen_parts(chosen, archive, **meant)
        shredding = Shredding(archive)
        if dry_run:
            doomed_parts.show(chosen, archive, doomed, partial(shredding.require_allowed, doomed))
            return
        shredding.require_allowed(doomed)
        question = f"Destroy the keys of {doomed_parts.counted(doomed)}? Nothing brings them back"
        confirm(question, yes=yes, told=[] if yes else doomed_parts.lines(preview(archive, doomed)))
        if not yes:
            require_same(archive, doomed, as_now(archive, doomed))  # what was shown is what goes
        key_ids = shredding.shred(doomed, Authorization(reason or "", (admitted.principal.officer,)))
        report(chosen, archive, doomed, key_ids)


def require_reason_unless(dry_run: bool, reason: str | None) -> None:
    """A deed needs a reason, a look does not."""
    if reason is None and not dry_run:
        raise click.UsageError("Missing option '--reason'.")


def chosen_parts(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    archive: ReadableArchive,
    study: str | None,
    patient: str | None,
    instance: str | None,
    patient_id: str | None,
    issuer: str | None,
    all_patients: bool,
) -> list[PartToShred]:
    """What the options mean. Where it is several patients', they are shown before that is refused."""
    from coffer.server.retention.selection import SeveralPatientsError, by_instance, by_patient, by_study

    if sum(what is not None for what in (study, patient, instance)) != 1:
        raise click.UsageError("Give a STUDY_UID, --patient or --instance.")
    if patient is not None and (patient_id is not None or all_patients):
        raise click.UsageError("--patient-id and --all-patients go with a STUDY_UID or --instance.")
    if all_patients and patient_id is not None:
        raise click.UsageError("Give --patient-id or --all-patients.")
    if issuer is not None and patient is None and patient_id is None:
        raise click.UsageError("--issuer goes with --patient or --patient-id.")
    if patient is not None:
        return by_patient(archive, patient, issuer)
    by_uid = by_study if study is not None else by_instance
    try:
        return by_uid(archive, study or instance or "", patient_id, issuer, everybody=all_patients)
    except SeveralPatientsError as error:
        doomed_parts.show_patients(chosen, error.parts)
        raise


def report(chosen: Chosen, archive: KeyAdminArchive, doomed: list[PartToShred], key_ids: list[bytes]) -> None:
    """Wait until it is recorded, and say what was done."""
    from coffer.keys.keyring.shred import tombstones
    from coffer.server.erasure.shred import wait_until_settled

    with output.progress("clearing the index", hidden=chosen.json) as bar:
        settled = wait_until_settled(archive, progress=bar.reach)
    stones = tombstones(archive.keyring)
    meant = {key_id for each in doomed for key_id in each.key_ids} | {*key_ids}
    until = max((stones[key_id].until_ms for key_id in meant & stones.keys()), default=0)
    if chosen.json:
        output.as_json(
            {
                "studies": doomed_parts.studies(doomed),
                "instances": sum(each.instances for each in doomed),
                "older_versions": sum(each.versions - each.instances for each in doomed),
                "study_keys": [key_id.hex() for key_id in key_ids],
                "state": "scheduled",
                "backups_until": output.when(until),
                "recorded": settled,
            }
        )
        return
    output.say(f"{doomed_parts.counted(doomed)}: shredded, nobody can open them")
    output.say(f"backups of the keyring may hold their keys until {output.when(until)}")
    if not settled:
        output.say("the process that writes will record it; coffer shred list shows when it has")
