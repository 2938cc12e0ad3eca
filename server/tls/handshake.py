"""The TLS handshake of one connection, with a deadline, and what it agreed on.

Rule: `shake_hands` returns within its seconds whatever the peer does, and returns only what is verified: the chain, the
times and the revocation lists by OpenSSL, the name or the public key of a destination here.
"""

import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from coffer.keys.errors import UnavailableError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.host.sockets import is_readable, is_writable
from coffer.server.tls.contexts import reason_of
from coffer.server.tls.material import Material
from coffer.server.tls.peer_certificate import peer_certificate

__all__ = ["REASONS", "Handshake", "HandshakeError", "shake_hands", "wrap"]

SLOW, REFUSED, BROKEN, NO_CERTIFICATE, REVOKED, EXPIRED, TOO_MANY = (
    "too slow", "refused by us", "refused or broken by the peer", "no certificate", "revoked", "expired", "too many",
)  # fmt: skip
REASONS: Final = (SLOW, REFUSED, BROKEN, NO_CERTIFICATE, REVOKED, EXPIRED, TOO_MANY)


_UNTOLD: Final = "unknown" if ssl.OPENSSL_VERSION_INFO >= (3, 5) else "classical"


class HandshakeError(UnavailableError):
    """No handshake: `reason` is one of `REASONS`, the message says more. The connection is still the caller's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, hint="run `coffer tls check`")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a connection agreed on. `group` is the key exchange's. Python before 3.15 cannot tell it: then it is
    "classical" where OpenSSL knows no other (before 3.5), and "unknown" otherwise."""

    version: str
    cipher: str
    group: str
    certificate: PeerCertificate | None
    x509: x509.Certificate | None


def wrap(context: ssl.SSLContext, sock: socket.socket, name: str | None = None) -> ssl.SSLSocket:
    """Take over a connected socket, as a server, or as a client that expects the certificate of `name`. The result does
    not block. Raises HandshakeError for a name that no certificate can have, OSError for a peer that is gone; the
    socket is closed then.
    """
    sock.setblocking(False)
    try:
        return context.wrap_socket(sock, server_side=name is None, server_hostname=name, do_handshake_on_connect=False)
    except ValueError as error:
        sock.close()
        raise HandshakeError(REFUSED, f"{name!r} is no host name") from error
    except BaseException:
        sock.close()
        raise


def shake_hands(tls: ssl.SSLSocket, seconds: float, material: Material) -> Handshake:
    """Complete the handshake of a wrapped socket. Raises HandshakeError; the caller closes the socket then."""
    _drive(tls, seconds)
    return _agreed(tls, material)


def _drive(tls: ssl.SSLSocket, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            is_due = left > 0 and is_readable(tls, left)
        except ssl.SSLWantWriteError:
            is_due = left > 0 and is_writable(tls, left)
        except ssl.SSLError as error:
            raise HandshakeError(_reason(error), reason_of(error)) from error
        except OSError as error:
            raise HandshakeError(BROKEN, error.strerror or "the connection broke") from error
        if not is_due:
            raise HandshakeError(SLOW, f"no handshake within {seconds:g} s")


def _reason(error: ssl.SSLError) -> str:
    """Which of the reasons it is; OpenSSL's verify codes are those of x509_vfy.h."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return {23: REVOKED, 10: EXPIRED}.get(error.verify_code, REFUSED)
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return NO_CERTIFICATE
    # An alert that we received, or the end of the connection, is the peer's doing; everything else is ours.
    is_alert = "ALERT" in str(error.reason)
    return BROKEN if is_alert or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) else REFUSED


def _agreed(tls: ssl.SSLSocket, material: Material) -> Handshake:
    cipher = tls.cipher()
    group = getattr(tls, "group", lambda: None)() or _UNTOLD
    raw = tls.getpeercert(binary_form=True)
    version = tls.version() or ""
    if raw is None:
        return Handshake(version, cipher[0] if cipher else "", group, None, None)
    try:
        found = x509.load_der_x509_certificate(raw)
        proved = peer_certificate(found)
    except ValueError as error:
        raise HandshakeError(REFUSED, "its certificate cannot be read") from error
    if material.revokes(found):
        raise HandshakeError(REVOKED, "certificate revoked")
    return Handshake(version, cipher[0] if cipher else "", group, proved, found)
