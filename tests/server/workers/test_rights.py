"""Who asks over a line is decided by its connection, not by the worker that speaks for it."""

from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.principal import Principal
from coffer.server.workers.rights import Rights

PROVED = PeerCertificate("CN=CT1", "CN=Ward CA", ("DNS:ct1.ward",), "ab" * 32, "1f", 2_000_000_000)
CLAIMED = PeerCertificate("CN=ADMIN", "CN=Ward CA", (), "cd" * 32, "2f", 2_000_000_000)


def test_a_worker_cannot_claim_another_certificate_or_address() -> None:
    stated = Principal.peer("CT1", "COFFER", "10.0.0.9", CLAIMED)
    caller = Rights("10.0.0.1", PROVED).caller(stated)
    assert (caller.host, caller.certificate) == ("10.0.0.1", PROVED)
    assert caller.ae_title == "CT1"


def test_a_connection_without_tls_has_no_certificate_whatever_its_worker_states() -> None:
    assert Rights("10.0.0.1").caller(Principal.peer("CT1", certificate=CLAIMED)).certificate is None
