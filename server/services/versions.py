"""List and retrieve every version stored under one SOP Instance UID.

Rule: like every retrieval it passes the access decision and leaves a line in the access log. Versions count from 1
within one study and series; if several have the UID, the caller must choose.
"""

from collections.abc import Collection

from coffer.index.query.parts import StoredVersion
from coffer.keys.errors import InputError, NotFoundError
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import ReadableArchive
from coffer.server.observe.logs import get_logger, short_id
from coffer.server.services.retrieve import StoredInstance

__all__ = ["WHERE_TO_LOOK", "one_version", "versions_of"]

WHERE_TO_LOOK = "`coffer find` lists the studies, `coffer status --list` the objects without a study"

_log = get_logger()


def versions_of(
    archive: ReadableArchive,
    sop_instance: str,
    caller: Principal,
    studies: Collection[str] = (),
    series: Collection[str] = (),
) -> list[StoredVersion]:
    """The versions under a UID, in these studies and series (if none is named: in any), oldest first in each.

    Raises AccessDeniedError; NotFoundError if there is none.
    """
    archive.policy.require(caller, Action.RETRIEVE)
    found = [
        each
        for each in archive.index.versions(sop_instance)
        if (not studies or each.located.study_uid in studies) and (not series or each.located.series_uid in series)
    ]
    _log.info(
        "versions",
        name="versions.listed",
        calling_ae=caller.ae_title,
        sop_instance=short_id(sop_instance),
        versions=len(found),
    )
    if not found:
        raise NotFoundError("the archive has no such object", hint=WHERE_TO_LOOK)
    return found


def one_version(  # noqa: PLR0917  as `versions_of`
    archive: ReadableArchive,
    sop_instance: str,
    number: int,
    caller: Principal,
    studies: Collection[str] = (),
    series: Collection[str] = (),
) -> StoredInstance:
    """One version by its number, to be opened.

    Raises as `versions_of`, NotFoundError for an unknown number, InputError if several studies or series have the UID.
    """
    found = versions_of(archive, sop_instance, caller, studies, series)
    chains = {(each.located.study_uid, each.located.series_uid) for each in found}
    if len(chains) > 1:
        raise InputError(
            f"objects with this UID are in {len(chains)} studies or series, and each counts its own versions",
            hint="choose one with --study UID or --series UID; coffer versions UID shows them",
        )
    wanted = next((each for each in found if each.number == number), None)
    if wanted is None:
        raise NotFoundError(
            f"there is no version {number}: this object has {len(found)}",
            hint="coffer versions UID lists them",
        )
    return StoredInstance(archive.bodies, wanted.located)
