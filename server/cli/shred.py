"""`coffer shred`: erase studies for good by destroying their keys."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from keys.errors import AccessDeniedError
from server.cli import output
from server.cli.options import Chosen, archive_options, json_option, open_for_keys

if TYPE_CHECKING:
    from server.engine import Engine
    from server.requests import Request
    from server.shredding import Doomed


class _ByDefault(click.Group):
    """A group whose first command may be left out: `coffer shred 1.2.3` is `coffer shred study 1.2.3`."""

    default = "study"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_for_help = args[:1] in (["-h"], ["--help"])
        return super().parse_args(
            ctx, args if not args or asks_for_help or args[0] in self.commands else [self.default, *args]
        )


@click.group(
    cls=_ByDefault,
    epilog="""\b
Examples:
  coffer shred 1.2.840.99999.1 --reason 'erasure request 2026-17'
  coffer shred --patient 4711 --reason 'erasure request 2026-18' --officer Meyer
  coffer shred list
  coffer shred finish

\b
A shred cannot be undone. At once nobody can find or open the study, here or in a running server. It is effective,
so that no old backup opens it either: `coffer keys rotate`, then `coffer keys destroy` of the epochs it was under.
""",
)
def shred() -> None:
    """Erase studies for good, by destroying their keys. `coffer shred UID` is short for `coffer shred study UID`."""


def _asked(function: Any) -> Any:
    """The options that say what, why and by whom."""
    for option in (
        click.option("--officer", metavar="NAME", help="Who does it.  [default: the account]"),
        click.option(
            "--reason", required=True, metavar="TEXT", help="Why. It is kept for good: write no name into it."
        ),
        click.option("--issuer", metavar="TEXT", help="With --patient: who gave the Patient ID, where several did."),
        click.option("--patient", metavar="ID", help="All studies of the patient with this Patient ID."),
        click.argument("study", metavar="[STUDY_UID]", required=False),
    ):
        function = option(function)
    return function


@shred.command(
    epilog="""\b
Examples:
  coffer shred study 1.2.840.99999.1 --reason 'erasure request 2026-17'
  coffer shred study --patient 4711 --reason 'erasure request 2026-18' --yes --json

\b
Works beside a running server, which answers "gone" at once. Exit code 10 where a hold, the retention or the rule of
two officers forbids it: then nothing was done. Stopped in the middle, say it again."""
)
@_asked
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
        doomed = _chosen(engine, study, patient, issuer)
        _confirm(doomed, yes=yes)
        key_ids = Shredding(engine).shred(doomed, Deed(reason, (Officer.here(officer),)))
        _report(chosen, engine, doomed, key_ids)


def _chosen(engine: Engine, study: str | None, patient: str | None, issuer: str | None) -> list[Doomed]:
    from server.shredding import by_patient, by_study

    if (study is None) == (patient is None) or (issuer is not None and patient is None):
        raise click.UsageError("Give a STUDY_UID, or --patient (and --issuer).")
    return by_study(engine, study) if study is not None else by_patient(engine, patient or "", issuer)


def _confirm(doomed: list[Doomed], *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This cannot be undone: say --yes where nobody can be asked.")
    for each in doomed:
        output.say(output.plain(f"  {each.subject.study_uid}  {each.instances} instances"))
    click.confirm(f"Destroy the keys of {len(doomed)} studies? Nothing brings them back", abort=True, err=True)


def _report(chosen: Chosen, engine: Engine, doomed: list[Doomed], key_ids: list[bytes]) -> None:
    from keys.shred import tombstones
    from server.shredding import wait_until_settled

    settled = wait_until_settled(engine)
    instances = sum(each.instances for each in doomed)
    until = max((stone.until_ms for stone in tombstones(engine.keyring).values()), default=0)
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


@shred.command(
    epilog="""\b
Examples:
  coffer shred request 1.2.840.99999.1 --reason 'erasure request 2026-17' --officer Meyer
  coffer shred approve 5f1c0a77 --officer Schmidt

\b
Names the studies as they are now, with the keys they have now: what comes in later is not covered."""
)
@_asked
@archive_options()
@json_option
@click.pass_obj
def request(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen, study: str | None, patient: str | None, issuer: str | None, reason: str, officer: str | None
) -> None:
    """Ask for a shred that another officer must approve."""
    with open_for_keys(chosen) as engine:
        from server.officers import Officer
        from server.requests import Requests
        from server.shredding import wait_until_settled

        doomed = _chosen(engine, study, patient, issuer)
        who = Officer.here(officer)
        request_id = Requests(engine).add(doomed, reason, who)
        wait_until_settled(engine)
        missing = engine.config.keys.shred_approvals - 1
    if chosen.json:
        output.as_json(
            {"request": request_id, "studies": len(doomed), "officer": who.name, "approvals_missing": missing}
        )
    else:
        output.say(f"request {request_id} for {len(doomed)} studies by {who} waits for {max(missing, 1)} more")
        output.say(f"another officer: coffer shred approve {request_id} --officer NAME")


@shred.command(
    epilog="""\b
Examples:
  coffer shred approve 5f1c0a77 --officer Schmidt

\b
The last approval that is needed shreds at once. Exit code 10 for an officer who has asked or agreed already, and where
a hold or the retention forbids it."""
)
@click.argument("request_id", metavar="REQUEST")
@click.option("--officer", metavar="NAME", help="Who agrees.  [default: the account]")
@archive_options()
@json_option
@click.pass_obj
def approve(chosen: Chosen, request_id: str, officer: str | None) -> None:
    """Agree to a request; the last officer who must agree shreds."""
    with open_for_keys(chosen) as engine:
        from server.officers import Officer
        from server.requests import Requests
        from server.shredding import wait_until_settled

        requests = Requests(engine)
        waiting = dict(requests.all()).get(request_id)
        key_ids = requests.approve(request_id, Officer.here(officer))
        if key_ids is not None:
            _report(chosen, engine, list(waiting.doomed) if waiting else [], key_ids)
            return
        wait_until_settled(engine)
    if chosen.json:
        output.as_json({"request": request_id, "state": "requested"})
    else:
        output.say(f"request {request_id} is approved and waits for more officers")


@shred.command(
    epilog="""\b
Examples:
  coffer shred cancel 5f1c0a77

\b
Only what nobody has approved to the end can be cancelled: a study that is shredded stays shredded."""
)
@click.argument("request_id", metavar="REQUEST")
@click.option("--officer", metavar="NAME", help="Who cancels.  [default: the account]")
@archive_options()
@json_option
@click.pass_obj
def cancel(chosen: Chosen, request_id: str, officer: str | None) -> None:
    """Take a request back before it is approved."""
    with open_for_keys(chosen) as engine:
        from server.officers import Officer
        from server.requests import Requests
        from server.shredding import wait_until_settled

        Requests(engine).cancel(request_id, Officer.here(officer))
        wait_until_settled(engine)
    if chosen.json:
        output.as_json({"request": request_id, "state": "cancelled"})
    else:
        output.say(f"request {request_id} is cancelled; nothing was shredded")


@shred.command(
    epilog="""\b
Examples:
  coffer shred finish               moves all living keys to a new epoch
  coffer shred finish --copied      when keyring and key file have been copied: destroys the old epochs

\b
Two steps, because copies of keyring and key file from before the first one open nothing after the second one: whoever
destroys first and copies later is one failed disk away from losing everything. Works beside a running server.
Exit code 12 for --copied before the first step, 6 where the provider or the writer cannot be reached: say it again."""
)
@click.option("--copied", is_flag=True, help="Keyring and key file were copied after the first step; destroy.")
@click.option("--early", is_flag=True, help="Do not wait for the days of backups: older ones open nothing then.")
@archive_options()
@json_option
@click.pass_obj
def finish(chosen: Chosen, copied: bool, early: bool) -> None:
    """Make scheduled shreds effective, in two steps: move the living keys, then destroy the old epochs."""
    with open_for_keys(chosen) as engine:
        from server.finishing import finish as next_step

        done = next_step(engine, copied=copied, early=early)
        epoch = engine.keyring.epoch
    if chosen.json:
        output.as_json(
            {
                "epoch": epoch,
                "moved": done.moved,
                "destroyed": done.destroyed,
                "still_to_destroy": done.caveats,
                "wait_for_copies": done.waiting,
                "effective": done.effective,
                "scheduled": len(done.erasures) - done.effective,
            }
        )
        return
    if done.moved:
        output.say(f"{done.moved} keys are under epoch {epoch} now")
    for caveat in done.caveats:
        output.say(f"destroyed, {caveat}")
    if done.waiting:
        output.say("now copy the keyring and what opens it (key file, HSM backup, shares), then:")
        output.say("  coffer shred finish --copied")
    output.say(f"{done.effective} shreds are effective, {len(done.erasures) - done.effective} are scheduled")


@shred.command(
    "list",
    epilog="""\b
Examples:
  coffer shred list
  coffer shred list --json | jq '.shreds[] | select(.state != "effective")'

\b
Works beside a running server. Keys are named by their ids: what a shredded study was, nothing here knows any more.""",
)
@archive_options()
@json_option
@click.pass_obj
def list_shreds(chosen: Chosen) -> None:
    """List the requests that wait and every key that was shredded or replaced, with its state."""
    with chosen.open() as engine:
        from server.erasure import erasures
        from server.requests import Requests

        requests = [_request_row(request_id, one) for request_id, one in Requests(engine).all()]
        shreds = [
            {
                "study_key": each.key_id.hex(),
                "why": each.stone.reason.name.lower(),
                "state": each.state,
                "scheduled": output.when(each.stone.scheduled_ms),
                "backups_until": output.when(each.stone.until_ms),
                "epochs_to_destroy": list(each.open_epochs),
            }
            for each in erasures(engine.keyring)
        ]
    if chosen.json:
        output.as_json({"requests": requests, "shreds": shreds})
        return
    if requests:
        output.table(list(requests[0]), ([str(v) for v in row.values()] for row in requests))
        output.say()
    columns = ["study_key", "why", "state", "scheduled", "backups_until", "epochs_to_destroy"]
    output.table(columns, ([_text(v) for v in row.values()] for row in shreds))


def _request_row(request_id: str, one: Request) -> dict[str, Any]:
    return {
        "request": request_id,
        "studies": len(one.doomed),
        "requested": output.when(one.requested_ms),
        "officers": ", ".join(map(str, one.officers)),
        "reason": one.reason,
    }


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
