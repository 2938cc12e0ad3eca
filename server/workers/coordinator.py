"""The committing process's end of all lines: one thread reads what the workers send, commits it in batches, replies.

Rule: long work (a query, a plan) runs in other threads, so that a commit waits for commits only. Every message is
checked before anything is done, and a misbehaving worker loses its own line only: this thread never waits for one.
Everything that has arrived when a batch begins is part of it, and shares its sync.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Final

import msgspec

from coffer.archive.format.entry import SealedFile
from coffer.index.instance.identity import PartId
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import AccessDeniedError, CofferError
from coffer.server.access.action import Action, Resource
from coffer.server.access.decision import FULFILLED
from coffer.server.access.principal import Principal
from coffer.server.engine.commit import Committed, Parcel, Sealed
from coffer.server.host.watched import Watched
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.claim import AssociationClaim, Refusal
from coffer.server.identity.identification import Identification
from coffer.server.identity.withdrawal import Withdrawals
from coffer.server.observe.logs import get_logger
from coffer.server.observe.reached import Limit
from coffer.server.services.bundle import WriterServices
from coffer.server.workers import messages
from coffer.server.workers.batch import Batch
from coffer.server.workers.checks import BrokenRule, Now, require_sound
from coffer.server.workers.client import Client
from coffer.server.workers.messages import (
    Commit,
    KeyOf,
    ObserverCall,
    StudyKeyFor,
)
from coffer.server.workers.searches import Searches
from coffer.server.workers.transport import LineClosed

_log = get_logger()

_STUCK_SECONDS: Final = 30.0  # how long a worker may leave an answer unread
_MOST_AT_ONCE: Final = 64  # messages of one line before the next line's turn
_LOOK_SECONDS: Final = 1.0
LEASE_SECONDS: Final = 5.0  # how long a worker may use a key without asking whether it still may


Act = Callable[[], None]


class Coordinator:
    """Serves lines from `start` to `stop`."""

    def __init__(self, services: WriterServices, admission: Admission) -> None:
        self._archive = services.archive
        self._admission = admission
        self._committer = services.committer
        self._limits = services.archive.config.limits
        self._selector = selectors.DefaultSelector()
        self._fresh: SimpleQueue[Client] = SimpleQueue()
        self._found: SimpleQueue[tuple[Client, object, bytes | None]] = SimpleQueue()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._clients: set[Client] = set()
        self._more: dict[Client, None] = {}  # those with unhandled whole messages, in turn
        self._batch = Batch()
        metrics = services.archive.metrics
        self._searches = Searches(services, self._deliver, lambda: metrics.limited(Limit.QUERY_TURN))
        self._withdrawals = Withdrawals(admission)
        self._stopping = threading.Event()
        self.watched = Watched("committing what is received", self._serve, self._stopping)

    def start(self) -> None:
        """Begin to serve."""
        self._searches.start()
        self.watched.start()

    def add(self, ended: Act, by: Connected, withdraw: Act = lambda: None) -> socket.socket:
        """Open a line for an association of this connection; returns the worker's end, to be sent to it.

        `ended` and `withdraw` as `Client` has them. Raises OSError if there are no descriptors left.
        """
        ours, theirs = socket.socketpair()
        self._fresh.put(Client(ours, by, ended, withdraw))
        self._wake()
        return theirs

    def end_searches(self) -> None:
        """Answer every present and future query and plan with a failure: the server is stopping. Stores continue."""
        self._searches.end()

    def stop(self) -> None:
        """Stop serving and close all open lines. Does not wait for any search."""
        self._stopping.set()
        self._wake()
        self.watched.join()
        self._searches.stop()
        self._waker.close()

    def _wake(self) -> None:
        # Full: it will wake up anyway. Broken: the thread has ended, and nobody is left to wake.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self._waker.send(b"+")

    def _deliver(self, client: Client, search: object, reply: bytes | None) -> None:
        """Called by the search threads with a part of an answer, or None if an internal error ended the search."""
        self._found.put((client, search, reply))
        self._wake()

    # The loop

    def _serve(self) -> None:
        # Owed an answer when this thread died, and never acknowledged: their lines end, so that the senders notice.
        for client in [each for each in self._clients if each.is_owed and each.search is None]:
            self._end(client)
        self._batch.take()
        while not self._stopping.is_set():
            self.watched.go_on()
            for key, events in self._selector.select(0 if self._more else _LOOK_SECONDS):
                if key.data is None:
                    self._admit()
                else:
                    self._attend(key.data, events)
            waiting, self._more = self._more, {}
            for client in waiting:
                self._tend(client, self._work)
            self._send_found()
            if self._batch:
                self._commit()
            self._end_stuck()
        for client in list(self._clients):
            self._end(client)
        self._selector.close()
        self._woken.close()

    def _admit(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while not self._fresh.empty():
            client = self._fresh.get()
            self._clients.add(client)
            try:
                self._listen(client)
            except OSError:  # the system cannot watch one more descriptor
                self._end(client)

    def _listen(self, client: Client) -> None:
        """Watch the line for reading and writing, as far as either is needed."""
        events = selectors.EVENT_READ if client.may_read else 0
        events |= selectors.EVENT_WRITE if client.has_answer else 0
        known = self._selector.get_map().get(client.wire.socket)
        if known is None and events:
            self._selector.register(client.wire.socket, events, client)
        elif known is not None and not events:
            self._selector.unregister(client.wire.socket)
        elif known is not None and known.events != events:
            self._selector.modify(client.wire.socket, events, client)

    def _tend(self, client: Client, do: Callable[[Client], None]) -> None:
        """Do something for a line. A failure ends this line only."""
        if client.is_gone:
            return
        try:
            do(client)
            self._listen(client)
        except LineClosed:
            self._end(client)
        except (BrokenRule, msgspec.DecodeError) as error:
            cause = str(error) if isinstance(error, BrokenRule) else "it sent something that is not a message"
            _log.error(
                "a worker broke a rule of its line, which is closed",
                name="worker.rule_broken",
                cause=cause,
                host=client.host,
            )
            self._archive.metrics.limited(Limit.WORKER_RULE)
            self._end(client)
        except Exception:  # noqa: BLE001  # one line must not end the others
            _log.exception("a line ended with an internal error", name="line.failed")
            self._end(client)

    def _attend(self, client: Client, events: int) -> None:
        def attend(client: Client) -> None:
            if events & selectors.EVENT_WRITE:
                client.push()
            if events & selectors.EVENT_READ:
                client.read()
            self._work(client)

        self._tend(client, attend)

    def _work(self, client: Client) -> None:
        """Handle messages until an answer is owed or it is the next line's turn."""
        for _ in range(_MOST_AT_ONCE):
            if not client.is_free:
                return
            message = client.next()
            if message is None:
                return
            self._take(client, messages.decode_request(message))
        self._more[client] = None

    def _end(self, client: Client) -> None:
        if client.is_gone:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(client.wire.socket)
        self._clients.discard(client)
        client.close()
        if client.rights.is_associated:  # no message will report it
            self._archive.metrics.association_closed()
        client.ended()

    def _end_stuck(self) -> None:
        now = time.monotonic()
        for client in list(self._clients):
            if client.stuck_since is not None and now - client.stuck_since > _STUCK_SECONDS:
                _log.error(
                    "a worker does not read its answers: its line is closed", name="line.stalled", host=client.host
                )
                self._archive.metrics.limited(Limit.WORKER_ANSWER)
                self._end(client)
        for client in self._withdrawals.look(self._clients):
            self._archive.metrics.limited(Limit.WORKER_RULE)
            self._end(client)

    # Requests

    def _take(self, client: Client, request: messages.Request) -> None:
        require_sound(request, self._limits, Now(clock_ms(), time.monotonic()))
        match request:
            case Commit(sealed):
                client.rights.require_same(sealed.source_ae)
                client.rights.require_shown(self._part_of(sealed))
                self._put_if_permitted(client, request)
            case messages.Identify(claim):
                client.rights.claim()
                self._identify(client, claim)
            case StudyKeyFor(part):
                client.rights.show(part)
                caller = client.rights.caller
                self._give(client, lambda: self._study_key(part, caller))
            case KeyOf(key_id):
                client.rights.require_returned(key_id)
                caller = client.rights.caller
                self._give(client, lambda: self._key_to_read(key_id, caller))
            case messages.Renew(key_id):
                client.rights.require_given(key_id)
                self._reply(client, lambda: self._renewed(key_id))
            case ObserverCall():
                client.rights.observe(request)
                request.make(self._archive.metrics)
            case messages.Find() | messages.Plan() | messages.More():
                self._searches.ask(client, request)
            case messages.Stop():
                self._searches.drop(client)
            case _:
                raise BrokenRule("it sent something that is not a request")

    def _identify(self, client: Client, claim: AssociationClaim) -> None:
        """Find out who calls; what takes long is done elsewhere, and answered when it is delivered."""
        client.identification = found = Identification(
            client.by, claim, self._admission, lambda found: self._deliver(client, found, None)
        )
        client.is_owed = True
        if self._admission.is_slow(claim):
            self._searches.take(found)
        else:
            found.work(0)

    @staticmethod
    def _bound(client: Client, found: Principal | Refusal | None) -> bytes | None:
        """Let a line act for whoever was proved to be there; the answer to it, None after an internal error."""
        if found is None:
            return None
        if isinstance(found, Refusal):
            return messages.encode(messages.Identified(None, found))
        client.rights.bind(found)
        return messages.encode(messages.Identified(replace(found, standing="")))  # of no use to a worker

    def _study_key(self, part: PartId, caller: Principal) -> StudyKey:
        self._archive.policy.require(caller, Action.STORE, fulfils=FULFILLED[Action.STORE])
        return self._committer.study_key(part)

    def _key_to_read(self, key_id: bytes, caller: Principal) -> StudyKey:
        """The key of what a plan returned; a user who was removed since gets none."""
        self._archive.policy.require(caller, Action.RETRIEVE, fulfils=FULFILLED[Action.RETRIEVE])
        return self._archive.keyring.study(key_id)

    def _put_if_permitted(self, client: Client, commit: Commit) -> None:
        """Put an object into the batch; the worker has asked the same, but a worker is not believed."""
        what = Resource.arriving(commit.sealed.entry.sop_class)
        try:
            self._archive.policy.require(client.rights.caller, Action.STORE, what)
        except AccessDeniedError as error:
            client.answer(messages.encode(messages.failed(error)), time.monotonic())
            return
        self._put(client, commit)

    def _renewed(self, key_id: bytes) -> messages.Renewed:
        self._archive.keyring.study(key_id)  # raises if it was taken away
        return messages.Renewed(LEASE_SECONDS)

    def _reply(self, client: Client, answer: Callable[[], messages.Reply]) -> None:
        try:
            reply = answer()
        except CofferError as error:
            reply = messages.failed(error)
        client.answer(messages.encode(reply), time.monotonic())

    def _give(self, client: Client, find: Callable[[], StudyKey]) -> None:
        try:
            key = find()
        except CofferError as error:
            client.answer(messages.encode(messages.failed(error)), time.monotonic())
        else:
            client.rights.give(key.key_id)
            client.answer(messages.encode(messages.Key(key.key_id, LEASE_SECONDS)), time.monotonic(), key.dek)

    def _send_found(self) -> None:
        """Send the parts that searches have found meanwhile."""
        while not self._found.empty():
            client, search, reply = self._found.get()
            if isinstance(search, Identification):
                reply = self._bound(client, search.found)
            if search in (client.search, client.identification):
                self._tend(client, lambda client, reply=reply: self._hand(client, reply))  # type: ignore[misc]

    def _hand(self, client: Client, reply: bytes | None) -> None:
        if reply is None:
            raise LineClosed
        client.answer(reply, time.monotonic())
        self._more[client] = None

    # Commits

    def _put(self, client: Client, commit: Commit) -> None:
        sealed, length = commit.sealed, commit.body_bytes
        if commit.path:
            self._archive.metrics.limited(Limit.MEMORY)
            path = self._archive.folder.spool / commit.path
            body: memoryview | SealedFile = SealedFile(path, length, sealed.body_sha256, self.watched.go_on)
        else:
            shared = client.body(length)
            if not self._batch.has_room(length):
                self._commit()
            with shared:
                body = self._batch.copy(shared)
        client.is_owed = True
        self._batch.parcels.append((client, Parcel(sealed, body)))

    def _part_of(self, sealed: Sealed) -> PartId:
        return self._archive.index.rules.part_of(sealed.entry, sealed.source_ae)

    def _commit(self) -> None:
        """Commit the batch: bodies in memory together, each file alone, because it may differ from its description."""
        batch = self._batch.take()
        together = [pair for pair in batch if not isinstance(pair[1].body, SealedFile)]
        for part in [together, *([pair] for pair in batch if isinstance(pair[1].body, SealedFile))]:
            self._commit_part(part)
        try:
            self._archive.index.follow()  # while the workers receive
        except CofferError as error:
            _log.error(
                "the index lacks a stored object",
                name="index.update_failed",
                cause=str(error),
                remedy=error.hint(),
            )

    def _commit_part(self, part: Sequence[tuple[Client, Parcel]]) -> None:
        if not part:
            return
        try:
            results: Sequence[Committed] = self._committer.commit([parcel for _, parcel in part])
        except CofferError as error:
            if len(part) > 1:  # perhaps only one of them is faulty
                for pair in part:
                    self._commit_part([pair])
                return
            replies = [messages.encode(messages.failed(error))]
        else:
            for client, parcel in part:
                client.rights.stored(self._part_of(parcel.sealed))
            replies = [messages.encode(messages.Done(result)) for result in results]
        for (client, _), reply in zip(part, replies, strict=True):
            self._tend(client, lambda client, reply=reply: self._hand(client, reply))  # type: ignore[misc]
