"""`coffer shred study`: destroy the keys of a selection at once, and the options that it shares with requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import parts_to_shred
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


def selection_options(function: Any) -> Any:
    """Add the options that say what to shred, why and by whom."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show whose data it would erase, and what; change nothing."),
        officer_option,
        click.option("--reason", metavar="TEXT", help="Why (required). It is kept for good: write no name into it."),
        click.option("--all-patients", is_flag=True, help="With a UID: of all patients with objects under it."),
        click.option("--patient-id", metavar="ID", help="With a UID: only of the patient with this Patient ID."),
        click.option(
            "--issuer", metavar="TEXT", help="Issuer of the Patient ID, if there are several; empty: none stated."
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
Shows whose data it erases, what it erases and what stays, and asks for confirmation. If objects of several patients are
stored under one UID, give --patient-id (and --issuer) or --all-patients: each patient's part has a key of its own, and
the others stay. Select an object that names no study, or whose header cannot be read, with --instance; one that is in a
study is erased with its study. Works beside a running server, which stops serving it at once. Exit code 10 if a hold,
the retention or the rule of two officers forbids it: then nothing was done (--dry-run says so and ends with 0). If it
is interrupted, run the command again."""
)
@selection_options
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
    with admitted.change_keys() as archive:
        from coffer.server.erasure.shred import Authorization, Shredding
        from coffer.server.retention.preview import preview
        from coffer.server.retention.selection import as_now, require_same

        selection = selected_parts(chosen, archive, **meant)
        shredding = Shredding(archive)
        if dry_run:
            parts_to_shred.show(chosen, archive, selection, partial(shredding.require_allowed, selection))
            return
        shredding.require_allowed(selection)
        question = f"Destroy the keys of {parts_to_shred.counted(selection)}? They cannot be recovered"
        confirm(question, yes=yes, lines=[] if yes else parts_to_shred.lines(preview(archive, selection)))
        if not yes:
            require_same(archive, selection, as_now(archive, selection))  # what was shown is what is erased
        key_ids = shredding.shred(selection, Authorization(reason or "", (admitted.principal.officer,)))
        left = settle(chosen, archive, selection, key_ids)
    report(chosen, selection, key_ids, left)


def require_reason_unless(dry_run: bool, reason: str | None) -> None:
    """Raise UsageError if a shred has no reason; a dry run needs none."""
    if reason is None and not dry_run:
        raise click.UsageError("Missing option '--reason'.")


def selected_parts(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    archive: ReadableArchive,
    study: str | None,
    patient: str | None,
    instance: str | None,
    patient_id: str | None,
    issuer: str | None,
    all_patients: bool,
) -> list[PartToShred]:
    """The parts that the options select. Raises SeveralPatientsError for a UID of several patients, after
    showing them."""
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
        parts_to_shred.show_patients(chosen, error.parts)
        raise


class Left(NamedTuple):
    """What is left of a shred: until when backups may hold its keys (ms since 1970 UTC; 0: none), and whether the index
    still holds what they sealed."""

    until_ms: int
    in_index: bool


def settle(chosen: Chosen, archive: KeyAdminArchive, selection: list[PartToShred], key_ids: list[bytes]) -> Left:
    """Wait until the index has dropped what was shredded, and say what is left."""
    from coffer.keys.keyring.shred import tombstones
    from coffer.server.erasure.shred import wait_until_settled

    with output.progress("clearing the index", hidden=chosen.json) as bar:
        settled = wait_until_settled(archive, progress=bar.reach)
    shredded = tombstones(archive.keyring)
    meant = {key_id for each in selection for key_id in each.key_ids} | {*key_ids}
    return Left(max((shredded[key_id].until_ms for key_id in meant & shredded.keys()), default=0), not settled)


def report(chosen: Chosen, selection: list[PartToShred], key_ids: list[bytes], left: Left) -> None:
    """Print the result of a shred, once it is signed."""
    if chosen.json:
        output.as_json(
            {
                "studies": parts_to_shred.studies(selection),
                "instances": sum(each.instances for each in selection),
                "older_versions": sum(each.versions - each.instances for each in selection),
                "study_keys": [key_id.hex() for key_id in key_ids],
                "state": "scheduled",
                "backups_until": output.when(left.until_ms),
            }
        )
        return
    output.say(f"{parts_to_shred.counted(selection)}: shredded, nobody can open them")
    output.say(f"backups of the keyring may contain their keys until {output.when(left.until_ms)}")
    if left.in_index:
        output.say("the process that writes the archive still clears the index; coffer shred list shows when it has")
