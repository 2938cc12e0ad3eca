"""OpenSSL contexts: PS3.15 B.12 (BCP 195, RFC 9325) in code.

Rule: TLS 1.2 with forward secrecy and AEAD, and TLS 1.3; no compression, renegotiation or resumption, so that every
connection proves its certificate anew. Chains end at the configured authorities, never at the system's.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coffer.keys.errors import ConfigError
from coffer.server.tls.material import Material

__all__ = ["TLS12_SUITES", "Contexts", "contexts_of", "reason_of"]

# RFC 9325 4.2 and PS3.15 B.12; those of TLS 1.3 are OpenSSL's, all AEAD.
TLS12_SUITES: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)


@dataclass(frozen=True, slots=True)
class Contexts:
    """For DICOM callers, for HTTP callers, and for destinations by name or by public key."""

    dimse: ssl.SSLContext
    http: ssl.SSLContext
    named: ssl.SSLContext
    pinned: ssl.SSLContext


def contexts_of(material: Material, *, require_certificate: bool) -> Contexts:
    """Contexts over one set. Raises ConfigError for what OpenSSL refuses: a key that is too short, for instance."""
    server, client = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
    proof = ssl.CERT_REQUIRED if require_certificate else ssl.CERT_OPTIONAL
    try:
        with _in_memory(material.key_pem + b"\n" + material.chain_pem) as pair, _in_memory(material.trust_pem) as trust:

            def context(protocol: int, verify: ssl.VerifyMode) -> ssl.SSLContext:
                made = _context(protocol, verify)
                made.load_cert_chain(pair, password=lambda: b"")  # never ask on the terminal
                made.load_verify_locations(trust)
                if material.revocations:
                    made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
                return made

            pinned = context(client, ssl.CERT_REQUIRED)
            pinned.check_hostname = False
            return Contexts(
                context(server, proof),
                context(server, ssl.CERT_OPTIONAL),
                context(client, ssl.CERT_REQUIRED),
                pinned,
            )
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"OpenSSL refuses the certificate, its key or the authorities: {reason_of(error)}",
            hint="RSA keys need 2048 bits or more, signatures SHA-256: have the certificate issued anew",
        ) from error


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """The path of a file that exists in memory only, for a library that reads nothing but files."""
    fd = os.memfd_create("coffer-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _context(protocol: int, verify: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(TLS12_SUITES))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 0
    else:
        context.hostname_checks_common_name = False  # RFC 9525: a name is a subject alternative name
    context.verify_mode = verify
    return context


def reason_of(error: Exception) -> str:
    """OpenSSL's own words, without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return type(error).__name__
