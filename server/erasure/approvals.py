"""Requests to shred that wait for another officer.

Rule: a request is durable and names what it asks for as it was when it was made, with the keys it had then: what was
approved is what is erased, so an approval is refused where a study has more by now than the officers were asked about.
Nobody agrees twice. The last approval shreds, in the transaction that takes the request away.
"""

from collections.abc import Sequence

import msgspec

from coffer.archive.event import Event
from coffer.archive.format.record import Kind
from coffer.keys.clock import clock_ms
from coffer.keys.errors import NotFoundError, UnavailableError
from coffer.keys.keyring import rows
from coffer.server.access.action import Action, Resource
from coffer.server.access.operator import Officer
from coffer.server.access.principal import Principal
from coffer.server.access.rules import Duty, Permit
from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive
from coffer.server.erasure.shred import Deed, Shredding
from coffer.server.retention.officer_records import NoteAdmin, SealedNotes
from coffer.server.retention.selection import Doomed, as_now, require_same

__all__ = ["Request", "Requests", "waiting_requests"]


class Request(msgspec.Struct, frozen=True):
    """One request: what, why, since when, and who has agreed (the first one asked)."""

    doomed: tuple[Doomed, ...]
    reason: str
    requested_ms: int
    officers: tuple[Officer, ...]


def waiting_requests(archive: ReadableArchive) -> list[tuple[str, Request]]:
    """Every request that waits and its id, oldest first."""
    notes = SealedNotes(archive.keyring, rows.REQUEST_PREFIX)
    return sorted(notes.all(Request), key=lambda pair: pair[1].requested_ms)


class Requests:
    """What officers do with requests: ask, approve, take back."""

    def __init__(self, archive: KeyAdminArchive) -> None:
        self._archive = archive
        self._notes = NoteAdmin(archive, rows.REQUEST_PREFIX)
        self._policy = archive.policy

    def as_now(self, request_id: str) -> list[Doomed]:
        """What a request asks for, as it is now. Raises NotFoundError."""
        return as_now(self._archive, self._notes.get(request_id, Request)[0].doomed)

    def require_allowed(self, request_id: str, now: Sequence[Doomed], who: Principal) -> Permit:
        """Raise AccessDeniedError where what the request asks for is held, or is more `now` than when it was made, and
        for an officer who has agreed already. Returns whether another one has to agree after `who`, as a duty."""
        return self._require_allowed(self._notes.get(request_id, Request)[0], now, who)

    def _require_allowed(self, request: Request, now: Sequence[Doomed], who: Principal) -> Permit:
        agreed = tuple(each.name for each in request.officers)
        permit = self._policy.require(who, Action.APPROVE, Resource.erasure(agreed))
        Shredding(self._archive).require_allowed(now)  # a hold or the retention may count since
        require_same(self._archive, request.doomed, now)
        return permit

    def add(self, doomed: Sequence[Doomed], reason: str, who: Principal) -> str:
        """Ask, durable on return; returns the request's id. Raises AccessDeniedError for what is held, InputError."""
        self._policy.require(who, Action.REQUEST_SHRED)
        officer = who.officer
        Deed(reason, (officer,)).check()
        Shredding(self._archive).require_allowed(doomed)
        request = Request(tuple(doomed), reason.strip(), clock_ms(), (officer,))
        return self._notes.add(request, lambda new: self._event("shred requested", new, request, officer))

    def approve(self, request_id: str, who: Principal) -> list[bytes] | None:
        """Agree, durable on return. Returns the key ids that are shredded by it, or None where more must agree.

        Raises AccessDeniedError for an officer who has agreed already, for what is held by now, and where a study holds
        more than when it was asked for.
        """
        request, before = self._notes.get(request_id, Request)
        officer, agreed = who.officer, (*request.officers, who.officer)
        doomed = as_now(self._archive, request.doomed)
        permit = self._require_allowed(request, doomed, who)
        if Duty.FURTHER_APPROVAL not in permit.duties:
            deed = Deed(request.reason, agreed, request_id)
            return Shredding(self._archive).shred(doomed, deed, [(self._notes.place(request_id), before)])
        after = msgspec.structs.replace(request, officers=agreed)
        if not self._notes.put(request_id, after, self._event("shred approved", request_id, after, officer), before):
            raise UnavailableError("somebody else dealt with this request just now", hint="look at coffer shred list")
        return None

    def cancel(self, request_id: str, who: Principal) -> Request:
        """Take a request back, durable on return. Raises NotFoundError, AccessDeniedError."""
        self._policy.require(who, Action.CANCEL_REQUEST)
        request, before = self._notes.get(request_id, Request)
        event = self._event("shred request cancelled", request_id, request, who.officer)
        if not self._notes.remove(request_id, event, before):
            raise NotFoundError(f"there is no {request_id} (any more)", hint="coffer shred list shows what there is")
        return request

    def _event(self, what: str, request_id: str, request: Request, officer: Officer) -> Event:
        names = sorted({each.name.hex() for each in request.doomed})
        facts = {
            "what": what,
            "request": request_id,
            "studies": names,
            "reason": request.reason,
            "officer": officer.name,
            "account": officer.account,
        }
        return Event(Kind.STATE, clock_ms(), facts)
