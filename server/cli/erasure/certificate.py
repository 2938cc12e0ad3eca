"""`coffer shred certificate` and `check`: a signed statement of an erasure, for the requester and for auditors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import InputError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.tree.certificate import Certificate, EpochOpener
    from coffer.server.config.settings import Config
    from coffer.server.erasure.certificate import IssuedCertificate

_NOT_ERASED = 1


@click.command(
    epilog="""\b
Examples:
  coffer shred list                                          shows the ids of shredded keys
  coffer shred certificate 9f86d081884c7d659a2feaa0c55ad015 > erased.note
  coffer shred certificate 5f1c0a77 -o certificates          all studies of a request, one file each

\b
Before `coffer shred list` says effective, this issues a notice that says NOT ERASED YET, of another type and under
another file name. It contains no name. --study-uid and --with-reason add more to it; once the erasure is effective, the
archive has forgotten the UID, and --study-uid is refused. Each certificate is recorded in the log. Needs the key file,
works beside a running server. Exit code 12 for a study that still exists: not shredded, replaced by a rekey, stored
again, or with another shredded key that can still be opened; 5 for what was never shredded; 6 while the shred is not
recorded yet.
Check it with `coffer shred check`, or docs/auditor/verify_proof.py without Coffer."""
)
@click.argument("names", metavar="STUDY_KEY_ID|REQUEST...", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for one file each.")
@click.option("--study-uid", default="", metavar="UID", help="Name the study in clear, while it is only scheduled.")
@click.option("--with-reason", is_flag=True, help="Include the reason as it was typed.")
@click.option("--officer", metavar="NAME", help="Who issues it.  [default: the account]")
@archive_options()
@json_option
@click.pass_obj
def certificate(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen, names: tuple[str, ...], out: Path | None, study_uid: str, with_reason: bool, officer: str | None
) -> None:
    """Issue a signed certificate that studies are erased, or a notice that their erasure is scheduled."""
    admitted = chosen.existing(Action.CERTIFY, officer)
    with admitted.change_keys() as archive:
        from coffer.server.erasure.certificate import Certifier

        with output.progress("reading the log", hidden=chosen.json) as bar:
            certifier = Certifier(archive, admitted.principal, with_reason=with_reason, progress=bar.reach)
        made = certifier.issue(names, study_uid, most=None if out or chosen.json else 1)
    files = [str(_write(out, each)) if out else "" for each in made]
    if chosen.json:
        rows = zip(made, files, strict=True)
        issued = [_fields(each.certificate) | {"file": file, "note": each.note.decode()} for each, file in rows]
        output.as_json({"certificates": issued})
    elif out is None:
        output.say(made[0].note.decode().removesuffix("\n"))
    else:
        for each, file in zip(made, files, strict=True):
            output.say(output.plain(f"{file}: {_line(each.certificate)}"))


@click.command(
    epilog="""\b
Examples:
  coffer shred check erased.note
  coffer --archive /mnt/copy shred check erased.note
  coffer shred check erased.note --vkey "$(cat hospital.vkey)"

\b
Needs no key. With an archive, or a copy of one, it checks the certificate against the log and, if it is there, the
keyring. With --vkey it needs no archive and checks only signature, proofs and times. Exit code 0: erased; 1: the
notice is genuine, and the study is NOT erased yet; 3 or 4: not signed, altered, or contradicted; 13: the log does not
begin with the records from which the certificate was made."""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--vkey", metavar="KEY", help="The verifier key, from the archive's owner; no archive is read.")
@archive_options()
@json_option
@click.pass_obj
def check(chosen: Chosen, file: Path, vkey: str | None) -> None:
    """Check a certificate of erasure."""
    from coffer.archive.tree.certificate import Certificate

    if vkey is not None:
        found, against = Certificate.open(_read(file), vkey), ["verifier key"]
    else:
        config = chosen.existing(Action.VERIFY).config
        found, against = _checked(config, _read(file))
    if chosen.json:
        output.as_json(_fields(found) | {"checked_against": against})
    else:
        output.say(output.plain(_line(found)))
        _say(found, against)
    if not found.is_effective:
        click.get_current_context().exit(_NOT_ERASED)


def _checked(config: Config, note: bytes) -> tuple[Certificate, list[str]]:
    """The certificate, and what it was checked against. Raises IntegrityError with everything that contradicts it."""
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.certificate import Certificate
    from coffer.keys.errors import IntegrityError
    from coffer.server.erasure.certificate_check import contradictions, has_keyring

    folder = ArchiveFolder.open(config.archive)
    found = Certificate.open(note, folder.vkey)
    wrong = list(contradictions(found, folder))
    if wrong:
        raise IntegrityError(
            "\n".join(["the archive contradicts the certificate:", *wrong]),
            hint="run coffer verify to check that the copy is whole; an older keyring still has the key: destroy it",
        )
    return found, ["verifier key", "log", *(["keyring"] if has_keyring(folder) else [])]


def _line(found: Certificate) -> str:
    """Whether it is erased, and since when, in one line."""
    study = f"study {found.study_uid or found.study}"
    if found.effective_ms is None:
        return f"NOT ERASED YET: {study}, shred scheduled since {output.when(found.scheduled_ms)}"
    return f"erased: {study}, since {output.when(found.effective_ms)}"


def _say(found: Certificate, against: list[str]) -> None:
    output.facts(
        {
            "archive": found.archive,
            "keys": ", ".join(f"{each.key} ({each.why})" for each in found.keys),
            **{each.what: f"{output.when(each.ms)} by {each.officer} ({each.account})" for each in found.steps},
            "records": "; ".join(each.objects or "none" for each in found.keys),
            "epochs": ", ".join(_epoch(each.epoch, each.effective_ms) for each in found.epochs),
            "issued": f"{output.when(found.issued_ms)} by {found.officer} ({found.account})",
            "checked": ", ".join(against),
        }
    )
    for epoch in found.epochs:
        for each in epoch.openers:
            output.say(output.plain(_opener(epoch.epoch, each)))
    for promise in found.not_promised:
        output.say(output.plain(f"not promised: {promise}"))


def _opener(epoch: int, of: EpochOpener) -> str:
    what = f"epoch {epoch}: {of.kind} {of.name}"
    end = "STILL OPENS IT" if of.effective_ms is None else f"ended {output.when(of.effective_ms)}"
    return f"{what}: {end}; {of.caveat}"


def _epoch(number: int, effective_ms: int | None) -> str:
    return f"{number} can be opened" if effective_ms is None else f"{number} destroyed {output.when(effective_ms)}"


def _fields(found: Certificate) -> dict[str, Any]:
    return {
        "state": "effective" if found.is_effective else "scheduled",
        "archive": found.archive,
        "study": found.study,
        "study_uid": found.study_uid,
        "study_keys": [each.key for each in found.keys],
        "scheduled": output.when(found.scheduled_ms),
        "effective": "" if found.effective_ms is None else output.when(found.effective_ms),
        "issued": output.when(found.issued_ms),
        "epochs_destroyed": [each.epoch for each in found.epochs if each.effective_ms is not None],
        "epochs_to_destroy": [each.epoch for each in found.epochs if each.effective_ms is None],
        "opened_by": [
            f"epoch {epoch.epoch}: {each.kind} {each.name}"
            for epoch in found.epochs
            for each in epoch.openers
            if each.record is None
        ],
        "objects": [each.objects for each in found.keys],
    }


def _write(folder: Path, issued: IssuedCertificate) -> Path:
    """Write the certificate to a new file whose name says whether the study is erased. Durable on return.

    Raises InputError if the file exists.
    """
    from coffer.keys.disk.durable import make_folder, write_new

    found = issued.certificate
    state = "erased" if found.is_effective else "not-erased-yet"
    path = folder / f"{state}-{found.keys[0].key}-{found.issued_ms}.note"
    if not folder.exists():
        make_folder(folder)
    write_new(path, issued.note)
    return path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name an existing file") from error
