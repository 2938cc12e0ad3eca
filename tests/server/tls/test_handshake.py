"""What a handshake agrees on, what the access decision learns of the peer, and the reason of each refusal."""

import datetime as dt
import hashlib
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coffer.keys.errors import ConfigError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.tls import handshake
from coffer.server.tls.handshake import Handshake, HandshakeError, shake_hands, wrap
from coffer.server.tls.loaded import LoadedSet, load_set
from coffer.server.tls.peer_certificate import peer_certificate, spki_sha256
from tests.server.tls_site import Pki, client_context


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made.own()
    return made


def meet(loaded: LoadedSet, client: ssl.SSLContext, name: str = "localhost") -> Handshake:
    """The server's side of a handshake with a client that expects `name`."""
    near, far = socket.socketpair()

    def call() -> None:
        far.settimeout(20)
        try:
            with client.wrap_socket(far, server_hostname=name) as tls:
                tls.recv(1)
        except OSError:
            far.close()

    thread = threading.Thread(target=call)
    thread.start()
    tls = wrap(loaded.contexts.dimse, near)
    try:
        return shake_hands(tls, 20, loaded.material)
    finally:
        tls.close()
        thread.join(20)


def test_the_decision_learns_what_the_certificate_states(pki: Pki) -> None:
    issued = pki.authority.issue("ct1", ["ct1.ward", "10.0.0.7"], days=30)
    found = meet(load_set(pki.tls), client_context(pki, pki.write("ct1", issued)))
    certificate = issued.certificate
    assert found.certificate == PeerCertificate(
        "CN=ct1",
        "CN=Test authority",
        ("DNS:ct1.ward", "IP:10.0.0.7"),
        spki_sha256(certificate),
        f"{certificate.serial_number:x}",
        int(certificate.not_valid_after_utc.timestamp()),
        hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
    )
    assert dt.datetime.fromtimestamp(found.certificate.not_after, dt.UTC) == certificate.not_valid_after_utc


def test_the_group_is_told_or_said_to_be_classical_or_unknown(pki: Pki) -> None:
    found = meet(load_set(pki.tls), client_context(pki, pki.peer()))
    if hasattr(ssl.SSLSocket, "group"):
        assert ("MLKEM" in found.group) == (ssl.OPENSSL_VERSION_INFO >= (3, 5))
    else:
        assert found.group == ("unknown" if ssl.OPENSSL_VERSION_INFO >= (3, 5) else "classical")


def reason(pki: Pki, pair: tuple[Path, Path] | None, name: str = "localhost") -> str:
    with pytest.raises(HandshakeError) as caught:
        meet(load_set(pki.tls), client_context(pki, pair), name)
    return caught.value.reason


def test_each_refusal_has_its_reason(pki: Pki, tmp_path: Path) -> None:
    stolen = pki.authority.issue("stolen")
    pki.revoke(stolen)
    assert reason(pki, None) == handshake.NO_CERTIFICATE
    assert reason(pki, pki.write("stolen", stolen)) == handshake.REVOKED
    assert reason(pki, pki.peer("old", days=-1)) == handshake.EXPIRED
    assert reason(pki, Pki(tmp_path / "other").peer()) == handshake.REFUSED
    assert reason(pki, pki.peer(), "elsewhere.example") == handshake.BROKEN  # the client does not believe us


def test_a_list_that_is_out_of_date_lets_nobody_in(pki: Pki) -> None:
    pki.revoke(days=-1)
    assert reason(pki, pki.peer()) == handshake.REFUSED


def test_a_silent_peer_is_too_slow(pki: Pki) -> None:
    loaded, (near, far) = load_set(pki.tls), socket.socketpair()
    tls = wrap(loaded.contexts.dimse, near)
    with far, tls, pytest.raises(HandshakeError) as caught:
        shake_hands(tls, 0.1, loaded.material)
    assert caught.value.reason == handshake.SLOW


def test_a_common_name_is_no_name(pki: Pki) -> None:
    nameless = Pki(pki.folder / "nameless")
    nameless.write("coffer", nameless.authority.issue("localhost"))
    client = load_set(nameless.tls).contexts.named
    with pytest.raises(HandshakeError) as caught:
        meet(load_set(nameless.tls), client)
    assert caught.value.reason == handshake.BROKEN


def test_what_is_no_name_is_refused(pki: Pki) -> None:
    near, far = socket.socketpair()
    with far, pytest.raises(HandshakeError, match="no host name"):
        wrap(load_set(pki.tls).contexts.named, near, ".")


def _rsa(pki: Pki, bits: int) -> None:
    """Coffer's certificate for an RSA key."""
    key = rsa.generate_private_key(65537, bits)
    own = pki.authority.itself
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(own.certificate.subject).issuer_name(own.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(9))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    pem = builder.add_extension(names, critical=False).sign(own.key, hashes.SHA256())
    (pki.folder / "coffer.pem").write_bytes(pem.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.TraditionalOpenSSL
    plain = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (pki.folder / "coffer.key").write_bytes(plain)


def test_an_rsa_key_serves_as_well(pki: Pki) -> None:
    _rsa(pki, 2048)
    client = client_context(pki, pki.peer())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384")
    assert meet(load_set(pki.tls), client).cipher == "ECDHE-RSA-AES256-GCM-SHA384"  # our order counts


def test_an_rsa_key_that_is_too_short_is_refused(pki: Pki) -> None:
    _rsa(pki, 1024)
    with pytest.raises(ConfigError, match="too small") as caught:
        load_set(pki.tls)
    assert "2048" in caught.value.hint()


@pytest.mark.parametrize(
    "names",
    [
        bytes.fromhex("3004a3020500"),  # an x400Address
        bytes.fromhex("30048202ffff"),  # a DNS name that is no text
        b"nonsense",
    ],
)
def test_names_that_cannot_be_decoded_are_a_refusal(pki: Pki, names: bytes) -> None:
    issued = pki.authority.issue("odd")
    builder = x509.CertificateBuilder().subject_name(issued.certificate.subject).public_key(issued.key.public_key())
    builder = builder.issuer_name(issued.certificate.issuer).serial_number(9)
    builder = builder.not_valid_before(issued.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(issued.certificate.not_valid_after_utc)
    odd = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names)
    certificate = builder.add_extension(odd, critical=False).sign(pki.authority.itself.key, hashes.SHA256())
    with pytest.raises(ValueError):  # whatever it says
        peer_certificate(certificate)
