"""New key epochs and the end of old ones, with a record of each in the log; by command, or when an epoch is old enough.

Rule: the event of a change is written into the keyring with the change's last step, and waits there for whoever writes
the log (`server.outbox`): a stop loses neither.
"""

import os
from collections.abc import Callable
from typing import Final

import structlog

from archive.event import Event
from archive.folder import ArchiveFolder
from archive.record import Kind
from keys import derive
from keys.keyring import Keyring, clock_ms
from keys.provider import DestroyReceipt
from keys.rotation import Destruction, Rotated
from server import outbox
from server.config import Config
from server.custody import open_keyring, provider_of

__all__ = ["age_seconds", "destroy", "destroy_epoch", "renew_if_old", "rotate", "rotate_keyring"]

_log = structlog.get_logger(__name__)

_DAY_SECONDS: Final = 86_400


def rotate(config: Config, progress: Callable[[int, int], None], provider: str = "") -> Rotated:
    """Rotate the keys of an archive, beside whoever serves it; durable on return. Raises as `keys.rotation.rotate`."""
    keyring = _open(config, provider)
    try:
        return rotate_keyring(keyring, progress)
    finally:
        keyring.close()


def destroy(config: Config, epoch: int) -> DestroyReceipt:
    """Destroy an old epoch, beside whoever serves the archive; durable on return. Raises as `keys.rotation.destroy`."""
    keyring = _open(config)
    try:
        return destroy_epoch(keyring, epoch)
    finally:
        keyring.close()


def rotate_keyring(keyring: Keyring, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Rotated:
    """As `rotate`, of a keyring that is open."""

    def event(done: Rotated) -> tuple[bytes, bytes]:
        facts = {"epoch": done.epoch, "provider": done.provider, "moved": done.rewrapped, "resumed": done.resumed}
        facts |= {"keyring": keyring.digest().hex()}
        return _enclosed(keyring, Event(Kind.KEYRING_ROTATED, clock_ms(), facts))

    return keyring.rotate(progress, event)


def destroy_epoch(keyring: Keyring, epoch: int) -> DestroyReceipt:
    """As `destroy`, of a keyring that is open."""

    def event(receipt: DestroyReceipt, done: Destruction) -> tuple[bytes, bytes]:
        facts = {
            "epoch": epoch,
            "provider": receipt.kind,
            "caveat": receipt.caveat,
            "destroyed_ms": done.receipt_ms,
            "effective_ms": done.effective_ms,
            "share_groups": [of.group.hex() for of in keyring.share_groups() if of.epoch == epoch],
        }
        return _enclosed(keyring, Event(Kind.EPOCH_DESTROYED, done.receipt_ms, facts))

    return keyring.destroy_epoch(epoch, event)


def renew_if_old(keyring: Keyring, days: int, now_ms: Callable[[], int] = clock_ms) -> bool:
    """Rotate when the current epoch is older than so many days; 0 is never. Returns whether it did."""
    if not days or age_seconds(keyring, now_ms) < days * _DAY_SECONDS:
        return False
    done = rotate_keyring(keyring)
    _log.info("keys rotated", epoch=done.epoch, moved=done.rewrapped)
    return True


def age_seconds(keyring: Keyring, now_ms: Callable[[], int] = clock_ms) -> float:
    """The age of the current epoch."""
    return max(0.0, (now_ms() - keyring.epoch_row(keyring.epoch).created_ms) / 1000)


def _open(config: Config, provider: str = "") -> Keyring:
    folder = ArchiveFolder.open(config.archive)
    return open_keyring(folder, provider_of(config.keys, folder.archive_id, provider))


def _enclosed(keyring: Keyring, event: Event) -> tuple[bytes, bytes]:
    entry = event.seal(keyring.archive_key(derive.EVENT), keyring.archive_id, os.urandom(24))
    return outbox.enclose(entry, os.urandom(8))
