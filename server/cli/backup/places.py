"""The arguments of every backup command: which target, and which one for the keyring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coffer.keys.errors import ConfigError

if TYPE_CHECKING:
    from coffer.archive.copies.target import Target
    from coffer.server.config.settings import Config

NONE: Final = "none"


def snapshots_at(config: Config, given: str | None) -> Target:
    """The target for snapshots: the given place, or the configured one. Raises ConfigError if there is neither."""
    from coffer.server.backup.targets import open_target, require_apart

    place = given or config.backup.target
    if not place:
        raise ConfigError("no target was given", hint="name one, or set it in the configuration: [backup] target")
    require_apart(config.archive, place)
    return open_target(place)


def keys_at(config: Config, given: str | None, *, no_keys: bool) -> Target | None:
    """The target for copies of the keyring, None if it is not to be copied. Raises ConfigError if nobody said which."""
    from coffer.server.backup.targets import open_vault, require_apart

    place = NONE if no_keys else given or config.backup.keys
    if not place:
        raise ConfigError(
            "nobody said where copies of the keyring go: without them nothing in a snapshot can be opened",
            hint="give --keys TARGET, another place than the snapshots' target; or --no-keys if you copy the keyring "
            "yourself. [backup] keys keeps the choice",
        )
    if place == NONE:
        return None
    require_apart(config.archive, place)
    return open_vault(place)
