"""`coffer access`: what a user may do, and by which rule."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import NotFoundError
from coffer.server.access.action import ARCHIVE, Action, PurposeOfUse, Resource
from coffer.server.cli import output
from coffer.server.cli.options import Admitted, Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.access.principal import Principal
    from coffer.server.access.rules import Permit
    from coffer.server.access.users import User


@click.group()
def access() -> None:
    """Explain what somebody may do."""


@access.command(
    epilog="""\b
Examples:
  coffer access explain --as ct1 --action retrieve
  coffer access explain --as ct1 --action find --study 1.2.840.99999.1
  coffer access explain --as ward3 --action move --destination CT1

\b
It asks the same function as every door does and changes nothing. Exit code 1: denied."""
)
@click.option("--as", "name", required=True, metavar="USER", help="The user, as `coffer users list` shows it.")
@click.option(
    "--action",
    "wanted",
    required=True,
    type=click.Choice(sorted(each.value for each in Action)),
    help="What is to be done.",
)
@click.option("--study", metavar="UID", help="Study Instance UID: whether it lies inside the user's limits.")
@click.option("--destination", default="", metavar="AE", help="The destination of a C-MOVE.")
@archive_options()
@json_option
@click.pass_obj
@click.pass_context
def explain(  # noqa: PLR0917  # one parameter for each option
    ctx: click.Context, chosen: Chosen, name: str, wanted: str, study: str | None, destination: str
) -> None:
    """Print whether a user may do something now, the rule that decides, and what it comes with."""
    from coffer.keys.clock import clock_ms
    from coffer.server.access.decision import FULFILLED
    from coffer.server.access.rules import Permit

    admitted = chosen.admit(Action.EXPLAIN)
    user = admitted.policy.directory.named(name)
    if user is None:
        raise NotFoundError(
            f"there is no user {name}", hint="coffer users list shows them; without users the open role is in force"
        )
    action, who = Action(wanted), _principal(user)
    resource = Resource.destination(destination) if action is Action.MOVE else ARCHIVE
    found = admitted.policy.decide(who, action, resource, PurposeOfUse.of(who), clock_ms())
    said = found if not isinstance(found, Permit) else found.for_one_who(FULFILLED.get(action, ()))
    facts: dict[str, Any] = {"user": user.name, "roles": sorted(user.roles), "action": wanted}
    if isinstance(said, Permit):
        facts |= {"decision": "permit", "rule": _granting(user, action), **_limits(said)}
        if study is not None and not _covers(admitted, said, study):
            facts |= {
                "decision": "deny",
                "rule": "limits",
                "cause": "the study lies outside the user's limits, or there is none",
            }
    else:
        facts |= {"decision": "deny", "rule": said.reason.value, "cause": said.cause, "remedy": said.hint}
    if chosen.json:
        output.as_json(facts)
    else:
        output.facts({key: ", ".join(each) if isinstance(each, list) else str(each) for key, each in facts.items()})
    ctx.exit(0 if facts["decision"] == "permit" else 1)


def _principal(user: User) -> Principal:
    """The user as a door would state it that proved it: on the host those with an account, else over the network."""
    from coffer.server.access.principal import Principal

    if user.accounts:
        return replace(Principal.person(user.name, min(user.accounts)), user=user.name)
    return replace(Principal.peer(min(user.ae_titles, default="")), user=user.name)


def _granting(user: User, action: Action) -> str:
    from coffer.server.access.roles import GRANTS

    roles = [role for role in sorted(user.roles) if GRANTS[role].get(action) is not None]
    return f"role {' or '.join(roles)}"


def _limits(permit: Permit) -> dict[str, str]:
    found: dict[str, str] = {}
    for scope in permit.scopes:
        for name in ("sources", "modalities", "patients", "days", "levels"):
            limit = getattr(scope, name)
            if limit is not None:
                found[name] = str(limit) if isinstance(limit, int) else (", ".join(sorted(limit)) or "none")
    return found


def _covers(admitted: Admitted, permit: Permit, study: str) -> bool:
    from coffer.server.services.narrowing import Narrowing

    with admitted.open_reading() as archive:
        return Narrowing(archive.index, permit.scopes).has_study(study)
