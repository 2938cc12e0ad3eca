"""The archive: whether it opens and stores, its keys and their copies, the clock, the mark, and what the scrub found.

Rule: reads, also beside a running server, and changes nothing.
"""

from typing import Final

from coffer.archive.codec.choice import REMEDY, why_pure
from coffer.archive.repair import planted
from coffer.keys.clock import clock_ms
from coffer.server.anchor.key_place import exposed_key
from coffer.server.checkup.result import Report, State
from coffer.server.clock.trust import trust
from coffer.server.config.settings import Config
from coffer.server.copies import register as copies
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.opening import open_reading
from coffer.server.host.control import objection
from coffer.server.maintenance.acknowledged import findings_of
from coffer.server.maintenance.refusal import refusal_of

__all__ = ["examine_archive"]

_DAY_MS: Final = 86_400_000


def examine_archive(config: Config, report: Report) -> None:
    """Open the archive and look at it."""
    with report.about("keys"), open_reading(config) as archive:
        report.add("keys", State.OK, "the key provider opens the keyring")
        _writing(archive, report)
        _keys(archive, report)
        with report.about("clock"):
            doubt = trust(archive.keyring, archive.last_record_ms).concern()
            report.concerns("clock", [f"{doubt}: coffer clock confirm --reason TEXT"] if doubt else [], "not in doubt")
        report.concerns("mark", archive.mark.concerns(), "outside the folder, on another volume")
        _index(archive, report)
        with report.about("scrub"):
            waiting = len(findings_of(archive).open_entries())
            report.concerns(
                "scrub",
                [f"{waiting} findings are not acknowledged: coffer scrub show"] if waiting else [],
                "no findings",
            )
        report.concerns("folder", planted.concerns(archive.folder), "nothing foreign in it")
    slow = why_pure()
    report.concerns("codec", [f"pixels are coded by numpy, slower: {slow}; {REMEDY}"] if slow else [], "compiled")


def _writing(archive: ReadableArchive, report: Report) -> None:
    refused = refusal_of(archive) or objection(archive.config.archive, "store")
    if refused is None:
        report.add("storing", State.OK, "nothing speaks against it")
    else:
        report.add("storing", State.FAILED, str(refused), refused.hint())


def _keys(archive: ReadableArchive, report: Report) -> None:
    keyring, settings = archive.keyring, archive.config.keys
    known = len(copies.copies(keyring))
    if known:
        report.concerns("copies", copies.concerns(keyring), f"{known} of keyring or key are registered, and not stale")
    else:
        told = "no copy of the keyring, or of what opens it, is registered: if this disk fails, everything is lost"
        report.add("copies", State.WARNING, told, "make one, away from this host; then: coffer keys copied --help")
    exposed = exposed_key(archive.config)
    report.concerns("key file", [exposed] if exposed else [], "not on the archive's own disk, or with a passphrase")
    days = archive.stats().key_epoch_age / 86_400
    if settings.rotate_days and days > settings.rotate_days:
        told = f"the key in use is {days:.0f} days old, and to be rotated after {settings.rotate_days}"
        report.add("calendar", State.WARNING, told, "coffer keys rotate")
    else:
        report.add("calendar", State.OK, f"the key in use is {days:.0f} days old")


def _index(archive: ReadableArchive, report: Report) -> None:
    if archive.shortfall is not None:
        report.add("index", State.FAILED, str(archive.shortfall), archive.shortfall.hint())
        return
    report.concerns("index", archive.contradictions(), "level with the log")


def days_since(ms: int) -> float:
    """Days from a time (ms since 1970) until now, by this host's clock."""
    return (clock_ms() - ms) / _DAY_MS
