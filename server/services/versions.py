"""Every version that was stored under one SOP Instance UID: listed, and handed out one by one.

Rule: as every way out it passes the decision and leaves a line in the access log. Versions count from 1 within one
study and series; where a UID stands in several, nobody guesses.
"""

from collections.abc import Collection

import structlog

from coffer.index.query.parts import StoredVersion
from coffer.keys.errors import InputError, NotFoundError
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import ReadableArchive
from coffer.server.observe.logs import short_id
from coffer.server.services.retrieve import StoredInstance

__all__ = ["WHERE_TO_LOOK", "one_version", "versions_of"]

WHERE_TO_LOOK = (
    "`coffer find` lists the studies that there are, `coffer status --list` the objects that are in no study"
)

_log = structlog.get_logger(__name__)


def versions_of(
    archive: ReadableArchive,
    sop_instance: str,
    caller: Principal,
    studies: Collection[str] = (),
    series: Collection[str] = (),
) -> list[StoredVersion]:
    """The versions under a UID, in these studies and series (none named: in any), oldest first in each.

    Raises AccessDeniedError; NotFoundError where there is none.
    """
    archive.policy.require(caller, Action.RETRIEVE)
    found = [
        each
        for each in archive.index.versions(sop_instance)
        if (not studies or each.located.study_uid in studies) and (not series or each.located.series_uid in series)
    ]
    _log.info("versions", calling_ae=caller.ae_title, sop_instance=short_id(sop_instance), versions=len(found))
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
    """One of them by its number, to be opened.

    Raises as `versions_of`, NotFoundError for a number that there is not, InputError where several studies or series
    have the UID.
    """
    found = versions_of(archive, sop_instance, caller, studies, series)
    chains = {(each.located.study_uid, each.located.series_uid) for each in found}
    if len(chains) > 1:
        raise InputError(
            f"objects with this UID stand in {len(chains)} places, and each counts its own versions",
            hint="say which with --study UID or --series UID; coffer versions UID shows them",
        )
    wanted = next((each for each in found if each.number == number), None)
    if wanted is None:
        raise NotFoundError(
            f"there is no version {number}: of this object there are {len(found)}",
            hint="coffer versions UID lists them",
        )
    return StoredInstance(archive.bodies, wanted.located)
