"""Who asks over a line is decided by its connection, not by the worker that speaks for it."""

import pytest

from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.principal import Principal
from coffer.server.identity.admission import Connected
from coffer.server.identity.claim import AssociationClaim
from coffer.server.workers import messages as m
from coffer.server.workers.checks import BrokenRule
from coffer.server.workers.proxy import Line
from coffer.server.workers.rights import Rights
from coffer.server.workers.transport import Wire
from tests.server import hostile_worker
from tests.server.hostile_worker import Site

site = hostile_worker.site
PROVED = PeerCertificate("CN=CT1", "CN=Ward CA", ("DNS:ct1.ward",), "ab" * 32, "1f", 2_000_000_000)


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
