"""The certificate by which a peer proved who it is, as the access decision sees it.

Rule: it states only what the process that ends TLS has verified (docs/adr/0032). Nobody else makes one, and a process
that parses what strangers send never changes one. It holds no key and no patient data, so it may be logged.
"""

from dataclasses import dataclass

__all__ = ["PeerCertificate"]


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """An X.509 certificate whose private key the peer has proved to hold, issued by one of the configured authorities.

    `subject` and `issuer` are distinguished names as in RFC 4514. `names` are the subject alternative names in their
    order (RFC 5280 4.2.1.6), each with its kind: `DNS:`, `IP:`, `URI:` or `email:`. `spki_sha256` is the SHA-256 of the
    DER-encoded SubjectPublicKeyInfo, in 64 lower-case hex digits: it stays the same when a certificate is renewed for
    the same key. `serial` is the serial number in lower-case hex digits without leading zeros. `not_after` is the end
    of its validity, in seconds since 1970 UTC. `sha256` is that of the whole certificate, DER-encoded, in hex digits.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    spki_sha256: str
    serial: str
    not_after: int
    sha256: str
