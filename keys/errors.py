"""The error tree of the whole product.

Rule: every failure a caller can act on is one of these classes; the message states the cause, `hint()` the remedy.
A message never holds key bytes, passphrases or anything taken from a patient's data.
It does not map errors to network status codes: each door does, in one table (`server.dimse.protocol.status`).

Exit codes of the command line: 0 done, 1 findings (verify), 2 wrong usage, otherwise `exit_code` of the class.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "AmbiguousPatientError",
    "CofferError",
    "ConfigError",
    "FaultError",
    "FencedError",
    "FormatError",
    "HistoryError",
    "IdentifierError",
    "IndexAlteredError",
    "InputError",
    "IntegrityError",
    "KeyUnavailableError",
    "LockedError",
    "MismatchError",
    "NotFoundError",
    "OutcomeUnknownError",
    "ServiceError",
    "ShreddedError",
    "SupersededError",
    "TooCostlyError",
    "UnavailableError",
    "UnreadableError",
    "WriterGoneError",
]


class CofferError(Exception):
    """Root of the tree, for `except` clauses only: raise a subclass, which shows the caller what it can do.

    Takes the cause as `message` and the remedy as `hint`; both are plain sentences for an administrator.
    """

    exit_code: ClassVar[int]

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self._hint = hint

    def hint(self) -> str:
        """Return what the reader can do about it, or an empty string where there is nothing useful to say."""
        return self._hint


class IntegrityError(CofferError):
    """Stored bytes are not what was written: flipped, cut, swapped, sealed under another key. A retry cannot help."""

    exit_code: ClassVar[int] = 3


class FormatError(IntegrityError):
    """Bytes violate the format: wrong magic, unknown version, impossible length. Nothing was decrypted."""

    exit_code: ClassVar[int] = 4


class HistoryError(IntegrityError):
    """Log, signed checkpoint and keyring disagree: one was rolled back, forked or cut. Nothing was changed."""

    exit_code: ClassVar[int] = 13


class IndexAlteredError(IntegrityError):
    """The index was altered, or contradicts the log: nothing is answered from it. Run `coffer index rebuild`."""


class NotFoundError(CofferError):
    """The requested thing does not exist here."""

    exit_code: ClassVar[int] = 5


class UnavailableError(CofferError):
    """Cannot be done now, but perhaps later: disk full, writer stopped, provider down. Nothing was acknowledged."""

    exit_code: ClassVar[int] = 6


class UnreadableError(UnavailableError):
    """The medium cannot be read now. Its bytes may be intact: do not cut, skip or report them as altered."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or "check the volume and its cable, mount or server; then try again")


class WriterGoneError(UnavailableError):
    """The process that was to do it ended first. A caller that retries does it itself."""


class FencedError(UnavailableError):
    """Another writer has taken over: nothing that this one writes counts any more. Nothing was changed."""


class OutcomeUnknownError(UnavailableError):
    """It may have been done or not: ask which, before anything is done again."""


class LockedError(UnavailableError):
    """Another process holds the lock; the message names it where it is known."""

    exit_code: ClassVar[int] = 7


class KeyUnavailableError(CofferError):
    """The key for the data is missing or does not open it: wrong key file, wrong passphrase, missing row."""

    exit_code: ClassVar[int] = 8


class ShreddedError(CofferError):
    """The key was destroyed on purpose; the data is gone, and this is the correct answer."""

    exit_code: ClassVar[int] = 9


class SupersededError(ShreddedError):
    """The key was replaced (`coffer keys rekey`) and destroyed; a retry finds the same objects under the new key."""

    exit_code: ClassVar[int] = 14


class AccessDeniedError(CofferError):
    """The access decision denied the request."""

    exit_code: ClassVar[int] = 10


class ConfigError(CofferError):
    """The configuration or a file's permissions are wrong; an administrator must change them."""

    exit_code: ClassVar[int] = 11


class InputError(CofferError):
    """The caller's data is invalid: not DICOM, a bad identifier, a value out of range.

    `offending` holds the tags of the elements at fault, where they are known (PS3.7 C.4).
    """

    exit_code: ClassVar[int] = 12

    def __init__(self, message: str, *, hint: str = "", offending: tuple[int, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.offending = offending


class IdentifierError(InputError):
    """The identifier of a query or retrieval does not fit the information model (PS3.4 C.4.1.1, C.4.2.1.4)."""


class MismatchError(InputError):
    """A data set is not the object that the request announced (PS3.4 B.2.3)."""


class AmbiguousPatientError(InputError):
    """The request matches more than one patient; the message lists them."""


class TooCostlyError(InputError):
    """A query or retrieval exceeded its work budget; the message says what to narrow."""


class ServiceError(CofferError):
    """A part of the running server died and could not be restarted, so the server stopped: start it again."""

    exit_code: ClassVar[int] = 15


class FaultError(CofferError):
    """A bug in Coffer, hit while it served one request: the log has the traceback."""

    exit_code: ClassVar[int] = 16
