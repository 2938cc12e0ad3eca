"""The suites of TLS that both doors accept, listed by a scan with OpenSSL's client, for an EC and an RSA certificate.

The scan offers everything that this OpenSSL has, takes away what was agreed on, and offers the rest, until nothing is.
"""

import datetime as dt
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coffer.server.config.settings import Config
from coffer.server.tls.contexts import TLS12_SUITES
from tests.conftest import absent
from tests.server.tls_site import Pki, config_of, serving

TLS13 = {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}  # RFC 9325 4.2, B.12
TLS13_ALL = [*sorted(TLS13), "TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"]  # RFC 8446 B.4
AGREED = re.compile(r"New, (TLSv[\d.]+), Cipher is (\S+)")


class Site:
    """A running server with a certificate of one kind of key."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.pki = kind, Pki(folder / "pki")
        if kind == "RSA":
            _own_with_rsa(self.pki)
        else:
            self.pki.own()
        self.pair = self.pki.peer()
        self.config: Config = config_of(self.pki, folder)

    def agreed(self, door: str, *options: str) -> tuple[str, str] | None:
        """The version and the suite that a door agrees on with a client of these options; None if on nothing."""
        port = self.config.dimse.tls_port if door == "DIMSE" else self.config.http.tls_port
        identity = ["-cert", str(self.pair[0]), "-key", str(self.pair[1]), "-CAfile", str(self.pki.ca)]
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"localhost:{port}", *identity, *options],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        found = AGREED.search(done.stdout)
        return (found[1], found[2]) if found else None


def _own_with_rsa(pki: Pki) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now, authority = dt.datetime.now(dt.UTC), pki.authority.itself
    builder = x509.CertificateBuilder(
        authority.certificate.subject,
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "coffer")]),
        key.public_key(),
        x509.random_serial_number(),
        now - dt.timedelta(hours=1),
        now + dt.timedelta(days=30),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = builder.sign(authority.key, hashes.SHA256())
    (pki.folder / "coffer.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    file = pki.folder / "coffer.key"
    file.touch(0o600)
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))


@pytest.fixture(scope="module", params=["EC", "RSA"])
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Site]:
    if shutil.which("openssl") is None:
        absent("openssl is not installed: apt install openssl")
    made = Site(tmp_path_factory.mktemp("site"), request.param)
    with serving(made.config):
        yield made


def offered() -> list[str]:
    """Every suite up to TLS 1.2 that the client has, those without encryption or authentication included."""
    command = ["openssl", "ciphers", "-s", "-tls1_2", "ALL:eNULL:@SECLEVEL=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(":")


@pytest.mark.parametrize("door", ["DIMSE", "HTTP"])
def test_suites_of_tls_1_2(site: Site, door: str) -> None:
    left, accepted = offered(), set()
    assert len(left) > 60
    assert {"NULL-SHA256", "AES128-SHA", "ECDHE-RSA-AES128-SHA256", "ADH-AES256-SHA256"} < set(left)
    while (found := site.agreed(door, "-tls1_2", "-cipher", ":".join(left) + ":@SECLEVEL=0")) is not None:
        version, suite = found
        assert version == "TLSv1.2"
        accepted.add(suite)
        left.remove(suite)
    word = "-ECDSA-" if site.kind == "EC" else "-RSA-"
    assert accepted == {each for each in TLS12_SUITES if word in each}
    assert all(re.search(r"^ECDHE-\w+-(AES\d+-GCM|CHACHA20-POLY1305)", each) for each in accepted)


@pytest.mark.parametrize("door", ["DIMSE", "HTTP"])
def test_suites_of_tls_1_3(site: Site, door: str) -> None:
    accepted = {each for each in TLS13_ALL if site.agreed(door, "-tls1_3", "-ciphersuites", each) == ("TLSv1.3", each)}
    assert accepted == TLS13


@pytest.mark.parametrize("door", ["DIMSE", "HTTP"])
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_no_older_version(site: Site, door: str, version: str) -> None:
    assert site.agreed(door, version, "-cipher", "ALL:eNULL:@SECLEVEL=0") is None
    assert site.agreed(door) is not None
