"""What a peer sees of us and we of it, for people: certificate, names, authorities, versions, and why a call fails.

Rule: it connects only where the caller says, and verifies nothing for anybody: it explains.
"""

import ssl
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from coffer.keys.errors import CofferError, UnavailableError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.config.settings import Config, Peer
from coffer.server.dimse.dialling import connect
from coffer.server.host.sockets import is_readable
from coffer.server.tls.contexts import reason_of
from coffer.server.tls.handshake import Handshake
from coffer.server.tls.loaded import LoadedSet
from coffer.server.tls.outgoing import call
from coffer.server.tls.peer_certificate import peer_certificate

__all__ = ["Called", "call_peer", "own_facts"]

_SECOND_THOUGHTS_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Called:
    """How a call to a peer went: what was agreed on, or why not; and the certificate it shows, verified or not."""

    agreed: Handshake | None
    why: str
    shown: PeerCertificate | None


def own_facts(loaded: LoadedSet) -> dict[str, str]:
    """What peers see of us, and whom we believe, in words."""
    material = loaded.material
    own = peer_certificate(material.chain[0])
    lists = [f"{each.issuer.rfc4514_string()} until {each.next_update_utc}" for each in material.revocations]
    return {
        "certificate": own.subject,
        "issued by": own.issuer,
        "names": ", ".join(own.names) or "none: peers that compare names refuse it",
        "valid until": f"{material.chain[0].not_valid_after_utc}",
        "public key": own.spki_sha256,
        "authorities": "; ".join(each.subject.rfc4514_string() for each in material.authorities),
        "revocation lists": "; ".join(lists) or "none: a stolen certificate is believed until it expires",
        "versions": "TLS 1.3, TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305",
        "key exchange": "OpenSSL's groups, post-quantum first"
        if ssl.OPENSSL_VERSION_INFO >= (3, 5)
        else f"classical: {ssl.OPENSSL_VERSION} has no post-quantum group",
    }


def call_peer(config: Config, peer: Peer, loaded: LoadedSet) -> Called:
    """Call a peer as a C-MOVE would, without a DICOM message, and hang up. Raises UnavailableError if it is not
    reached."""
    seconds = config.tls.handshake_seconds
    connect(peer.ae_title, peer.host, peer.port, seconds).close()
    try:
        tls, agreed = call(peer, loaded, seconds, seconds)
    except (CofferError, OSError) as error:
        return Called(None, str(error), _shown(peer, seconds))
    with tls:
        why = _refusal(tls)
    return Called(None if why else agreed, why, agreed.certificate)


def _refusal(tls: ssl.SSLSocket) -> str:
    """Why a peer has thought better of it: in TLS 1.3 it judges our certificate after we have finished."""
    try:
        if is_readable(tls, _SECOND_THOUGHTS_SECONDS):
            tls.recv(1)
    except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
        pass
    except ssl.SSLError as error:
        return f"the peer refuses our certificate: {reason_of(error)}"
    except OSError:
        return "the peer hangs up: perhaps it refuses our certificate"
    return ""


def _shown(peer: Peer, seconds: float) -> PeerCertificate | None:
    """The certificate that a peer shows to anybody; None if it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with connect(peer.ae_title, peer.host, peer.port, seconds) as sock:
            sock.settimeout(seconds)
            with context.wrap_socket(sock, server_hostname=peer.tls_name or peer.host) as tls:
                raw = tls.getpeercert(binary_form=True)
        return peer_certificate(x509.load_der_x509_certificate(raw or b""))
    except (OSError, ValueError, UnavailableError):
        return None
