"""What a worker process that was taken over commits costs its own line, and neither the log nor another's store.

Each test plays such a process on a real line of the committing process, beside an honest one. Afterwards the archive
is verified and opened again for writing.
"""

import dataclasses
import fcntl
import hashlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from coffer.archive.verify.verify import Verifier
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.server.access.principal import Principal
from coffer.server.engine.commit import Sealed
from coffer.server.services.api import StoreRequest
from coffer.server.services.store import Ingest
from coffer.server.workers import checks
from coffer.server.workers import messages as m
from tests.server import hostile_worker
from tests.server.hostile_worker import EVIL, HONEST, Site, Worker
from tests.server.odd_objects import healthy_objects, odd_objects

site = hostile_worker.site
evil = hostile_worker.evil


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
    changed(previous=bytes(16)),
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
            before = (number - 1).to_bytes(32, "big") if number else b""
            lie = msgspec.structs.replace(sealed, content_id=number.to_bytes(32, "big"), previous=before)
            evil.send(m.Commit(lie, 100_000, ""), fds=() if number or fd is None else (fd,))
            done = m.decode_reply(evil.wire.receive())
            assert isinstance(done, m.Done)
            assert not done.committed.stale
            sent.append(number)

    evil.instead("1.2.8", commit)
    stop.set()
    scribbler.join()
    view.release()
    assert not list(Verifier(site.engine.folder).findings())
    site.stored += len(sent)  # of one instance, every version counted
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
