"""The settings of who is known, and of the tokens that prove it.

Rule: as in `server.config.settings`, of which this is one table.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Access"]

Issuer = Annotated[str, Meta(max_length=250)]


class Access(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what ([roles](security/roles.md)). While there is no user, the open role is in force, and the server
    listens on loopback only."""

    users: Annotated[
        Path,
        Meta(
            description="The file of users, roles and password hashes, written by `coffer users`. It must not be "
            "inside the archive folder.",
            extra={
                "default": "`users.toml` beside `coffer.toml`; without that file, `<archive>.users.toml` beside the "
                "archive folder"
            },
        ),
    ] = Path()
    jwks: Annotated[
        Path | None,
        Meta(
            description="File with the public keys of the issuer of tokens, as a JWK set (RFC 7517). None: no token is "
            "accepted.",
            extra={"default": "none"},
        ),
    ] = None
    token_issuer: Annotated[Issuer, Meta(description="What a token must state as `iss`. Needed for `jwks`.")] = ""
    token_audience: Annotated[
        Issuer, Meta(description="What a token must state as `aud`. Empty: Coffer's own AE title.")
    ] = ""
    token_seconds: Annotated[
        int,
        Meta(
            ge=60,
            le=86_400,
            description="The longest life of a token, from now to `exp`, and from `iat` where it states that. Whoever "
            "reads one may use it until it expires.",
        ),
    ] = 600
