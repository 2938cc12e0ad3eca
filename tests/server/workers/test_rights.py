"""Who asks over a line is decided by its connection, not by the worker that speaks for it."""

import pytest

from coffer.index.dicom.identifier import encode_identifier
from coffer.index.instance.identity import PartId
from coffer.keys.errors import AccessDeniedError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal
from coffer.server.access.roles import Role
from coffer.server.access.rules import AccessRules
from coffer.server.access.users import Directory, User
from coffer.server.access.users_file import StoredUsers
from coffer.server.engine.commit import Sealed
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.claim import AssociationClaim, Refusal
from coffer.server.workers import messages as m
from coffer.server.workers.checks import BrokenRule
from coffer.server.workers.proxy import Line
from coffer.server.workers.rights import Rights
from coffer.server.workers.transport import Wire
from tests.server import hostile_worker
from tests.server.hostile_worker import HONEST, Site, Worker

site = hostile_worker.site
STUDY = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: (HONEST,), 0x00104000: ()}, (), implicit=True)
PROVED = PeerCertificate("CN=CT1", "CN=Ward CA", ("DNS:ct1.ward",), "ab" * 32, "1f", 2_000_000_000, "ef" * 32)


def test_nobody_asks_before_somebody_was_let_in_and_nobody_says_twice_who_calls() -> None:
    rights = Rights()
    with pytest.raises(BrokenRule, match="before anybody was let in"):
        _ = rights.caller
    rights.claim()
    with pytest.raises(BrokenRule, match="a second time"):
        rights.claim()
    rights.bind(Principal.peer("CT1"))
    rights.require_same("CT1")
    with pytest.raises(BrokenRule, match="changed its AE titles"):
        rights.require_same("CT2")


def test_address_and_certificate_are_those_of_the_connection(site: Site) -> None:
    line = Line(Wire(site.desk.add(lambda: None, Connected("10.0.0.1", PROVED, True))))
    found = line.ask(m.Identify(AssociationClaim("CT1", "COFFER")), m.Identified).found
    assert found is not None
    assert (found.host, found.certificate, found.ae_title) == ("10.0.0.1", PROVED, "CT1")
    line.close()


def test_a_worker_that_was_taken_over_gets_what_its_caller_may_and_no_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk = User(
        name="clerk", roles=frozenset({Role.CLERK}), ae_titles=frozenset({"TEST"}), addresses=frozenset({"192.0.2.7"})
    )
    users = Directory((clerk,))
    policy = Policy(AccessRules({"TEST"}, False, 1, users))
    honest = Worker(site)
    part = PartId(HONEST)
    honest.study_key(part)
    monkeypatch.setattr(site.desk, "_admission", Admission(StoredUsers(users), policy))
    monkeypatch.setattr(site.engine, "policy", policy)

    stranger = Worker(site, calling="")
    refused = stranger.line.ask(m.Identify(AssociationClaim("OTHER", "COFFER")), m.Identified)
    assert (refused.found, refused.refusal) == (None, Refusal.IDENTITY)
    stranger.send(m.Find(b"", True, "study"))
    assert stranger.is_ended()

    evil = Worker(site)
    with pytest.raises(AccessDeniedError, match="does not permit store"):
        evil.study_key(part)
    with pytest.raises(AccessDeniedError, match="does not permit retrieve"):
        evil.line.ask(m.Plan(STUDY, True, "study"), m.Places)
    with pytest.raises(AccessDeniedError, match="does not permit retrieve"):
        evil.line.ask(m.Plan(STUDY, True, "study", "TEST"), m.Places)
    rows = evil.line.ask(m.Find(STUDY, True, "study"), m.Rows).rows
    assert rows
    assert all(b"\x10\x00\x00\x40\x00\x00\x00\x00" in row for row in rows)  # Patient Comments: asked for, and empty
    evil.line.close()
    honest.line.close()


def test_what_was_sealed_before_is_not_committed_for_one_who_may_not_store(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(site)

    def commit_as_clerk(sealed: Sealed, body: memoryview) -> None:
        clerk = User(name="clerk", roles=frozenset({Role.CLERK}), ae_titles=frozenset({"TEST"}))
        policy = Policy(AccessRules({"TEST"}, False, 1, Directory((clerk,))))
        monkeypatch.setattr(site.engine, "policy", policy)
        worker.line.memory(len(body))[:] = body
        with pytest.raises(AccessDeniedError, match="no user of this archive"):
            worker.line.commit(sealed, worker.line.memory(len(body)))

    worker.instead("1.2.9.8", commit_as_clerk)
    monkeypatch.undo()
    worker.line.close()
    site.check()
