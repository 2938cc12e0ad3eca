"""The condition of a server, put together from its parts for its metrics."""

import platform
import ssl
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Final

from coffer.archive.codec.choice import why_pure
from coffer.keys.disk.volume import free_bytes
from coffer.keys.errors import CofferError, HistoryError, IntegrityError, KeyUnavailableError
from coffer.keys.keyring import rekey
from coffer.server.config.settings import Config
from coffer.server.dimse.listener import Listener
from coffer.server.engine.erasure_state import EFFECTIVE, erasures
from coffer.server.erasure.approvals import waiting_requests
from coffer.server.host import headroom
from coffer.server.host.job import Jobs
from coffer.server.observe import logs
from coffer.server.observe.collectors import Vitals
from coffer.server.observe.condition import Condition, Refusal
from coffer.server.services.bundle import WriterServices
from coffer.server.tls.gatekeeper import Gatekeeper
from coffer.server.workers.supervisor import Workers

__all__ = ["condition_of", "vitals_of"]

# In this order: what is behind a refusal counts more than that the writer has stopped.
_KINDS: Final = {
    HistoryError: Refusal.HISTORY,
    IntegrityError: Refusal.INTEGRITY,
    KeyUnavailableError: Refusal.KEY,
}


def condition_of(
    config: Config, services: WriterServices | None, processes: Mapping[str, Iterable[int]], *, is_ready: bool
) -> Condition:
    """How a server is whose archive is open as `services`, or not yet (None). Raises nothing."""
    reserve = config.storage.reserve_bytes
    try:
        free: int | None = free_bytes(config.archive)
    except OSError:
        free = None
    codec = "numpy" if why_pure() else "compiled"
    build = {"version": version("coffer-dicom"), "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION,
             "codec": codec}  # fmt: skip
    if services is None:
        return Condition(is_ready, Refusal.STARTING, reserve, free, processes=processes, build=build)
    log = services.archive.log
    refusal = Refusal.SPACE if free is not None and free <= reserve else _refusal(services)
    unsigned = max(log.next_seq - log.signed_size, 0)
    return Condition(is_ready, refusal, reserve, free, unsigned, _waiting(services), processes, build)


def vitals_of(
    jobs: Jobs, workers: Workers, listener: Listener, keeper: Gatekeeper | None, services: WriterServices | None
) -> Vitals:
    """What a server's process lost, restarted, is short of, and has not signed."""
    restarts = jobs.restarts() | {"a receiving process": workers.deaths}
    short = workers.short_of() | {listener.short_of()}
    lost = logs.lost() + workers.lost_lines()
    if keeper is not None:
        restarts["the process that ends TLS"] = keeper.deaths
        lost += keeper.counted()["lost"]
    unsigned = services.archive.log.unsigned_seconds() if services is not None else 0.0
    return Vitals(lost, restarts, {kind: kind in short for kind in headroom.KINDS}, unsigned)


def _refusal(services: WriterServices) -> Refusal | None:
    try:
        services.committer.require_accepting()
    except CofferError as error:
        causes = [error]
        while isinstance(cause := causes[-1].__cause__, CofferError):
            causes.append(cause)
        return next(
            (why for kind, why in _KINDS.items() if any(isinstance(each, kind) for each in causes)), Refusal.STOPPED
        )
    return None


def _waiting(services: WriterServices) -> dict[str, int]:
    """What somebody has to do, by a word for it; nothing where the keyring cannot be read now."""
    archive = services.archive
    try:
        return {
            "shred_approval": len(waiting_requests(archive)),
            "shred_finish": sum(each.state != EFFECTIVE for each in erasures(archive.keyring)),
            "rekey_repair": sum(each.stuck != rekey.NOT_STUCK for each in rekey.under_way(archive.keyring)),
        }
    except CofferError:
        return {}
