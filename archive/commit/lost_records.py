"""Keep what shows that stored records are no longer in the log of a writer that still runs.

Rule: nothing is repaired here. What stands at their place is copied to lost+found, and a finding says since which
record and time, so that both outlive the writer and the next opening, which may find only a shorter log.
"""

import datetime as dt
from contextlib import suppress
from typing import Final

from coffer.archive.commit.commit_log import LogEnd, Loss
from coffer.archive.repair.tail import kept_at
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.keys.disk.durable import keep
from coffer.keys.disk.syscalls import Syscalls
from coffer.keys.errors import IntegrityError, NotFoundError, UnavailableError

__all__ = ["loss_error"]

_MOST_KEPT: Final = 16 << 20


def loss_error(
    folder: ArchiveFolder, loss: Loss, begin: LogEnd, end: LogEnd, *, now_ms: int, calls: Syscalls
) -> IntegrityError:
    """The error of a log that is, between these two ends, no longer what was appended. What stands there is kept, with
    a finding, durable on return where the volume lets it be."""
    since = dt.datetime.fromtimestamp(max(begin.chain.order.time_ms, 0) / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    last = end.chain.next_seq - 1
    records = f"records {loss.seq} to {last} were" if loss.seq < last else f"record {last} was"
    what = f"{records} stored, and the log on disk is no longer what was written there: {loss.what}"
    again = f"have the senders send again what they stored since {since}"
    kept = "it could not be kept what stands there now"
    with suppress(UnavailableError):
        kept = f"what stands there now is kept as lost+found/{_keep(folder, loss, f'{what}; {again}', now_ms, calls)}"
    return IntegrityError(
        f"segment {loss.segment}, offset {loss.offset}: {what}",
        hint=f"{kept}; stop Coffer, find out who or what writes to the archive folder, then run coffer recover show; "
        f"once Coffer stores again, {again}",
    )


def _keep(folder: ArchiveFolder, loss: Loss, what: str, now_ms: int, calls: Syscalls) -> str:
    """Copy what stands there to lost+found and record the finding; returns the copy's name."""
    found = _standing_there(folder, loss)
    kept = keep(folder.lost_and_found / kept_at(loss.segment, loss.offset, found), found, calls=calls).name
    FindingStore(folder.scrub, calls).add(Finding(loss.segment, loss.offset, loss.seq, what), now_ms, kept)
    return kept


def _standing_there(folder: ArchiveFolder, loss: Loss) -> bytes:
    """The first bytes at the place of the records; none where there is no such file, or it ends before."""
    with suppress(NotFoundError, IntegrityError), folder.segment_store().open(LOG, loss.segment) as source:
        return source.read(loss.offset, min(max(source.size - loss.offset, 0), _MOST_KEPT))
    return b""
