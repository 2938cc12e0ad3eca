"""`coffer status`: what the archive contains and its condition."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from coffer.keys.errors import ConfigError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.keys.errors import CofferError
    from coffer.server.engine.archive import ReadableArchive
    from coffer.server.engine.stats import ArchiveStats

_MOST_NAMED: Final = 1000  # the list is for human readers


@click.command(
    epilog="""\b
Examples:
  coffer status
  coffer status --json | jq .ratio
  coffer status --list                   names what needs attention; reads the whole log

\b
Works beside a running server. "index lag" counts records that the index on disk does not contain yet: a running
server has them in memory. "conflicts" are versions of instances that are not served because another version is; every
version is kept. "in no study" are objects without a Study Instance UID, which coffer find does not show; --list names
the first 1,000. "contradictions" are studies and series whose objects disagree about their attributes. "writing" is
shown where nothing is stored, as after a roll-back, or because a running server stopped storing, "signing" where a
running server could not sign its last checkpoint: with the cause, and the remedy. "users" says so where the log has
users and their file is gone: then this command still works, and others do not."""
)
@click.option(
    "--list", "listed", is_flag=True, help="Name the conflicts and the objects that are in no study or not indexed."
)
@archive_options()
@json_option
@click.pass_obj
def status(chosen: Chosen, listed: bool) -> None:
    """Show studies, objects, bytes received and stored, segments, index lag, key epoch and what needs attention."""
    from coffer.archive.codec.choice import why_pure
    from coffer.archive.repair.planted import planted
    from coffer.server.clock.trust import trust
    from coffer.server.engine.archive import SKIPPED
    from coffer.server.engine.erasure_state import EFFECTIVE, erasures
    from coffer.server.engine.providers import guarded, provider_location
    from coffer.server.host.control import objection
    from coffer.server.maintenance.acknowledged import findings_of
    from coffer.server.maintenance.refusal import refusal_of

    with chosen.existing(Action.INSPECT).open_reading(may_lag=True, heeds_users=False) as archive:
        stats, users = archive.stats(), _users(archive)
        path, key, memory = archive.config.archive, provider_location(archive.config.keys), guarded()
        shreds = [each.state == EFFECTIVE for each in erasures(archive.keyring)]
        waiting = len(findings_of(archive).open_entries())
        short = None if archive.shortfall is None else f"{archive.shortfall}: {archive.shortfall.hint()}"
        doubt, kept = trust(archive.keyring, archive.last_record_ms).concern(), archive.contradictions()
        foreign, degraded = [finding.what for finding in planted(archive.folder)], _degraded(archive)
        refusal, unsigned = refusal_of(archive) or objection(path, "store"), objection(path, "signed")
        details: dict[str, list[dict[str, Any]]] = _details(archive) if listed else {}
    if chosen.json:
        facts = {"archive": path, **msgspec.to_builtins(stats), "ratio": stats.ratio, "findings": waiting,
                 "index_contradictions": kept, "codec": "numpy" if why_pure() else "compiled", **users}  # fmt: skip
        erased = {"shreds_effective": sum(shreds), "shreds_scheduled": len(shreds) - sum(shreds)}
        shown = {"degraded": degraded, "foreign": foreign, "shortfall": short, "key_memory": memory}
        troubles = {"clock": doubt or None, "refused": _told(refusal), "unsigned": _told(unsigned)}
        output.as_json(facts | shown | troubles | erased | details)
        return
    output.facts(
        {
            "archive": str(path),
            **({"writing": f"refused: {refusal}; {refusal.hint()}"} if refusal else {}),
            **({"signing": f"no checkpoint is signed: {unsigned}; {unsigned.hint()}"} if unsigned else {}),
            "users": users["users_gone"] or _counted(users["users"]),
            "key": key,
            "studies": f"{stats.studies:,}",
            "series": f"{stats.series:,}",
            "objects": f"{stats.objects:,}",
            "received": output.size(stats.bytes_received),
            "stored": f"{output.size(stats.bytes_stored)} ({stats.ratio:.3f} of what was received)",
            "segments": f"{stats.segments}, {output.size(stats.segment_bytes)}",
            "index lag": f"{stats.index_lag} records",
            **({"incomplete": f"the figures do not cover everything stored: {short}"} if short else {}),
            "key epoch": str(stats.key_epoch),
            "key memory": memory,
            "codec": _codec(),
            **({"clock": f"{doubt}: coffer clock confirm --reason TEXT"} if doubt else {}),
            "shreds": f"{sum(shreds)} effective, {len(shreds) - sum(shreds)} scheduled" if shreds else "none",
            **_oddities(stats),
            "findings": f"{waiting} of the scrub are not acknowledged: coffer scrub show" if waiting else "none",
            **({"index": kept[0]} if kept else {}),
            "not indexed": f"{stats.unindexed:,} objects, stored as received",
            **({"not readable": f"{stats.skipped:,} {SKIPPED}"} if stats.skipped else {}),
            **({"degraded": "; ".join(degraded)} if degraded else {}),
            **({"not Coffer's": f"{foreign[0]}{' and more' if foreign[1:] else ''}: coffer verify"} if foreign else {}),
        }
    )
    _say(details)


def _told(error: CofferError | None) -> dict[str, str] | None:
    return None if error is None else {"cause": str(error), "remedy": error.hint()}


def _users(archive: ReadableArchive) -> dict[str, Any]:
    """How many users there are, and what is wrong if the list was taken away."""
    gone = None
    try:
        archive.require_users()
    except ConfigError as error:
        gone = f"{error}: {error.hint()}"
    return {"users": len(archive.policy.directory.users), "users_gone": gone}


def _counted(users: int) -> str:
    return f"{users}" if users else "none: the open role is in force"


def _degraded(archive: ReadableArchive) -> list[str]:
    """What protects less than it could."""
    from coffer.server.anchor.key_place import exposed_key
    from coffer.server.copies import register as copies

    exposed = exposed_key(archive.config)
    return [*archive.mark.concerns(), *copies.concerns(archive.keyring), *([exposed] if exposed else [])]


def _codec() -> str:
    """Who codes pixels on this machine."""
    from coffer.archive.codec.choice import REMEDY, why_pure

    slow = why_pure()
    return f"numpy, slower: {slow}; {REMEDY}" if slow else "compiled"


def _oddities(stats: ArchiveStats) -> dict[str, str]:
    """What is stored and may not be what its sender meant."""
    return {
        "conflicts": f"{stats.conflicts:,} versions that are not served: coffer status --list",
        "shared studies": f"{stats.shared_studies:,} Study Instance UIDs of several patients",
        "in no study": f"{stats.without_study:,} objects{': coffer status --list' if stats.without_study else ''}",
        "contradictions": f"{stats.differing_studies:,} studies, {stats.differing_series:,} series",
    }


def _say(details: dict[str, list[dict[str, Any]]]) -> None:
    for title, items in details.items():
        output.say(f"{title}:" if items else f"{title}: none")
        for item in items:
            output.say("    " + output.plain(", ".join(f"{name} {value}" for name, value in item.items())))


def _details(archive: ReadableArchive) -> dict[str, list[dict[str, Any]]]:
    from coffer.server.maintenance.problems import conflicts, unindexed

    return {
        "conflicting_instances": [msgspec.to_builtins(c) for c in conflicts(archive)],
        "objects_in_no_study": [{"sop_instance": uid} for uid in islice(archive.index.without_study(), _MOST_NAMED)],
        "unindexed_objects": [msgspec.to_builtins(u) for u in unindexed(archive)],
    }
