"""What is outside the host: peers, the certificates they see, and the targets of backups.

Rule: connects only where the configuration says; a peer gets a C-ECHO, or with TLS only the handshake.
"""

import time
from pathlib import Path
from typing import Final

from coffer.archive.copies.shelf import Shelf
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.errors import UnavailableError
from coffer.server.backup.targets import open_target
from coffer.server.checkup.archive import days_since
from coffer.server.checkup.result import Report, State
from coffer.server.config.settings import Config, Peer
from coffer.server.dimse.protocol.negotiation import IMPLICIT_LE, VERIFICATION, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.tls.check import call_peer
from coffer.server.tls.loaded import LoadedSet, load_set

__all__ = ["examine_neighbours"]

_SOON_DAYS: Final = 30
_OLD_DAYS: Final = 2
_OFFERS: Final = (Offer(1, VERIFICATION, (IMPLICIT_LE,)),)


def examine_neighbours(config: Config, report: Report, *, connect: bool) -> None:
    """Look at certificates and backups, and with `connect` ask every peer for an echo."""
    loaded = None
    with report.about("certificates"):
        loaded = _certificates(config, report)
    with report.about("backup"):
        _backup(config, report)
    for peer in config.peers if connect else ():
        with report.about(f"peer {peer.ae_title}"):
            report.add(f"peer {peer.ae_title}", State.OK, _greet(config, peer, loaded))


def _certificates(config: Config, report: Report) -> LoadedSet | None:
    if config.tls.certificate_file == Path():
        report.add("certificates", State.OK, "no TLS is configured")
        return None
    loaded = load_set(config.tls)
    ends = loaded.material.chain[0].not_valid_after_utc
    left = (ends.timestamp() - time.time()) / 86_400
    told = f"the TLS certificate is valid until {ends:%Y-%m-%d}"
    if left < _SOON_DAYS:
        state = State.WARNING if left > 0 else State.FAILED
        report.add("certificates", state, told, "renew it; then: coffer reload")
    else:
        report.add("certificates", State.OK, told)
    return loaded


def _backup(config: Config, report: Report) -> None:
    place = config.backup.target
    if not place:
        report.add("backup", State.WARNING, "no target is configured", "see docs/operations/backup.md")
        return
    newest = next(reversed(Shelf(open_target(place), ArchiveFolder.open(config.archive).archive_id).usable()), None)
    if newest is None:
        report.add("backup", State.FAILED, f"there is no snapshot of this archive at {place}", "coffer backup run")
        return
    days = days_since(newest.made_ms)
    told = f"the newest snapshot at {place} is {days:.1f} days old and has {newest.findings} findings"
    if newest.findings:
        report.add("backup", State.FAILED, told, "coffer verify")
    elif days > _OLD_DAYS:
        report.add("backup", State.WARNING, told, "coffer backup run; see why its timer did not: systemctl list-timers")
    else:
        report.add("backup", State.OK, told)


def _greet(config: Config, peer: Peer, loaded: LoadedSet | None) -> str:
    """How a peer answers, in words. Raises UnavailableError."""
    if peer.tls:
        if loaded is None:
            raise UnavailableError("it is called with TLS, whose files cannot be used", hint="coffer tls check")
        called = call_peer(config, peer, loaded)
        if called.agreed is None:
            raise UnavailableError(f"TLS fails: {called.why}", hint=f"coffer tls check {peer.ae_title}")
        return f"agrees on {called.agreed.version} at {peer.host}:{peer.port}"
    seconds, own = config.dimse.destination_seconds, config.dimse.ae_title
    with Requestor(peer.host, peer.port, own, peer.ae_title, _OFFERS, seconds) as asked:
        status = asked.echo()
    if status:
        raise UnavailableError(f"it answers a C-ECHO with {status:04X}", hint="see its log")
    return f"answers a C-ECHO at {peer.host}:{peer.port}"
