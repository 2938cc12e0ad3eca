"""The archive's services inside a worker: what only the writer can do is requested over the line.

Rule: one line serves one association, one request at a time. Keys are requested when needed and held for the
association's current study only, under a lease: an erasure need not know of workers. The committing process decides
which key is the right one.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from coffer.archive.format.entry import SealedFile
from coffer.archive.reader import LogReader
from coffer.index.instance.identity import PartId, Rules
from coffer.index.query.locate import Located
from coffer.keys.clock import boot_seconds
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.engine.sealing import Intake
from coffer.server.identity.claim import AssociationClaim, Refusal
from coffer.server.services.api import Matches, Planned
from coffer.server.services.retrieve import StoredInstance
from coffer.server.services.store import Ingest
from coffer.server.workers import messages
from coffer.server.workers.held_key import Feed, HeldKey
from coffer.server.workers.messages import (
    Aborted,
    Answered,
    AssociationClosed,
    AssociationOpened,
    Commit,
    Done,
    Failed,
    Find,
    Identified,
    Identify,
    Key,
    KeyOf,
    Limited,
    More,
    Places,
    Plan,
    Rejected,
    Renewed,
    Rows,
    Sent,
    Stop,
    StudyKeyFor,
)
from coffer.server.workers.transport import LineClosed, SharedMemory, Wire, drawn

_KEY_BYTES: Final = 32
R = TypeVar("R", Identified, Key, Renewed, Done, Rows, Places)


class Line:
    """The worker's end of one association's line. Used by the association's thread."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._memory = SharedMemory()

    def ask(self, request: messages.Request, kind: type[R]) -> R:
        """Send a request and wait for its reply. Raises the error that the other end raised."""
        return self._ask(messages.encode(request), (), kind)

    def _ask(self, message: bytes, fds: tuple[int, ...], kind: type[R]) -> R:
        try:
            self._wire.send(message, fds)
            reply = messages.decode_reply(self._wire.receive())
        except LineClosed as error:
            raise UnavailableError("the committing process has ended", hint="see the server's log") from error
        if isinstance(reply, Failed):
            raise messages.error_of(reply)
        assert isinstance(reply, kind)
        return reply

    def ask_for_key(self, request: messages.StudyKeyFor | messages.KeyOf) -> tuple[messages.Key, Secret]:
        """As `ask`, for a key; returns the reply and the 32-byte key that came beside it."""
        reply = self.ask(request, messages.Key)
        fds = self._wire.take_fds()
        try:
            if len(fds) != 1:
                raise LineClosed
            return reply, drawn(fds[0], _KEY_BYTES)
        except LineClosed as error:
            raise UnavailableError("the committing process sent no key", hint="see the server's log") from error
        finally:
            for fd in fds:
                os.close(fd)

    def send(self, request: messages.Request) -> None:
        """Send a message without a reply; it is dropped if the other end has closed."""
        try:
            self._wire.send(messages.encode(request))
        except LineClosed:
            return

    def memory(self, length: int) -> memoryview:
        """As `server.services.store.CommitPort.memory`."""
        return self._memory.room(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        """As `server.services.store.CommitPort.commit`."""
        if isinstance(body, SealedFile):
            return self.ask(Commit(sealed, body.length, body.path.name), Done).committed
        fd = self._memory.take_unsent()
        try:
            message = messages.encode(Commit(sealed, len(body), ""))
            return self._ask(message, () if fd is None else (fd,), Done).committed
        finally:
            body.release()
            if fd is not None:
                os.close(fd)
            if self._memory.is_large():
                self._memory.close()

    def close(self) -> None:
        """Close the line; to the other end this means that the association has ended."""
        self._wire.close()
        self._memory.close()


class _RemoteCommitPort:
    """`server.services.store.CommitPort` over a line."""

    def __init__(self, line: Line, held: HeldKey) -> None:
        self._line = line
        self._held = held

    def study_key(self, part: PartId) -> StudyKey:
        return self._held.key(StudyKeyFor(part))

    def require_key(self, key_id: bytes) -> None:
        self._held.require(key_id)

    def memory(self, length: int) -> memoryview:
        return self._line.memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        done = self._line.commit(sealed, body)
        if done.stale and done.previous is None:
            self._held.drop()
        return done


@dataclass(frozen=True, slots=True)
class _Finder:
    line: Line

    def find(self, identifier: bytes, *, implicit: bool, model: str, caller: Principal) -> Matches:  # noqa: ARG002
        first = self.line.ask(Find(identifier, implicit, model), Rows)
        return Matches(self._rows(first), first.all_supported)

    def _rows(self, part: Rows) -> Iterator[bytes | None]:
        try:
            yield from part.rows
            while not part.is_last:
                yield None
                part = self.line.ask(More(), Rows)
                yield from part.rows
        finally:
            if not part.is_last:
                self.line.send(Stop())


@dataclass(frozen=True, slots=True)
class _Retriever:
    line: Line
    bodies: Bodies

    def plan(
        self,
        identifier: bytes,
        *,
        implicit: bool,
        model: str,
        caller: Principal,  # noqa: ARG002  # the other end knows who calls
        destination: str = "",
        waiting: Callable[[], None] = lambda: None,
    ) -> Planned[StoredInstance]:
        part = self.line.ask(Plan(identifier, implicit, model, destination), Places)
        places: list[Located] = part.places
        while not part.is_last:
            try:
                waiting()
            except BaseException:
                self.line.send(Stop())
                raise
            part = self.line.ask(More(), Places)
            places += part.places
        return Planned([StoredInstance(self.bodies, place) for place in places], part.remark)


@dataclass(frozen=True, slots=True)
class RemoteObserver:
    """`server.services.api.Observer` over a line."""

    line: Line

    def association_opened(self) -> None:
        """As `Observer.association_opened`."""
        self.line.send(AssociationOpened())

    def association_closed(self) -> None:
        """As `Observer.association_closed`."""
        self.line.send(AssociationClosed())

    def rejected(self, reason: str) -> None:
        """As `Observer.rejected`."""
        self.line.send(Rejected(reason))

    def aborted(self, reason: str) -> None:
        """As `Observer.aborted`."""
        self.line.send(Aborted(reason))

    def limited(self, limit: str) -> None:
        """As `Observer.limited`."""
        self.line.send(Limited(limit))

    def answered(self, service: str, status: int, seconds: float) -> None:
        """As `Observer.answered`."""
        self.line.send(Answered(service, status, seconds))

    def sent(self, service: str, objects: int, size: int) -> None:
        """As `Observer.sent`."""
        self.line.send(Sent(service, objects, size))


class RemoteServices:
    """`server.services.api.Services` and its `Gate` for one association of a worker."""

    def __init__(  # noqa: PLR0917  # what a worker consists of
        self,
        line: Line,
        intake: Intake,
        policy: Policy,
        rules: Rules,
        archive_id: bytes,
        reader: LogReader,
        feed: Feed,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._line = line
        self._held = HeldKey(line, feed, clock), HeldKey(line, feed, clock)
        to_seal, to_open = self._held
        self.observer = RemoteObserver(line)
        self.ingest = Ingest(intake, _RemoteCommitPort(line, to_seal), policy, rules)
        self.finder = _Finder(line)
        self.retriever = _Retriever(line, Bodies(archive_id, reader, lambda key_id: to_open.key(KeyOf(key_id))))

    def admit(self, claim: AssociationClaim) -> Principal | Refusal:
        """As `Gate.admit`: the committing process says who calls."""
        answer = self._line.ask(Identify(claim), Identified)
        return answer.found or answer.refusal or Refusal.IDENTITY

    def end(self) -> None:
        """Drop every key: the association has ended."""
        for held in self._held:
            held.drop()

    def drop_keys(self) -> bool:
        """Drop the keys whose lease is over or that were taken away; return whether there were any. Raises
        UnavailableError, IntegrityError."""
        first, second = (held.drop_if_over() for held in self._held)
        return first or second
