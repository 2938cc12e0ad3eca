"""Requests to shred that wait for the approval of another officer.

Rule: a request is durable and names its selection as it was when the request was made, with the keys of that time. What
was approved is what is erased, so an approval is refused if a study has grown since. No officer approves twice. The
last approval shreds, in the transaction that removes the request.
"""

from collections.abc import Sequence

import msgspec

from coffer.archive.events.officer import Officer
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shreds import ShredApproved, ShredCancelled, ShredRequested
from coffer.keys.clock import clock_ms
from coffer.keys.errors import NotFoundError, UnavailableError
from coffer.keys.mailbox.officer_records import OfficerRecordAdmin, OfficerRecords
from coffer.keys.values.officer_record import RecordKind
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action, Resource
from coffer.server.access.decision import FULFILLED
from coffer.server.access.principal import Principal
from coffer.server.access.roles import Duty
from coffer.server.access.rules import Permit
from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.retention.selection import PartToShred, as_now, require_same

__all__ = ["ShredRequest", "ShredRequests", "waiting_requests"]


class ShredRequest(msgspec.Struct, frozen=True):
    """One request: what, why, since when, and the officers who agreed (the first one made the request)."""

    selection: tuple[PartToShred, ...] = msgspec.field(name="to_shred")
    reason: str
    requested_ms: int
    officers: tuple[Officer, ...]


def waiting_requests(archive: ReadableArchive) -> list[tuple[str, ShredRequest]]:
    """Return every waiting request with its id, oldest first. Raises IntegrityError for a keyring that is not as it was
    written."""
    archive.keyring.require_whole()
    records = OfficerRecords(archive.keyring, RecordKind.REQUEST, ShredRequest)
    return sorted(records.all(), key=lambda pair: pair[1].requested_ms)


class ShredRequests:
    """What officers do with requests: make, approve and cancel them."""

    def __init__(self, archive: KeyAdminArchive) -> None:
        self._archive = archive
        self._records = OfficerRecordAdmin(archive.keyring, RecordKind.REQUEST, ShredRequest)
        self._policy = archive.policy

    def as_now(self, request_id: str) -> list[PartToShred]:
        """Return the selection of a request as it is now. Raises NotFoundError."""
        return as_now(self._archive, self._records.get(request_id)[0].selection)

    def require_allowed(self, request_id: str, now: Sequence[PartToShred], who: Principal) -> Permit:
        """Return the permit for an approval by `who`; its duties say whether yet another officer has to approve.

        Raises AccessDeniedError if a hold or the retention keeps a study, if there is more `now` than when the request
        was made, and for an officer who has approved already.
        """
        return self._require_allowed(self._records.get(request_id)[0], now, who)

    def _require_allowed(self, request: ShredRequest, now: Sequence[PartToShred], who: Principal) -> Permit:
        agreed = tuple(each.name for each in request.officers)
        permit = self._policy.require(who, Action.APPROVE, Resource.erasure(agreed), fulfils=FULFILLED[Action.APPROVE])
        Shredding(self._archive).require_allowed(now)  # a hold or the retention may apply since
        require_same(self._archive, request.selection, now)
        return permit

    def add(self, selection: Sequence[PartToShred], reason: str, who: Principal) -> str:
        """Make a request, durable on return; returns its id.

        Raises AccessDeniedError for what a hold or the retention keeps, InputError for the reason.
        """
        self._policy.require(who, Action.REQUEST_SHRED)
        officer = who.officer
        Authorization(reason, (officer,)).check()
        Shredding(self._archive).require_allowed(selection)
        request = ShredRequest(tuple(selection), reason.strip(), clock_ms(), (officer,))
        return self._records.add(request, lambda new: self._event(ShredRequested, new, request, officer))

    def approve(self, request_id: str, who: Principal) -> list[bytes] | None:
        """Approve a request, durable on return. Returns the key ids shredded by it, or None if more must approve.

        Raises the same errors as `require_allowed`; UnavailableError if another officer changed the request meanwhile.
        """
        request, before = self._records.get(request_id)
        officer, agreed = who.officer, (*request.officers, who.officer)
        selection = as_now(self._archive, request.selection)
        permit = self._require_allowed(request, selection, who)
        if Duty.FURTHER_APPROVAL not in permit.duties:
            authorization = Authorization(request.reason, agreed, request_id)
            return Shredding(self._archive).shred(selection, authorization, [before])
        after = msgspec.structs.replace(request, officers=agreed)
        if not self._records.replace(before, after, self._event(ShredApproved, request_id, after, officer)):
            raise UnavailableError("another officer changed this request just now", hint="see coffer shred list")
        return None

    def cancel(self, request_id: str, who: Principal) -> ShredRequest:
        """Cancel a request, durable on return. Raises NotFoundError, AccessDeniedError."""
        self._policy.require(who, Action.CANCEL_REQUEST)
        request, before = self._records.get(request_id)
        if not self._records.remove(before, self._event(ShredCancelled, request_id, request, who.officer)):
            raise NotFoundError(
                f"there is no request {request_id} (any more)", hint="coffer shred list shows the requests"
            )
        return request

    def _event(
        self,
        what: type[ShredRequested] | type[ShredApproved] | type[ShredCancelled],
        request_id: str,
        request: ShredRequest,
        officer: Officer,
    ) -> WaitingEvent:
        keys = tuple(sorted({key_id.hex() for each in request.selection for key_id in each.key_ids}))
        event = what(request=request_id, chosen=keys, reason=request.reason, by=officer)
        return self._archive.enclosed(Occurrence(event, clock_ms()))
