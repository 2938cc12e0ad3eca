"""The one decision every entrance and exit passes: may this caller do this?

Rule: services call `Policy.require` before they touch data, so no door can forget it. It knows application entities
and the configured peers only; an AE title is chosen by the caller and prevents mistakes, not attacks.
"""

from collections.abc import Collection
from enum import StrEnum

import structlog

from coffer.keys.errors import AccessDeniedError
from coffer.server.config.settings import Config

_log = structlog.get_logger(__name__)


class Action(StrEnum):
    """What a caller may ask for; the values appear in the access log."""

    STORE = "store"
    FIND = "find"
    RETRIEVE = "retrieve"


class Policy:
    """Decides by calling AE title: everybody, or only the configured peers when `known_peers_only` is set."""

    def __init__(self, known: Collection[str], *, known_peers_only: bool) -> None:
        self._known = frozenset(known)
        self._known_peers_only = known_peers_only

    def require(self, action: Action, calling_ae: str) -> None:
        """Return if `calling_ae` may do `action`, else log the refusal and raise AccessDeniedError."""
        if not self._known_peers_only or calling_ae in self._known:
            return
        _log.warning("access denied", action=action.value, calling_ae=calling_ae)
        raise AccessDeniedError(
            f"AE title {calling_ae!r} is not a configured peer",
            hint="add it under [[peers]] in coffer.toml, or set dimse.known_peers_only = false",
        )


def policy_of(config: Config) -> Policy:
    """Who may do what, by the configuration."""
    known = (config.dimse.ae_title, *(peer.ae_title for peer in config.peers))
    return Policy(known, known_peers_only=config.dimse.known_peers_only)
