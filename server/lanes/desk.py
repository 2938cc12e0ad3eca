"""The committing process's end of all lines: one thread that takes what the lanes send, commits it in batches, replies.

Rule: whatever takes long (a query, a plan) goes to other threads, so that a commit waits for commits only. Everything
that has come when a batch begins is in it, and shares its sync.
"""

import contextlib
import itertools
import mmap
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import structlog

from archive.log import SealedFile
from index.entry import could_be_extracted
from index.locate import Located
from keys.errors import CofferError
from keys.studykey import StudyKey
from server.commit import Parcel
from server.dimse.services import Observer
from server.engine import Engine
from server.lanes import messages
from server.lanes.messages import Commit, Done, Find, Key, KeyOf, More, Places, Plan, Rows, Stop, StudyKeyFor, Told
from server.lanes.wire import LineClosed, Wire
from server.watched import Watched

_log = structlog.get_logger(__name__)

_FIRST_ROWS: Final = 8  # for whoever looks at a screen
_ROWS: Final = 128
_PLACES: Final = 512
_MOMENT_SECONDS: Final = 0.25  # then the lane gets what was found till then, and may see that nobody waits any more
_QUERY_THREADS: Final = 4
_TOLD: Final = frozenset(name for name in vars(Observer) if not name.startswith("_"))


class _Client:
    """One line and what its association is in the middle of."""

    def __init__(self, sock: socket.socket, ended: Callable[[], None]) -> None:
        self.wire = Wire(sock)
        self.ended = ended
        self.rows: Iterator[bytes | None] = iter(())
        self.places: Iterator[Located] = iter(())
        self.is_plan = False
        self.remark = ""
        self.all_supported = True
        self._map: mmap.mmap | None = None

    def body(self, length: int) -> memoryview:
        """The first bytes of the shared memory, mapped anew when the lane has made a new one."""
        for fd in self.wire.take_fds():
            try:
                self.unmap()
                self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            finally:
                os.close(fd)
        if self._map is None or len(self._map) < length:
            raise LineClosed
        return memoryview(self._map)[:length]

    def unmap(self) -> None:
        if self._map is not None:
            # The traceback of a failed write may still look at it: then it goes when that does.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None


class Desk:
    """Serves lines from `start` to `stop`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._selector = selectors.DefaultSelector()
        self._fresh: SimpleQueue[_Client] = SimpleQueue()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._queries = ThreadPoolExecutor(_QUERY_THREADS, thread_name_prefix="query")
        self._batch: list[tuple[_Client, Parcel]] = []
        self._stopping = threading.Event()
        self.watched = Watched("committing what is received", self._serve, self._stopping)

    def start(self) -> None:
        """Begin to serve."""
        self.watched.start()

    def add(self, ended: Callable[[], None]) -> socket.socket:
        """A new line: returns the lane's end, to be sent to it. `ended` is called once when that end is closed.

        Raises OSError where there are no descriptors for it.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(True)
        self._fresh.put(_Client(ours, ended))
        self._wake()
        return theirs

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # so many wake-ups are waiting that it wakes without this one
            self._waker.send(b"+")

    def stop(self) -> None:
        """Serve no more; lines that are open are closed."""
        self._stopping.set()
        self._wake()
        self.watched.join()
        self._queries.shutdown()
        self._waker.close()

    def _serve(self) -> None:
        # What was in hand when this thread died was never acknowledged: its lines end, so that the senders notice.
        for client, _ in self._batch:
            self._end(client)
        while not self._stopping.is_set():
            batch: list[tuple[_Client, Parcel]] = []
            self._batch = batch
            for key, _ in self._selector.select():
                if key.data is None:
                    self._admit()
                else:
                    self._read(key.data, batch)
            if batch:
                self._commit(batch)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._end(key.data)
        self._selector.close()
        self._woken.close()

    def _admit(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            return
        while not self._fresh.empty():
            client = self._fresh.get()
            try:
                self._selector.register(client.wire.socket, selectors.EVENT_READ, client)
            except OSError:  # the system has no room for one more to watch
                client.wire.close()
                client.ended()

    def _read(self, client: _Client, batch: list[tuple[_Client, Parcel]]) -> None:
        try:
            client.wire.fill()
            while (message := client.wire.next()) is not None:
                self._take(client, messages.decode_request(message), batch)
        except LineClosed:
            self._end(client)
        except Exception:  # noqa: BLE001  # one line must not take the others with it
            _log.exception("a line ended with a fault of ours")
            self._end(client)

    def _end(self, client: _Client) -> None:
        try:
            self._selector.unregister(client.wire.socket)
        except (KeyError, ValueError):
            return  # it has ended already
        client.wire.close()
        client.unmap()
        client.ended()

    def _take(self, client: _Client, request: messages.Request, batch: list[tuple[_Client, Parcel]]) -> None:
        match request:
            case Commit(sealed) if not could_be_extracted(sealed.entry):
                raise LineClosed  # what no data set says must not reach the index: a lane reads bytes of strangers
            case Commit(sealed, length, ""):
                batch.append((client, Parcel(sealed, client.body(length))))
            case Commit(sealed, length, path):
                batch.append((client, Parcel(sealed, SealedFile(Path(path), length, sealed.body_sha256))))
            case StudyKeyFor(part):
                self._reply(client, lambda: _key(self._engine.committer.study_key(part)))
            case KeyOf(key_id):
                self._reply(client, lambda: _key(self._engine.keyring.study(key_id)))
            case Told(what, arguments) if what in _TOLD:
                getattr(self._engine.metrics, what)(*arguments)
            case Stop():
                client.rows, client.places = iter(()), iter(())
            case Find() | Plan() | More():
                self._queries.submit(self._query, client, request)
            case _:
                raise LineClosed

    def _commit(self, batch: list[tuple[_Client, Parcel]]) -> None:
        try:
            results = self._engine.committer.commit([parcel for _, parcel in batch])
        except CofferError as error:
            failure = messages.encode(messages.failed(error))
            replies = [failure] * len(batch)
        else:
            replies = [messages.encode(Done(result)) for result in results]
        for (client, parcel), reply in zip(batch, replies, strict=True):
            if isinstance(parcel.body, memoryview):
                parcel.body.release()
            _send(client, reply)
        try:
            self._engine.index.follow()  # while the lanes receive
        except CofferError as error:
            _log.error("the index lacks an object that is stored", cause=str(error), way_out=error.hint())

    def _reply(self, client: _Client, answer: Callable[[], messages.Reply]) -> None:
        try:
            reply = answer()
        except CofferError as error:
            reply = messages.failed(error)
        _send(client, messages.encode(reply))

    def _query(self, client: _Client, request: Find | Plan | More) -> None:
        try:
            self._reply(client, lambda: self._rows(client, request))
        except Exception:  # noqa: BLE001  # the lane must not wait for ever
            _log.exception("a query ended with a fault of ours")
            client.wire.socket.shutdown(socket.SHUT_RDWR)

    def _rows(self, client: _Client, request: Find | Plan | More) -> Rows | Places:
        room = _ROWS
        match request:
            case Find(identifier, implicit, model, caller):
                room = _FIRST_ROWS
                client.is_plan = False
                matches = self._engine.finder.find(identifier, implicit=implicit, model=model, caller=caller)
                client.rows, client.all_supported = matches.rows, matches.all_supported
            case Plan(identifier, implicit, model, caller):
                client.is_plan = True
                planned = self._engine.retriever.plan(identifier, implicit=implicit, model=model, caller=caller)
                client.places = (replace(instance.located, versions=()) for instance in planned.instances)
                client.remark = planned.remark
        if client.is_plan:
            places = list(itertools.islice(client.places, _PLACES))
            return Places(places, len(places) < _PLACES, client.remark)
        rows, is_last = _some(client.rows, room)
        return Rows(rows, is_last, client.all_supported)


def _some(rows: Iterator[bytes | None], room: int) -> tuple[list[bytes], bool]:
    """The next rows, up to `room` and what is found in a moment, and whether they are the last."""
    found: list[bytes] = []
    deadline = time.monotonic() + _MOMENT_SECONDS
    for row in rows:
        if row is not None:
            found.append(row)
        if len(found) >= room or time.monotonic() > deadline:
            return found, False
    return found, True


def _key(key: StudyKey) -> Key:
    return Key(key.key_id, key.dek.reveal())


def _send(client: _Client, reply: bytes) -> None:
    try:
        client.wire.send(reply)
    except LineClosed:
        return
