"""JSON web tokens (RFC 7519): who signed one, for whom, until when, and the subject that it proves.

Rule: the keys are those of one local file, the algorithms are pinned, and a token brings no key, no address of a key
and no extension: everything in its header but `alg`, `kid` and `typ` is refused (RFC 8725 3.1, 3.5, 3.10).
"""

import base64
import binascii
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from coffer.keys.disk import permissions
from coffer.keys.errors import ConfigError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.config.settings import Config

__all__ = ["Proved", "Tokens", "read_tokens"]

_ALGORITHMS: Final = ["ES256", "Ed25519", "EdDSA", "PS256", "RS256"]
_HEADER: Final = {"alg", "kid", "typ"}
_TYPES: Final = {"jwt", "at+jwt", "application/at+jwt"}  # RFC 7519 5.1, RFC 9068 4; no ID of a logout, no request
_MOST_BYTES: Final = 1 << 20
_LONGEST_TOKEN: Final = 16 << 10
_REMEDY: Final = "put the issuer's public keys there, as it publishes them (jwks_uri)"


@dataclass(frozen=True, slots=True)
class Proved:
    """The subject that a token proves, and until when (seconds since 1970 UTC)."""

    subject: str
    until: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """Checks tokens of one issuer for one audience."""

    keys: KeySet
    issuer: str
    audience: str
    longest_seconds: int

    def proved(self, token: bytes, now: int, certificate: PeerCertificate | None = None) -> Proved | None:
        """What a token proves at `now` (seconds since 1970 UTC) over a connection that proved `certificate`; None if
        that is nothing.

        It lives for `longest_seconds` at most, and may be used again meanwhile. One that is bound to a certificate
        (RFC 8705 3.1) proves nothing without it.
        """
        if len(token) > _LONGEST_TOKEN or not _has_plain_header(token):
            return None
        claims = jwt.JWTClaimsRegistry(
            now=now,
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self.audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            found = jwt.decode(token, self.keys, algorithms=_ALGORITHMS)
            claims.validate(found.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            return None
        subject, expires = found.claims["sub"], found.claims["exp"]
        begun = found.claims.get("iat", now)
        is_short = isinstance(expires, int) and max(expires - now, expires - begun) <= self.longest_seconds
        is_bearers = _is_bound_to(found.claims.get("cnf"), certificate)
        return Proved(subject, expires) if is_short and is_bearers and isinstance(subject, str) and subject else None


def read_tokens(config: Config) -> Tokens | None:
    """What checks tokens; None where no keys are configured.

    Raises ConfigError for a file that others may write, that cannot be read, or that holds anything but public keys.
    """
    access = config.access
    if access.jwks is None:
        return None
    keys = KeySet.import_key_set(_public_keys(access.jwks))
    audience = access.token_audience or config.dimse.ae_title
    return Tokens(keys, access.token_issuer, audience, access.token_seconds)


def _is_bound_to(confirmation: Any, certificate: PeerCertificate | None) -> bool:
    """Whether a token that states this `cnf` (RFC 7800 3.1) may be used over a connection. What binds it in another way
    cannot be checked here, so it may not."""
    if confirmation is None:
        return True
    if certificate is None or not isinstance(confirmation, dict):
        return False
    thumbprint = base64.urlsafe_b64encode(bytes.fromhex(certificate.sha256)).rstrip(b"=").decode()
    return confirmation == {"x5t#S256": thumbprint}


def _public_keys(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            permissions.require_trusted(Path(os.path.realpath(path)), os.fstat(file.fileno()), "the file of keys")
            found = json.loads(file.read(_MOST_BYTES))
        keys = found["keys"]
        if keys and all(each["kty"] in {"EC", "RSA", "OKP"} and "d" not in each for each in keys):
            return found
    except OSError as error:
        raise ConfigError(f"the file of keys {path} cannot be read: {error.strerror}", hint=_REMEDY) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the file of keys {path} is no JWK set", hint=_REMEDY) from error
    raise ConfigError(f"the file of keys {path} holds something other than public keys", hint=_REMEDY)


def _has_plain_header(token: bytes) -> bool:
    """Whether the header names nothing but algorithm, key id and the type of a token of access."""
    head = token.partition(b".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (binascii.Error, ValueError):
        return False
    if not isinstance(header, dict) or not set(header) <= _HEADER or header.get("alg") not in _ALGORITHMS:
        return False
    return str(header.get("typ", "jwt")).lower() in _TYPES
