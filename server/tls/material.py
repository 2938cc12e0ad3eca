"""The files of TLS as one set: our certificate and key, the authorities that are believed, what they have revoked.

Rule: all or nothing. Every file is read once; what was checked is what is used, even while an administrator is
replacing the files. A set that does not fit together raises a ConfigError that names the file and the remedy.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coffer.keys.disk import permissions
from coffer.keys.errors import ConfigError
from coffer.server.config.tls import Tls

__all__ = ["Material", "load_material", "stamp_of"]

_MOST_BYTES: Final = 16 << 20  # revocation lists of large authorities
_KEY: Final = "private key of TLS"


@dataclass(frozen=True, slots=True)
class Material:
    """A set whose parts fit together. `chain` is our certificate and its intermediates, `authorities` and `revocations`
    are what peers are judged by; the PEM texts are what OpenSSL loads. Times are in UTC."""

    chain: tuple[x509.Certificate, ...]
    authorities: tuple[x509.Certificate, ...]
    revocations: tuple[x509.CertificateRevocationList, ...]
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    trust_pem: bytes = field(repr=False)

    @property
    def expires(self) -> float:
        """When the first of our own certificates expires, in seconds since 1970."""
        return min(each.not_valid_after_utc.timestamp() for each in self.chain)

    @property
    def revocations_expire(self) -> float | None:
        """When the first revocation list is out of date, in seconds since 1970; None if none is configured."""
        ends = [each.next_update_utc for each in self.revocations]
        return min((end.timestamp() for end in ends if end is not None), default=None)

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Whether the list of its issuer names a certificate (RFC 5280 5.3)."""
        return any(
            each.issuer == certificate.issuer
            and each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
            for each in self.revocations
        )

    def still_believes(self, before: "Material") -> bool:
        """Whether every authority of an earlier set is still one."""
        return set(before.authorities) <= set(self.authorities)


def stamp_of(settings: Tls) -> tuple[object, ...]:
    """What changes when a file of the set is replaced or written: its place on the disk, size and times. Reads none."""
    stamps: list[object] = []
    for path in (settings.certificate_file, settings.key_file, settings.ca_file, settings.crl_file):
        if path is None:
            continue
        try:
            found = path.stat()
        except OSError as error:
            stamps.append(error.errno)
        else:
            stamps.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(stamps)


def load_material(settings: Tls) -> Material:
    """Read the set that the settings name. Raises ConfigError if a file is missing, open to others (the key), not what
    it should be, or does not fit the others, UnavailableError if one cannot be read."""
    key_pem = permissions.read_secret(settings.key_file, _KEY, _MOST_BYTES)
    chain_pem = _read(settings.certificate_file, "certificate")
    chain = _certificates(chain_pem, settings.certificate_file, "certificate")
    _require_pair(key_pem, chain[0], settings)
    ca_pem = _read(settings.ca_file, "authorities")
    authorities = _certificates(ca_pem, settings.ca_file, "authorities")
    crl_pem = b"" if settings.crl_file is None else _read(settings.crl_file, "revocation lists")
    revocations = () if settings.crl_file is None else _revocations(crl_pem, settings.crl_file)
    issuers = (*authorities, *chain[1:])
    for each in revocations:
        _require_signed(each, issuers, settings)
    pem = serialization.Encoding.PEM
    trusted = [each.public_bytes(pem) for each in authorities] + [each.public_bytes(pem) for each in revocations]
    return Material(chain, authorities, revocations, chain_pem, key_pem, b"\n".join(trusted))


def _read(path: Path, what: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"the {what} {path} is not a regular file", hint="give the path of a PEM file")
            with open(fd, "rb", closefd=False) as file:
                data = file.read(_MOST_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(
            f"the {what} {path} cannot be read: {error.strerror}", hint="check its path and mode, and [tls]"
        ) from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"the {what} {path} is larger than 16 MiB", hint="check that [tls] names the right file")
    return data


def _certificates(pem: bytes, path: Path, what: str) -> tuple[x509.Certificate, ...]:
    try:
        found = tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise ConfigError(
            f"the {what} {path} holds no certificate in PEM", hint=f"look at it: openssl x509 -in {path} -noout -text"
        ) from error
    return found


def _revocations(pem: bytes, path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    end = b"-----END X509 CRL-----"
    parts = [part + end for part in pem.split(end)[:-1]]
    try:
        found = tuple(x509.load_pem_x509_crl(part) for part in parts)
    except ValueError as error:
        raise _no_list(path) from error
    if not found:
        raise _no_list(path)
    return found


def _no_list(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} holds no revocation list in PEM", hint=f"look at it: openssl crl -in {path} -noout -text"
    )


def _require_pair(key_pem: bytes, certificate: x509.Certificate, settings: Tls) -> None:
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except TypeError as error:  # what the library raises for a passphrase that is missing
        raise ConfigError(
            f"the {_KEY} {settings.key_file} has a passphrase, which nobody could type at night",
            hint=f"remove it: (umask 077; openssl pkey -in {settings.key_file} -out NEW), and name NEW in [tls]",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{settings.key_file} holds no private key in PEM", hint="check that [tls] key_file names the right file"
        ) from error
    raw, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(raw, spki) != certificate.public_key().public_bytes(raw, spki):
        raise ConfigError(
            f"the key {settings.key_file} does not belong to the first certificate in {settings.certificate_file}",
            hint="put the file of each other's in place; Coffer's own certificate comes first, then intermediates",
        )


def _require_signed(
    revocations: x509.CertificateRevocationList, issuers: tuple[x509.Certificate, ...], settings: Tls
) -> None:
    """A list that no known authority has signed says nothing about its certificates."""
    for each in issuers:
        if each.subject == revocations.issuer and revocations.is_signature_valid(each.public_key()):  # type: ignore[arg-type]
            return
    raise ConfigError(
        f"a revocation list in {settings.crl_file} is of no authority in {settings.ca_file}",
        hint="give the lists of the authorities in ca_file, and no others",
    )
