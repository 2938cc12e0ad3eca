"""A worker process that was taken over costs its own line and nothing else: not the log, not another's store.

Each test plays such a process on a real line of the committing process, beside an honest one. Afterwards the archive
is verified and opened again for writing.
"""

import contextlib
import copy
import dataclasses
import fcntl
import hashlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coffer.archive.body.sealed_body import own_memory
from coffer.archive.format.entry import SealedFile
from coffer.archive.verify.verify import Verifier
from coffer.index.dicom.identifier import encode_identifier
from coffer.index.instance.identity import PartId
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import CofferError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Dimse, Http, Keys
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from coffer.server.services.store import Ingest
from coffer.server.workers import checks, client, coordinator, rights
from coffer.server.workers import messages as m
from coffer.server.workers.coordinator import Coordinator
from coffer.server.workers.proxy import Line
from coffer.server.workers.transport import LineClosed, Wire
from tests.server.filled import status
from tests.server.odd_objects import healthy_objects, odd_objects
from tests.services import services

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
HONEST, EVIL = "1.2.3", "1.2.9"
SAMPLE = sample_study()[0]


class Site:
    """An archive with its committing thread, and what has happened to lines."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(
            archive=folder / "archive",
            dimse=Dimse(query_cpu_seconds=5.0),
            http=Http(enabled=False),
            keys=Keys(key_file=folder / "key"),
        )
        create_archive(self.config)
        self.engine = open_writer(self.config)
        self.desk = Coordinator(services(self.engine))
        self.desk.start()
        self.honest = Worker(self)
        assert self.honest.store(HONEST, 1) == 0
        self.stored = 1

    def check(self) -> None:
        """Somebody else's object is stored as ever, and nothing but that came into the archive."""
        self.stored += 1
        assert self.honest.store(HONEST, self.stored) == 0
        assert self.engine.stats().objects == self.stored


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.desk.stop()
    made.engine.close()
    with open_writer(made.config) as engine:
        assert engine.stats().objects == made.stored
        assert not list(Verifier(engine.folder).findings())


class Worker:
    """The other end of a line: honest as `server.workers.proxy`, or with `hook` in the place of its commit."""

    def __init__(self, site: Site) -> None:
        self.over = threading.Event()
        self.said = ""
        self.site = site
        self.wire = Wire(site.desk.add(self.over.set, "192.0.2.7"))
        self.wire.socket.settimeout(20)
        self.line = Line(self.wire)
        self.hook: Callable[[Sealed, memoryview], None] | None = None

    def study_key(self, part: PartId) -> StudyKey:
        reply = self.line.ask(m.StudyKeyFor(part), m.Key)
        return StudyKey(reply.key_id, Secret(reply.dek))

    def memory(self, length: int) -> memoryview:
        return self.line.memory(length) if self.hook is None else own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        if self.hook is None:
            return self.line.commit(sealed, body)
        assert isinstance(body, memoryview)
        self.hook(sealed, body)
        raise UnavailableError("not stored")

    def store(self, study: str, number: int) -> int:
        ds = copy.deepcopy(SAMPLE)  # threads store too
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
        ds.SOPInstanceUID = f"{study}.1.{number}"
        request = StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TEST"))
        reception = Ingest(self.site.engine.intake, self, self.site.engine.policy, self.site.engine.index.rules).begin(
            request
        )
        reception.write(encoded(ds))
        outcome = reception.finish()
        self.said = str(outcome.error)
        return status(outcome)

    def instead(self, study: str, hook: Callable[[Sealed, memoryview], None]) -> None:
        """Receive an object and do something else when it should be committed."""
        self.hook = hook
        assert self.store(study, 1) != 0

    def send(self, *requests: m.Request, fds: tuple[int, ...] = ()) -> None:
        for request in requests:
            self.wire.send(m.encode(request), fds)

    def is_ended(self) -> bool:
        """Whether the line is closed by the other end, whatever it answered before."""
        with contextlib.suppress(LineClosed):
            while True:
                self.wire.receive()
        return self.over.wait(20)


@pytest.fixture
def evil(site: Site) -> Iterator[Worker]:
    worker = Worker(site)
    yield worker
    worker.line.close()


def memfd(data: bytes, seals: int | None = None) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if seals is not None:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def sealed_memory(data: bytes) -> int:
    return memfd(data, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


def changed(**fields: Any) -> Callable[[Sealed], Sealed]:
    return lambda sealed: msgspec.structs.replace(sealed, **fields)


def with_entry(**fields: Any) -> Callable[[Sealed], Sealed]:
    return lambda sealed: msgspec.structs.replace(sealed, entry=dataclasses.replace(sealed.entry, **fields))


LIES: list[Callable[[Sealed], Sealed]] = [
    changed(data_bytes=-1),
    changed(data_bytes=1 << 62),
    changed(key_id=b"short"),
    changed(content_id=bytes(33)),
    changed(body_sha256=bytes(32)),
    changed(body_sha256=bytes(3)),
    changed(flags=2),
    changed(flags=-1),
    changed(received_ms=0),  # a retention that counts from the day of receipt would be over
    changed(received_ms=-1),
    changed(received_ms=1 << 62),
    changed(started=math.nan),
    changed(started=math.inf),
    changed(started=-1.0),
    changed(source_ae="A" * 17),
    changed(transfer_syntax="1" * 5000),
    changed(transfer_syntax="1.2\r\n"),
    with_entry(study_uid=HONEST + ".7"),  # its key was never asked for
    with_entry(study_uid="1" * 5000),
    with_entry(sop_instance="1" * 100_000),
    with_entry(image={0x00100010: ("A",)}),  # of another level
    with_entry(series={0x7FE00010: ("A",)}),
    with_entry(study={0x00100010: ()}),
    with_entry(study={-1: ("A",)}),
    with_entry(study={0x00100010: ({0x00100010: ("A",)},)}),  # an item for a name, and text for a sequence
    with_entry(study={0x00081032: ("A",)}),
    with_entry(study={0x00100010: ("A",) * 1000}),
    with_entry(study={0x00081032: ({0x00080100: ("A",)},) * 1000}),
    with_entry(study={0x00100010: ("A" * 100_000,)}),
    with_entry(problem="1" * 1000),
]


@pytest.mark.parametrize("lie", LIES)
def test_what_is_said_of_an_object_is_checked_before_the_log_is_touched(
    site: Site, evil: Worker, lie: Callable[[Sealed], Sealed]
) -> None:
    def commit(sealed: Sealed, body: memoryview) -> None:
        evil.send(m.Commit(lie(sealed), len(body), ""), fds=(sealed_memory(bytes(body)),))
        assert evil.is_ended()

    evil.instead(EVIL, commit)
    site.check()


def test_no_object_however_odd_makes_an_honest_worker_break_a_rule(site: Site, evil: Worker) -> None:
    count = 0

    def check(sealed: Sealed, body: memoryview) -> None:
        nonlocal count
        count += 1
        now = checks.Now(sealed.received_ms, time.monotonic())
        checks.require_sound(m.Commit(sealed, len(body), ""), site.config.limits, now)

    evil.hook = check
    evil.study_key = lambda _: key  # type: ignore[method-assign]
    key = StudyKey(bytes(16), Secret(bytes(32)))
    for odd in [*odd_objects(), *odd_objects(named=True), *healthy_objects()]:
        request = StoreRequest(odd.sop_class, odd.sop_instance, odd.transfer_syntax, Principal.peer("TEST"))
        reception = Ingest(site.engine.intake, evil, site.engine.policy, site.engine.index.rules).begin(request)
        reception.write(odd.data)
        reception.finish()
    assert count > 100


@pytest.mark.parametrize("length", [-5, -1, 0, 1 << 40, 1 << 63, 2_000_000])
@pytest.mark.parametrize("path", ["", "00" * 8 + ".sealed"])
def test_a_body_of_an_impossible_size_is_not_stored(site: Site, evil: Worker, length: int, path: str) -> None:
    def commit(sealed: Sealed, body: memoryview) -> None:
        if path:
            sealed = msgspec.structs.replace(sealed, body_sha256=bytes(32))
        evil.send(m.Commit(sealed, length, path), fds=(sealed_memory(bytes(body)),))
        if length == 2_000_000 and path:  # possible, but there is no such file
            assert isinstance(m.decode_reply(evil.wire.receive()), m.Failed)
        else:
            assert evil.is_ended()

    evil.instead(EVIL, commit)
    site.check()


@pytest.mark.parametrize("path", ["/etc/passwd", "../archive.json", ".", "LOCK", "0" * 15 + ".sealed", "a" * 16])
def test_only_names_of_the_spool_are_taken(site: Site, evil: Worker, path: str) -> None:
    def commit(sealed: Sealed, body: memoryview) -> None:
        evil.send(m.Commit(msgspec.structs.replace(sealed, body_sha256=bytes(32)), len(body), path))
        assert evil.is_ended()

    evil.instead(EVIL, commit)
    site.check()


@pytest.mark.parametrize("kind", ["nothing", "pipe", "link", "second name", "folder", "shorter", "longer", "other"])
def test_a_file_that_is_not_what_was_said_is_refused_and_the_line_lives(site: Site, evil: Worker, kind: str) -> None:
    spool = site.engine.folder.spool
    path, aside = spool / f"{os.urandom(8).hex()}.sealed", site.config.archive.parent / f"aside-{kind}"

    def commit(sealed: Sealed, body: memoryview) -> None:
        aside.write_bytes(body)
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "link":
                path.symlink_to(aside)
            case "second name":
                path.hardlink_to(aside)
            case "folder":
                path.mkdir()
            case "shorter":
                path.write_bytes(body[:-1])
            case "longer":
                path.write_bytes(bytes(body) + b"x")
            case "other":  # what is copied must have the hash that the header of its record has by then
                path.write_bytes(bytes(body)[:-1] + bytes([body[-1] ^ 1]))
        digest = hashlib.sha256(body).digest()
        evil.send(m.Commit(msgspec.structs.replace(sealed, body_sha256=digest), len(body), path.name))
        reply = m.decode_reply(evil.wire.receive())
        assert isinstance(reply, m.Failed)
        assert "sealed body" in reply.message
        if kind == "folder":
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    evil.instead(EVIL, commit)
    evil.hook = None
    site.check()
    assert evil.store(HONEST, site.stored + 1) == 0
    site.stored += 1


def _other_memory(kind: str, body: bytes) -> tuple[int, ...]:
    match kind:
        case "none":
            return ()
        case "pipe":
            return os.pipe()[:1]
        case "socket":
            return (socket.socketpair()[0].detach(),)
        case "a file":
            return (os.open(__file__, os.O_RDONLY),)
        case "not sealed":
            return (memfd(body),)
        case "shrunk":
            fd = memfd(body)
            os.ftruncate(fd, 10)
            return (fd,)
        case "too small":
            return (sealed_memory(body[:-1]),)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["none", "pipe", "socket", "a file", "not sealed", "shrunk", "too small"])
def test_memory_that_may_shrink_is_not_read(site: Site, evil: Worker, kind: str) -> None:
    def commit(sealed: Sealed, body: memoryview) -> None:
        fds = _other_memory(kind, bytes(body))
        evil.send(m.Commit(sealed, len(body), ""), fds=fds)
        assert evil.is_ended()
        for fd in fds:
            os.close(fd)

    evil.instead(EVIL, commit)
    site.check()


def test_what_is_hashed_is_what_is_written_however_the_memory_changes(site: Site, evil: Worker) -> None:
    stop = threading.Event()
    view = evil.line.memory(100_000)

    def scribble() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            view[64:90_000] = bytes([number % 256]) * (90_000 - 64)

    scribbler = threading.Thread(target=scribble)
    scribbler.start()
    sent: list[int] = []

    def commit(sealed: Sealed, body: memoryview) -> None:
        fd = evil.line._memory.take_unsent()
        for number in range(40):
            lie = msgspec.structs.replace(sealed, content_id=number.to_bytes(32, "big"))
            evil.send(m.Commit(lie, 100_000, ""), fds=() if number or fd is None else (fd,))
            assert isinstance(m.decode_reply(evil.wire.receive()), m.Done)
            sent.append(number)

    evil.instead("1.2.8", commit)
    stop.set()
    scribbler.join()
    view.release()
    assert not list(Verifier(site.engine.folder).findings())
    site.stored += len(sent)  # of one instance, every version counted
    site.check()


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage that is no message",
        m.encode(m.Setup(b"", b"", b"", 1)),
        b"\x94\xa8Answered" + b"\xff" * 40,
        m.encode(["Stored", 0, 1, 1.0]),  # a method of the metrics that is not the workers'
        m.encode(["Render"]),
        m.encode(["ObserverCall"]),
        m.encode(["Rejected"]),
        m.encode(["Answered", 0, "find", 1.0]),
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"",
    ],
)
def test_what_is_no_request_ends_the_line(site: Site, evil: Worker, raw: bytes) -> None:
    evil.wire.send(raw)
    assert evil.is_ended()
    site.check()


def test_a_message_that_is_too_long_is_not_gathered(site: Site, evil: Worker) -> None:
    evil.wire.socket.sendall((checks.MAX_REQUEST_BYTES + 1).to_bytes(4, "big"))
    assert evil.is_ended()
    site.check()


def test_half_a_message_holds_nobody_up(site: Site, evil: Worker) -> None:
    evil.wire.socket.sendall(b"\x00\x01\x00\x00half")
    site.check()


IDENTIFIER = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: (HONEST,)}, (), implicit=True)


def find(identifier: bytes = IDENTIFIER, calling: str = "TEST", model: str = "study") -> m.Find:
    return m.Find(identifier, True, model, Principal.peer(calling))


@pytest.mark.parametrize(
    "request_",
    [
        m.KeyOf(bytes(16)),
        m.KeyOf(b""),
        m.More(),
        find(bytes(2 << 20)),
        find(calling="A" * 17),
        find(model="worklist"),
        m.Find(IDENTIFIER, True, "study", Principal.person("root", "root", "TEST")),
        m.StudyKeyFor(PartId("1" * 1025)),
        m.Rejected("a patient's name"),
        m.Answered("find", -1, 1.0),
        m.Answered("find", 1 << 16, 1.0),
        m.Answered("find", 0, math.nan),
        m.Answered("find", 0, math.inf),
        m.Answered("find", 0, -1.0),
        m.Answered("another patient's name", 0, 1.0),
        m.Answered("\n", 0, 1.0),
        m.Sent("get", -1, 0),
        m.Sent("get", 1, 1 << 60),
        m.AssociationClosed(),
    ],
)
def test_a_request_that_no_honest_worker_makes_ends_the_line(site: Site, evil: Worker, request_: m.Request) -> None:
    with contextlib.suppress(LineClosed):  # a long one is not even taken whole
        evil.send(request_)
    assert evil.is_ended()
    site.check()


def test_an_association_has_one_caller_and_begins_once(site: Site, evil: Worker) -> None:
    assert evil.line.ask(find(), m.Rows).is_last
    evil.send(find(calling="OTHER"))
    assert evil.is_ended()
    other = Worker(site)
    other.send(m.AssociationOpened(), m.AssociationOpened())
    assert other.is_ended()
    site.check()


def test_a_line_that_ends_counts_its_association_as_ended(site: Site, evil: Worker) -> None:
    evil.send(m.AssociationOpened())
    assert evil.line.ask(find(), m.Rows).rows
    assert "coffer_open_associations 1.0" in site.engine.metrics.render().decode()
    evil.line.close()
    assert evil.over.wait(20)
    assert "coffer_open_associations 0.0" in site.engine.metrics.render().decode()


def test_a_key_is_shown_for_what_a_plan_of_the_same_line_returned(site: Site, evil: Worker) -> None:
    places = evil.line.ask(m.Plan(IDENTIFIER, True, "study", Principal.peer("TEST")), m.Places).places
    assert places
    assert evil.line.ask(m.KeyOf(places[0].study_key_id), m.Key).key_id == places[0].study_key_id
    other = Worker(site)
    other.send(m.KeyOf(places[0].study_key_id))
    assert other.is_ended()
    nothing = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: ("1.2.4.5",)}, (), implicit=True)
    assert not evil.line.ask(m.Plan(nothing, True, "study", Principal.peer("TEST")), m.Places).places
    evil.send(m.KeyOf(places[0].study_key_id))  # of an earlier plan
    assert evil.is_ended()


def test_who_asks_for_the_keys_of_many_studies_must_store_in_them(site: Site, evil: Worker) -> None:
    for number in range(rights._MOST_UNUSED):
        evil.study_key(PartId(f"1.2.5.{number}"))
    with pytest.raises(CofferError):
        evil.study_key(PartId("1.2.5.999"))
    assert evil.is_ended()
    site.check()


def test_answers_that_are_not_taken_hold_nobody_up(site: Site, evil: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    message = m.encode(m.StudyKeyFor(PartId(HONEST)))
    pack = len(message).to_bytes(4, "big") + message
    evil.wire.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            evil.wire.socket.send(pack * 50)
    site.check()
    assert not evil.over.is_set()
    monkeypatch.setattr(coordinator, "_STUCK_SECONDS", 0.0)
    assert evil.over.wait(20)
    site.check()


def test_a_flood_of_what_has_no_answer_ends_the_line(site: Site, evil: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "_CALLS_A_SECOND", 0.0)
    message = m.encode(m.Answered("echo", 0, 0.001))
    pack = len(message).to_bytes(4, "big") + message
    with contextlib.suppress(OSError):
        evil.wire.socket.sendall(pack * (rights._MOST_CALLS + 2))
    assert evil.over.wait(20)
    site.check()


def test_descriptors_do_not_pile_up(site: Site, evil: Worker) -> None:
    reader, writer = os.pipe()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        evil.send(m.Stop(), fds=(reader,) * 4)
    evil.line.ask(find(), m.Rows)  # all before it was dealt with
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with contextlib.suppress(LineClosed):
        for _ in range(client._MOST_STRAYS):
            evil.send(m.Stop(), fds=(reader,))
    assert evil.over.wait(20)
    os.close(reader)
    os.close(writer)
    site.check()


def test_a_fault_of_one_object_is_told_to_its_sender_only(
    site: Site, evil: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = type(site.engine.index).newest_of

    def damaged(self: Any, study: str, series: str, instance: str) -> Any:
        if study == EVIL:
            raise UnavailableError("a row of this study is damaged")
        return known(self, study, series, instance)

    monkeypatch.setattr(type(site.engine.index), "newest_of", damaged)
    held, statuses = threading.Event(), []
    follow = type(site.engine.index).follow
    monkeypatch.setattr(type(site.engine.index), "follow", lambda self: (held.wait(20), follow(self))[1])
    site.stored += 1
    workers = ((site.honest, HONEST, site.stored), (evil, EVIL, 1))
    threads = [
        threading.Thread(target=lambda each=each: statuses.append((each[1], each[0].store(*each[1:]))))
        for each in workers
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # so that both stand in one batch; the outcome is the same where they do not
    held.set()
    for thread in threads:
        thread.join()
    assert dict(statuses) == {HONEST: 0, EVIL: 0xA700}, (site.honest.said, evil.said)
