"""The set of files in use, and its replacement by a newer one: by order, or because the files have changed.

Rule: a set that does not load leaves the old one in use, and says so in the log, in the metrics and as an answer to
who ordered it. Files that are being replaced one by one are left alone until nothing has changed for one look.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from coffer.keys.errors import CofferError, ConfigError
from coffer.server.config.tls import Tls
from coffer.server.observe.logs import get_logger
from coffer.server.tls.contexts import Contexts, contexts_of
from coffer.server.tls.material import Material, load_material, stamp_of

__all__ = ["LoadedSet", "LoadedSets", "load_set"]

_log = get_logger()


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """Files that fit together, and the contexts over them."""

    material: Material
    contexts: Contexts


def load_set(settings: Tls) -> LoadedSet:
    """Read the files. Raises ConfigError, UnavailableError."""
    material = load_material(settings)
    return LoadedSet(material, contexts_of(material, require_certificate=settings.require_certificate))


class LoadedSets:
    """The set in use. Thread-safe."""

    def __init__(self, settings: Tls, now: Callable[[], float] = time.time) -> None:
        """Load the first set; `now` is the time in seconds since 1970. Raises ConfigError, UnavailableError."""
        self._settings = settings
        self._now = now
        self._lock = threading.Lock()
        self._tried = self._seen = stamp_of(settings)
        self.current = load_set(settings)
        self.trouble = ""  # why the files on disk are not the ones in use
        self.reloads = self.failures = 0
        self._tell(self.current.material)

    def reload(self) -> None:
        """Use the files as they are now. Raises ConfigError, UnavailableError: then the old set stays in use."""
        with self._lock:
            self._tried = self._seen = stamp_of(self._settings)
            try:
                found = load_set(self._settings)
                if found.material.expires < self._now():
                    raise ConfigError(
                        f"the certificate {self._settings.certificate_file} has expired", hint="have it renewed"
                    )
            except CofferError as error:
                self.failures += 1
                self.trouble = str(error)
                _log.error(
                    "changed TLS files are not used; the old ones stay in use",
                    name="tls.reload_failed",
                    cause=str(error),
                    remedy=error.hint(),
                )
                raise
            self.current = found
            self.reloads += 1
            self.trouble = ""
        _log.info("TLS files were read again", name="tls.reloaded")
        self._tell(found.material)

    def look(self) -> bool:
        """Use files that have changed since they were last tried, and no more since the last look; whether they are in
        use now. Raises nothing of them: `trouble` says why not."""
        seen, before = stamp_of(self._settings), self._seen
        self._seen = seen
        if seen != before or seen == self._tried:
            return False
        try:
            self.reload()
        except CofferError:
            return False
        return True

    def _tell(self, material: Material) -> None:
        """Say what an administrator should know of a set that is used all the same."""
        if not material.revocations:
            _log.warning(
                "no revocation list is configured: a stolen certificate is believed until it expires",
                name="tls.no_revocations",
                remedy="give [tls] crl_file the lists of your authorities",
            )
        if material.expires < self._now():
            _log.error(
                "the certificate has expired", name="tls.certificate_expired", remedy="renew it, then: coffer reload"
            )
        ends = material.revocations_expire
        if ends is not None and ends < self._now():
            _log.error(
                "a revocation list is out of date: nobody whom it concerns is let in",
                name="tls.revocations_expired",
                remedy="fetch a new one, then: coffer reload",
            )
