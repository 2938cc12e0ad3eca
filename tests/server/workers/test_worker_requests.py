"""What a worker process that was taken over asks for costs its own line, and gives no key that it has no right to.

Each test plays such a process on a real line of the committing process, beside an honest one. Afterwards the archive
is verified and opened again for writing.
"""

import contextlib
import math
import os
from pathlib import Path

import msgspec
import pytest

from coffer.index.dicom.identifier import encode_identifier
from coffer.index.instance.identity import PartId
from coffer.keys.errors import CofferError
from coffer.server.access.principal import Principal, PrincipalKind
from coffer.server.identity import withdrawal
from coffer.server.identity.claim import AssociationClaim
from coffer.server.workers import checks, client, coordinator, rights
from coffer.server.workers import messages as m
from coffer.server.workers.transport import LineClosed
from tests.server import hostile_worker
from tests.server.hostile_worker import HONEST, Site, Worker
from tests.server.tls_site import until

site = hostile_worker.site
evil = hostile_worker.evil


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage that is no message",
        m.encode(m.Setup(b"", b"", b"", b"", 1)),
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


def reached(site: Site, limit: str) -> float:
    """How often a limit was counted."""
    return site.engine.metrics.registry.get_sample_value("coffer_limits_reached_total", {"limit": limit}) or 0


def find(identifier: bytes = IDENTIFIER, model: str = "study") -> m.Find:
    return m.Find(identifier, True, model)


def claim(calling: str = "TEST", called: str = "COFFER") -> m.Identify:
    return m.Identify(AssociationClaim(calling, called))


@pytest.mark.parametrize(
    "request_",
    [
        m.KeyOf(bytes(16)),
        m.KeyOf(b""),
        m.Renew(bytes(16)),
        m.Renew(b""),
        m.More(),
        find(bytes(2 << 20)),
        claim(),  # a second time
        claim("A" * 17),
        claim(called="A" * 17),
        find(model="worklist"),
        m.Plan(IDENTIFIER, True, "study", "A" * 17),
        m.StudyKeyFor(PartId("1" * 1025)),
        m.Rejected("a patient's name"),
        m.Aborted("a patient's name"),
        m.Limited("memory"),
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


@pytest.mark.parametrize(
    "request_", [find(), m.Plan(IDENTIFIER, True, "study"), m.StudyKeyFor(PartId(HONEST)), m.More()]
)
def test_nothing_is_answered_before_somebody_was_let_in(site: Site, request_: m.Request) -> None:
    silent = Worker(site, calling="")
    silent.send(request_)
    assert silent.is_ended()
    site.check()


def test_an_association_has_one_caller_and_begins_once(site: Site, evil: Worker) -> None:
    evil.hook = lambda sealed, body: evil.send(
        m.Commit(msgspec.structs.replace(sealed, source_ae="OTHER"), len(body), "")
    )
    assert evil.store("1.2.9.7", 1) != 0
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
    places = evil.line.ask(m.Plan(IDENTIFIER, True, "study"), m.Places).places
    assert places
    assert evil.line.ask(m.KeyOf(places[0].study_key_id), m.Key).key_id == places[0].study_key_id
    other = Worker(site)
    other.send(m.KeyOf(places[0].study_key_id))
    assert other.is_ended()
    nothing = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: ("1.2.4.5",)}, (), implicit=True)
    assert not evil.line.ask(m.Plan(nothing, True, "study"), m.Places).places
    evil.send(m.KeyOf(places[0].study_key_id))  # of an earlier plan
    assert evil.is_ended()


def test_who_asks_for_the_keys_of_many_studies_must_store_in_them(site: Site, evil: Worker) -> None:
    before = reached(site, "worker-rule")
    for number in range(rights._MOST_UNUSED):
        evil.study_key(PartId(f"1.2.5.{number}"))
    with pytest.raises(CofferError):
        evil.study_key(PartId("1.2.5.999"))
    assert evil.is_ended()
    assert reached(site, "worker-rule") == before + 1
    site.check()


def test_answers_that_are_not_taken_hold_nobody_up(site: Site, evil: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    before = reached(site, "worker-answer")
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
    assert reached(site, "worker-answer") == before + 1
    site.check()


def test_an_association_that_has_to_end_does_whatever_its_worker_does(
    site: Site, evil: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = reached(site, "worker-rule")
    told: list[str] = []
    line = next(each for each in site.desk._clients if each.ended == evil.over.set)
    line.withdraw = lambda: told.append("now")
    line.rights.bind(Principal(PrincipalKind.PEER, "TEST", "TEST", user="anna", until=1))
    until(lambda: bool(told))
    site.check()
    assert not evil.over.is_set()
    monkeypatch.setattr(withdrawal, "_MOST_SECONDS", 0.0)
    assert evil.over.wait(20)
    assert reached(site, "worker-rule") == before + 1
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
    before = reached(site, "worker-rule")
    reader, writer = os.pipe()
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        evil.send(m.Stop(), fds=(reader,) * 4)
    evil.line.ask(find(), m.Rows)  # all before it was dealt with
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    with contextlib.suppress(LineClosed):
        for _ in range(client._MOST_STRAYS):
            evil.send(m.Stop(), fds=(reader,))
    assert evil.over.wait(20)
    assert reached(site, "worker-rule") == before + 1
    os.close(reader)
    os.close(writer)
    site.check()
