"""A certificate authority for a first try, and the certificates that it issues (RFC 5280).

Rule: for tests and trials. A hospital has an authority of its own, whose key is not on this host; what is made here is
good for two years and says in its name what it is. Nothing is overwritten.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coffer.keys.disk import durable
from coffer.keys.errors import ConfigError

__all__ = ["Authority", "Issued", "write_pem"]

_DAYS: Final = 730
_HOUR: Final = dt.timedelta(hours=1)  # clocks of peers may be behind


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key in PEM (PKCS#8), without a passphrase."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class Authority:
    """An authority in memory, with an EC key on P-256."""

    def __init__(self, name: str, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._now = now
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        builder = self._builder(subject, subject, key, _DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        self.itself = Issued(builder.sign(key, hashes.SHA256()), key)

    def issue(self, name: str, hosts: Sequence[str] = (), *, days: float = _DAYS) -> Issued:
        """A certificate for both roles in TLS: its common name, and the host names and addresses that it states.
        `days` from now it expires; less than 0: it has expired."""
        key, own = ec.generate_private_key(ec.SECP256R1()), self.itself
        builder = self._builder(_name(name), own.certificate.subject, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        roles = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(roles), critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False
            )
        return Issued(builder.sign(own.key, hashes.SHA256()), key)

    def revoke(self, *revoked: x509.Certificate, days: float = 30) -> bytes:
        """A revocation list in PEM that names these certificates and is out of date `days` from now."""
        now, own = self._now(), self.itself
        builder = x509.CertificateRevocationListBuilder().issuer_name(own.certificate.subject)
        builder = builder.last_update(now - dt.timedelta(days=max(0.0, -2 * days)) - _HOUR)
        builder = builder.next_update(now + dt.timedelta(days=days))
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(own.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
    ) -> x509.CertificateBuilder:
        now, public = self._now(), key.public_key()
        issuer_key = self.itself.key.public_key() if subject != issuer else public
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=max(0.0, -2 * days)) - _HOUR)
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )


def write_pem(path: Path, data: bytes, *, secret: bool) -> None:
    """Write a new file, for this account alone if it is secret; durable on return. Raises ConfigError if there is one
    already, OSError."""
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already", hint="move it away, or give another folder")
    durable.write_new(path, data, mode=0o600 if secret else 0o644)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
