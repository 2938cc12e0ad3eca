"""The codes of PS3.15 A.5 that Coffer's audit messages use (PS3.16 CID 400, 401, 402, 403, 404, 405), and which event
an action is.

Rule: pure. An action that is missing from the tables is a use of a restricted function: no act goes without a message.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from coffer.server.access.action import Action

__all__ = ["ALERTS", "EVENT_IDS", "Coded", "EventKind"]


class Coded(NamedTuple):
    """A coded value: code, name of the coding scheme, meaning."""

    code: str
    system: str
    meaning: str


def _dcm(code: int, meaning: str) -> Coded:
    return Coded(str(code), "DCM", meaning)


class EventKind(StrEnum):
    """The audit messages of PS3.15 A.5.3 that are made; the values are the codes of their EventID."""

    APPLICATION = "110100"
    LOG_USED = "110101"
    BEGIN_TRANSFER = "110102"
    ACCESSED = "110103"
    TRANSFERRED = "110104"
    DELETED = "110105"
    EXPORT = "110106"
    IMPORT = "110107"
    QUERY = "110112"
    ALERT = "110113"
    AUTHENTICATION = "110114"


EVENT_IDS: Final[Mapping[EventKind, Coded]] = MappingProxyType({
    EventKind.APPLICATION: _dcm(110100, "Application Activity"),
    EventKind.LOG_USED: _dcm(110101, "Audit Log Used"),
    EventKind.BEGIN_TRANSFER: _dcm(110102, "Begin Transferring DICOM Instances"),
    EventKind.ACCESSED: _dcm(110103, "DICOM Instances Accessed"),
    EventKind.TRANSFERRED: _dcm(110104, "DICOM Instances Transferred"),
    EventKind.DELETED: _dcm(110105, "DICOM Study Deleted"),
    EventKind.EXPORT: _dcm(110106, "Export"),
    EventKind.IMPORT: _dcm(110107, "Import"),
    EventKind.QUERY: _dcm(110112, "Query"),
    EventKind.ALERT: _dcm(110113, "Security Alert"),
    EventKind.AUTHENTICATION: _dcm(110114, "User Authentication"),
})  # fmt: skip

START: Final = _dcm(110120, "Application Start")
STOP: Final = _dcm(110121, "Application Stop")
LOGIN: Final = _dcm(110122, "Login")
LOGOUT: Final = _dcm(110123, "Logout")
SECURITY_CONFIGURATION: Final = _dcm(110129, "Security Configuration")
SOFTWARE_CONFIGURATION: Final = _dcm(110131, "Software Configuration")
RESTRICTED: Final = _dcm(110132, "Use of Restricted Function")
OBJECT_SECURITY: Final = _dcm(110135, "Object Security Attributes Changed")
USER_SECURITY: Final = _dcm(110137, "User security Attributes Changed")

APPLICATION_ROLE: Final = _dcm(110150, "Application")
LAUNCHER: Final = _dcm(110151, "Application Launcher")
DESTINATION: Final = _dcm(110152, "Destination Role ID")
SOURCE: Final = _dcm(110153, "Source Role ID")
DESTINATION_MEDIA: Final = _dcm(110154, "Destination Media")
SOURCE_MEDIA: Final = _dcm(110155, "Source Media")
URI_MEDIA: Final = _dcm(110037, "URI")

STUDY_ID: Final = _dcm(110180, "Study Instance UID")
CLASS_ID: Final = _dcm(110181, "SOP Class UID")
PATIENT_NUMBER: Final = Coded("2", "RFC-3881", "Patient Number")
URI: Final = Coded("12", "RFC-3881", "URI")

# What kind of security alert an action is (CID 403); every other one is a use of a restricted function.
ALERTS: Final[Mapping[Action, Coded]] = MappingProxyType(
    dict.fromkeys(
        (
            Action.ROTATE, Action.REKEY, Action.ROTATE_SIGNING, Action.DESTROY_EPOCH, Action.SPLIT, Action.DRILL,
            Action.BURN, Action.RECOVER_KEY, Action.REGISTER_COPY, Action.RENEW_MARK, Action.CONFIRM_CLOCK,
        ),
        SECURITY_CONFIGURATION,
    )
    | dict.fromkeys(
        (
            Action.HOLD, Action.RELEASE, Action.REQUEST_SHRED, Action.APPROVE, Action.CANCEL_REQUEST, Action.SHRED,
            Action.FINISH_SHRED,
        ),
        OBJECT_SECURITY,
    )
    | dict.fromkeys((Action.CONFIGURE, Action.RELOAD), SOFTWARE_CONFIGURATION)
    | {Action.MANAGE_USERS: USER_SECURITY}
)  # fmt: skip
