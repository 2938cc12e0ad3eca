"""Answer queries: decide on access, match in the index, encode the rows (PS3.4 C.4.1).

Rule: rows are returned one by one, so that a C-CANCEL stops the work; query values never reach a log.
"""

from collections.abc import Iterator, Mapping

from coffer.index.dicom.attributes import SPECIFIC_CHARACTER_SET, Values, is_supported
from coffer.index.dicom.headers import decode_identifier
from coffer.index.dicom.identifier import encode_identifier
from coffer.keys.errors import TooCostlyError
from coffer.server.access.action import Action
from coffer.server.access.decision import FULFILLED
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import ReadableArchive
from coffer.server.observe.logs import get_logger
from coffer.server.services.api import Matches
from coffer.server.services.narrowing import Narrowing

_log = get_logger()

QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY = 0x00080054, 0x00080056
_STUDY_DATE = 0x00080020
_IDENTITIES = (0x00100020, 0x00080050, 0x0020000D)  # Patient ID, Accession Number, Study Instance UID
_MANY_VALUES = 100
_ONLINE = ("ONLINE",)
_ANSWERED = frozenset({SPECIFIC_CHARACTER_SET, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY})


def _advice(keys: Mapping[int, Values]) -> str:
    """The most likely reason why a query is costly: many values of one key, nothing that narrows it, or wildcards."""
    tag, values = max(keys.items(), key=lambda item: len(item[1]), default=(0, ()))
    if len(values) >= _MANY_VALUES:
        return f"give fewer than {len(values)} values in ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    if not any(keys.get(tag) for tag in (_STUDY_DATE, *_IDENTITIES)):
        return "narrow it by Study Date, Patient ID or Study UID"
    return "narrow the Study Date, or use fewer wildcards"


class Finder:
    """Runs C-FIND and `coffer find` over the index. Safe to use from many threads."""

    def __init__(self, archive: ReadableArchive) -> None:
        self._archive = archive

    def find(self, identifier: bytes, *, implicit: bool, model: str, caller: Principal) -> Matches:
        """Encoded response identifiers, in the request's encoding.

        Raises InputError with the offending tags for a bad identifier, AccessDeniedError; both before the first row.
        """
        narrowing = self._permitted(caller)
        keys = decode_identifier(identifier, implicit=implicit)
        charset = keys.charset
        rows = self._steps(keys.values, narrowing, model=model, caller=caller)
        encoded = (None if row is None else encode_identifier(row, charset, implicit=implicit) for row in rows)
        known = (tag in _ANSWERED or (is_supported(tag) and narrowing.shows(tag)) for tag in keys.values)
        return Matches(encoded, all(known))

    def _permitted(self, caller: Principal) -> Narrowing:
        permit = self._archive.policy.require(caller, Action.FIND, fulfils=FULFILLED[Action.FIND])
        return Narrowing(self._archive.index, permit.scopes)

    @staticmethod
    def too_costly(identifier: bytes, *, implicit: bool) -> TooCostlyError:
        """The error for a query that has spent its budget; it says in at most 64 characters what to narrow."""
        advice = _advice(decode_identifier(identifier, implicit=implicit).values)
        return TooCostlyError(f"too costly: {advice}", hint=advice)

    def rows(self, keys: Mapping[int, Values], *, model: str, caller: Principal) -> Iterator[dict[int, Values]]:
        """Matching rows by tag, each with every requested key. Raises as `find`."""
        narrowing = self._permitted(caller)
        return (row for row in self._steps(keys, narrowing, model=model, caller=caller) if row is not None)

    def _steps(
        self, keys: Mapping[int, Values], narrowing: Narrowing, *, model: str, caller: Principal
    ) -> Iterator[dict[int, Values] | None]:
        """As `rows`, with the pauses of `index.query.query`, for a caller that was permitted."""
        level = "".join(v for v in keys.get(QUERY_RETRIEVE_LEVEL, ()) if isinstance(v, str)).strip()
        matches = self._once_checked(narrowing.matches(level, keys, model))
        _log.info("find", name="query.started", calling_ae=caller.ae_title, level=level, model=model)
        return (None if match is None else self._complete(match, keys, level) for match in matches)

    def _once_checked(self, matches: Iterator[dict[int, Values] | None]) -> Iterator[dict[int, Values] | None]:
        yield from self._archive.checking()
        yield from matches

    def _complete(self, match: Mapping[int, Values], keys: Mapping[int, Values], level: str) -> dict[int, Values]:
        row = {tag: match.get(tag, ()) for tag in keys if tag != SPECIFIC_CHARACTER_SET}
        row[QUERY_RETRIEVE_LEVEL] = (level,)
        row[RETRIEVE_AE_TITLE] = (self._archive.config.dimse.ae_title,)
        if INSTANCE_AVAILABILITY in keys:
            row[INSTANCE_AVAILABILITY] = _ONLINE
        return row
