"""DIMSE status codes, and the one table from our errors to them (PS3.4 B.2.3, C.4; PS3.7 C).

Rule: a failure's comment names the cause in at most 64 characters of the default repertoire, never patient data.
"""

from typing import Final

from coffer.keys.errors import (
    AccessDeniedError,
    AmbiguousPatientError,
    CofferError,
    IndexAlteredError,
    InputError,
    IntegrityError,
    KeyUnavailableError,
    NotFoundError,
    ShreddedError,
    TooCostlyError,
    UnavailableError,
)

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_UNSUPPORTED: Final = 0xFF01  # an optional key is not supported (PS3.4 Table C.4-1)
CANCEL: Final = 0xFE00
WARNING: Final = 0xB000  # sub-operations complete, one or more failures
OUT_OF_RESOURCES: Final = 0xA700
CANNOT_COUNT: Final = 0xA701
CANNOT_PERFORM: Final = 0xA702
UNKNOWN_DESTINATION: Final = 0xA801
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
SEVERAL_PATIENTS: Final = 0xC001  # unable to process: the identifier names more than one patient
CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORISED: Final = 0x0124
UNRECOGNISED_OPERATION: Final = 0x0211
_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116})
_COMMENT_CHARACTERS: Final = 64  # PS3.5 6.2: VR LO

# The first class that fits decides: subclasses come before their parents.
_TABLE: Final[tuple[tuple[type[CofferError], int], ...]] = (
    (AccessDeniedError, NOT_AUTHORISED),
    (AmbiguousPatientError, SEVERAL_PATIENTS),
    (TooCostlyError, OUT_OF_RESOURCES),
    (InputError, DOES_NOT_MATCH),
    (UnavailableError, OUT_OF_RESOURCES),
    (KeyUnavailableError, OUT_OF_RESOURCES),
    (IndexAlteredError, OUT_OF_RESOURCES),  # what is stored is found again once the index is rebuilt
    (ShreddedError, CANNOT_UNDERSTAND),
    (IntegrityError, CANNOT_UNDERSTAND),
    (NotFoundError, CANNOT_UNDERSTAND),
)


class DimseStatusError(InputError):
    """A failure that only DIMSE knows, with its status. `offending` lists tags for (0000,0901)."""

    def __init__(self, status: int, comment: str, offending: tuple[int, ...] = ()) -> None:
        super().__init__(comment, hint="see the DICOM conformance statement for the status", offending=offending)
        self.status = status


def is_warning(status: int) -> bool:
    """Whether a status means success with a warning (PS3.7 C.4)."""
    return status >> 12 == 0xB or status in _WARNINGS


def fit(comment: str) -> str:
    """A comment as a VR of LO can carry it: 64 characters of ASCII without backslash."""
    return comment.encode("ascii", "replace").decode().replace("\\", "/")[:_COMMENT_CHARACTERS].rstrip()


def status_of(error: CofferError) -> tuple[int, str]:
    """Status and comment for an error that ends an operation."""
    if isinstance(error, DimseStatusError):
        return error.status, fit(str(error))
    status = next((status for kind, status in _TABLE if isinstance(error, kind)), CANNOT_UNDERSTAND)
    return status, fit(str(error))


def offending_of(error: CofferError) -> tuple[int, ...]:
    """The tags an error names as offending, if any."""
    return error.offending if isinstance(error, InputError) else ()
