"""What each role may do: one table of roles and actions, and which roles nobody may have at once.

Rule: pure, and the only place where a role is given anything. What is not in the table is denied. A grant that carries
a duty which no code fulfils yet (`Duty`) opens nothing: it says what will be asked for once that code exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from coffer.server.access.action import Action as Do

__all__ = ["CONFLICTS", "GRANTS", "LISTING", "REPORTS", "TREATING", "Duty", "Grant", "Limit", "Role", "conflict"]


class Duty(StrEnum):
    """An obligation that comes with a permission; the caller must fulfil it, or the permission is a denial."""

    FURTHER_APPROVAL = "further-approval"  # another officer must agree first
    NARROW = "narrow"  # only what lies inside the permission's scopes
    CONSENT = "consent"  # only what the patient has consented to
    DEIDENTIFY = "deidentify"  # only a view without what identifies the patient
    NOT_BUILT = "not-built"  # Coffer cannot do this yet


class Role(StrEnum):
    """The roles; the values stand in `users.toml` and in the log."""

    MODALITY = "modality"
    PACS = "pacs"
    RADIOLOGIST = "radiologist"
    REFERRING = "referring"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"
    KEY_OFFICER = "key-officer"
    ADMIN = "admin"
    MONITORING = "monitoring"
    PRIVACY_OFFICER = "privacy-officer"
    REPLICA = "replica"
    CLERK = "clerk"


class Limit(StrEnum):
    """How a grant is narrowed, whatever the user's own limits are."""

    OWN_STUDIES = "own studies"  # sent under one of the user's AE titles
    OWN_PATIENTS = "own patients"  # the user's `patients`, and nobody if there are none
    LAST_DAY = "since yesterday"
    REPORTS_ONLY = "reports only"
    LISTING = "listing only"


@dataclass(frozen=True, slots=True)
class Grant:
    """One cell of the table: permitted, with these duties and limits."""

    duties: frozenset[Duty] = frozenset()
    limits: frozenset[Limit] = frozenset()


# What a worklist shows (PS3.4 K.6.1.2): who, when and what, and nothing of the report, the images or their number.
LISTING: Final = frozenset({
    0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080052, 0x00080054, 0x00080056, 0x00080061, 0x00080090,
    0x00081030, 0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x0020000D, 0x00200010, 0x00380010,
})  # fmt: skip

# PS3.6 A: structured reports, key object selections and presentation states.
_SR: Final = "1.2.840.10008.5.1.4.1.1.88."
_PR: Final = "1.2.840.10008.5.1.4.1.1.11."
REPORTS: Final = frozenset(
    {_SR + str(each) for each in (11, 22, 33, 34, 35, 40, 50, 59, 65, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76)}
    | {_PR + str(each) for each in range(1, 13)}
)

_YES: Final = Grant()
_CONSENT: Final = Grant(frozenset({Duty.CONSENT}))
_OWN_CONSENT: Final = Grant(frozenset({Duty.CONSENT}), frozenset({Limit.OWN_PATIENTS}))
_DEIDENTIFIED: Final = Grant(frozenset({Duty.CONSENT, Duty.DEIDENTIFY}))
_REPORTS: Final = Grant(limits=frozenset({Limit.REPORTS_ONLY}))
_LATER: Final = Grant(frozenset({Duty.NOT_BUILT}))
_LATER_BY_TWO: Final = Grant(frozenset({Duty.NOT_BUILT, Duty.FURTHER_APPROVAL}))

_NETWORK: Final = {Do.ASSOCIATE: _YES, Do.ECHO: _YES}
_SEES_WITH_CONSENT: Final = dict.fromkeys((Do.FIND, Do.RETRIEVE, Do.MOVE), _CONSENT)

GRANTS: Final[Mapping[Role, Mapping[Do, Grant]]] = MappingProxyType({
    Role.MODALITY: {
        **_NETWORK, Do.STORE: _YES, Do.IMPORT: _YES, Do.COMMIT_STORAGE: _LATER,
        Do.FIND: Grant(limits=frozenset({Limit.OWN_STUDIES, Limit.LAST_DAY})),
    },
    Role.PACS: {**_NETWORK, Do.STORE: _YES, Do.IMPORT: _YES, Do.COMMIT_STORAGE: _LATER, **_SEES_WITH_CONSENT},
    Role.RADIOLOGIST: {
        **_NETWORK, Do.STORE: _REPORTS, Do.IMPORT: _REPORTS, **_SEES_WITH_CONSENT,
        Do.EXPORT: Grant(frozenset({Duty.CONSENT, Duty.FURTHER_APPROVAL, Duty.NOT_BUILT})),
        Do.BREAK_GLASS: _LATER, Do.PREVIEW_SHRED: _YES, Do.REQUEST_SHRED: _YES,
    },
    Role.REFERRING: {**_NETWORK, **dict.fromkeys((Do.FIND, Do.RETRIEVE, Do.MOVE), _OWN_CONSENT)},
    Role.RESEARCHER: {
        **_NETWORK, **dict.fromkeys((Do.FIND, Do.RETRIEVE, Do.MOVE), _DEIDENTIFIED),
        Do.EXPORT_DEIDENTIFIED: Grant(frozenset({Duty.CONSENT, Duty.DEIDENTIFY, Duty.NOT_BUILT})),
    },
    Role.AUDITOR: dict.fromkeys((
        Do.INSPECT, Do.VERIFY, Do.PROVE, Do.SIGN, Do.AUDIT_KEYS, Do.PUBLISH_KEYS, Do.PREVIEW_SHRED, Do.CERTIFY,
        Do.LIST_USERS, Do.EXPLAIN,
    ), _YES) | {Do.READ_AUDIT: _LATER},
    Role.KEY_OFFICER: dict.fromkeys((
        Do.INSPECT, Do.VERIFY, Do.PROVE, Do.SIGN, Do.AUDIT_KEYS, Do.ROTATE, Do.REKEY, Do.ROTATE_SIGNING,
        Do.DESTROY_EPOCH, Do.PUBLISH_KEYS, Do.SPLIT, Do.DRILL, Do.BURN, Do.RECOVER_KEY, Do.REGISTER_COPY,
        Do.CONFIRM_CLOCK, Do.RENEW_MARK, Do.ACCEPT_LOSS, Do.RESTORE, Do.REHEARSE, Do.MAKE_RECIPIENT, Do.PREVIEW_SHRED,
        Do.APPROVE, Do.CANCEL_REQUEST, Do.SHRED, Do.FINISH_SHRED, Do.CERTIFY,
    ), _YES) | {Do.REIDENTIFY: _LATER_BY_TWO},
    Role.ADMIN: {
        **_NETWORK,
        **dict.fromkeys((
            Do.CREATE, Do.SERVE, Do.CONFIGURE, Do.RELOAD, Do.CHECK_TLS, Do.INSPECT, Do.REINDEX, Do.VERIFY, Do.SIGN,
            Do.ACKNOWLEDGE, Do.PROVE, Do.REPAIR, Do.RECOVER, Do.RECOVER_KEY, Do.HOLD, Do.PREVIEW_SHRED,
            Do.REQUEST_SHRED, Do.CANCEL_REQUEST, Do.FINISH_SHRED, Do.MONITOR, Do.MANAGE_USERS,
            Do.LIST_USERS, Do.EXPLAIN, Do.BACKUP, Do.RESTORE, Do.PRUNE, Do.REHEARSE,
        ), _YES),
        Do.EXPORT_DEIDENTIFIED: _LATER_BY_TWO, Do.READ_AUDIT: _LATER, Do.REPLICATE: _LATER,
    },
    Role.MONITORING: {**_NETWORK, Do.INSPECT: _YES, Do.MONITOR: _YES},
    Role.PRIVACY_OFFICER: dict.fromkeys((
        Do.INSPECT, Do.HOLD, Do.RELEASE, Do.PREVIEW_SHRED, Do.REQUEST_SHRED, Do.CANCEL_REQUEST, Do.CERTIFY,
    ), _YES) | {Do.RECORD_CONSENT: _LATER, Do.REIDENTIFY: _LATER_BY_TWO},
    Role.REPLICA: {Do.REPLICATE: _LATER},
    Role.CLERK: {**_NETWORK, Do.FIND: Grant(limits=frozenset({Limit.LISTING}))},
})  # fmt: skip

# The roles whose purpose is treatment: a site may declare that this needs no consent of the patient. Research does.
TREATING: Final = frozenset({Role.PACS, Role.RADIOLOGIST, Role.REFERRING})

# Who runs the archive, who holds its keys and who checks both are three people; nobody who sees data without names
# holds the key to the names.
CONFLICTS: Final = tuple(
    frozenset(pair)
    for pair in (
        (Role.ADMIN, Role.KEY_OFFICER),
        (Role.ADMIN, Role.AUDITOR),
        (Role.KEY_OFFICER, Role.AUDITOR),
        (Role.RESEARCHER, Role.KEY_OFFICER),
        (Role.RESEARCHER, Role.PRIVACY_OFFICER),
    )
)


def conflict(roles: frozenset[Role]) -> frozenset[Role] | None:
    """Two of the roles that one user must not have at once, or None."""
    return next((pair for pair in CONFLICTS if pair <= roles), None)
