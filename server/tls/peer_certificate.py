"""A verified certificate, from its bytes to what the access decision sees.

Rule: called after OpenSSL has verified chain, times and possession of the key; it judges nothing again, and repeats
what OpenSSL reads. Pure.
"""

import hashlib
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from coffer.server.access.certificate import PeerCertificate

__all__ = ["peer_certificate", "spki_sha256"]


def spki_sha256(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER-encoded SubjectPublicKeyInfo, in hex."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def peer_certificate(certificate: x509.Certificate) -> PeerCertificate:
    """What a certificate states. Raises ValueError for one whose names cannot be decoded."""
    return PeerCertificate(
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        tuple(_names(certificate)),
        spki_sha256(certificate),
        f"{certificate.serial_number:x}",
        int(certificate.not_valid_after_utc.timestamp()),
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError("names that cannot be decoded") from error
    found = []
    for name in names:
        match name:
            case x509.DNSName(value=str(value)):
                found.append(f"DNS:{value}")
            case x509.IPAddress(value=ipaddress.IPv4Address() | ipaddress.IPv6Address() as address):
                found.append(f"IP:{address}")
            case x509.UniformResourceIdentifier(value=str(value)):
                found.append(f"URI:{value}")
            case x509.RFC822Name(value=str(value)):
                found.append(f"email:{value}")
    return found
