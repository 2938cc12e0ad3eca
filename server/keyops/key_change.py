"""Changes of the keyring by a command: the one place through which every one of them passes, and is signed.

Rule: what objects to writing the archive (an older keyring, another history, the mark outside) objects here before
anything changes. Before the block is left, the event of the change is in the log, a checkpoint covers it, the keyring
remembers that checkpoint and the mark outside the folder is raised: a keyring from before is then refused, whoever puts
it back. What this process wrote is still there, or it says that it is not. Beside a running writer that writer does it;
without one this process does, under the writer's lock.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from coffer.archive.store.writer_lock import writer
from coffer.keys.errors import CofferError, IntegrityError, LockedError, UnavailableError, WriterGoneError
from coffer.keys.mailbox import events
from coffer.keys.providers.base import KekProvider
from coffer.keys.store.reached import Reached
from coffer.server.config.settings import Config
from coffer.server.engine.archive import KeyAdminArchive, WritableArchive
from coffer.server.engine.opening import open_for_keys
from coffer.server.mailbox import sign_order

__all__ = ["changing_keys"]

_PATIENCE_SECONDS: Final = 15.0
_TRIES: Final = 10  # writers that come and go between two looks


@contextmanager
def changing_keys(
    config: Config, provider: KekProvider | None = None, *, heeds_users: bool = True
) -> Iterator[KeyAdminArchive]:
    """The archive open to change its keys while the block runs; what the block changed is signed on return.

    `provider` opens the keyring instead of those that the configuration names. Raises as `open_for_keys` before the
    block, and unless `heeds_users` is False as `ReadableArchive.require_users`. After it, raises HistoryError where the
    keyring was put back to an earlier state: what the block changed is then gone again; and UnavailableError where the
    change is durable in the keyring and cannot be signed now: the message says so, and `coffer checkpoint sign`, or any
    next writer, completes it. If the block raises, what it had changed is signed as far as that is possible.
    """
    with open_for_keys(config, provider) as archive:
        if heeds_users:
            archive.require_users()
        before = archive.keyring.state()
        try:
            yield archive
        except Exception:
            if isinstance(archive, WritableArchive):
                with suppress(CofferError):
                    _sign_here(archive)
            raise
        reached = archive.keyring.require_kept()
        with _told():
            is_signed = _is_signed(archive, before, reached)
    with _told():
        for _ in range(_TRIES):
            if is_signed:
                return
            with suppress(LockedError), open_for_keys(config, provider) as archive:  # the writer has ended
                is_signed = _is_signed(archive, b"", reached)
        if not is_signed:
            raise LockedError("other processes keep opening the archive")


def _is_signed(archive: KeyAdminArchive, before: bytes, reached: Reached) -> bool:
    """Have what changed since the state `before` signed; False if the writer ended before it had. Raises HistoryError
    where the keyring is, before or afterwards, less far than it was (`reached`)."""
    archive.keyring.require_kept(reached)
    if isinstance(archive, WritableArchive):
        _sign_here(archive)
    elif archive.keyring.state() != before and not _is_signed_beside(archive):
        return False
    archive.keyring.require_kept()
    return True


def _sign_here(archive: WritableArchive) -> None:
    archive.reconcile()
    archive.sign_checkpoint()


def _is_signed_beside(archive: KeyAdminArchive) -> bool:
    """Wait until the writer has the events in its log, then order a checkpoint over them: one that was being signed
    before may lack them."""
    keyring = archive.keyring
    left = {each.row_key for each in events.waiting(keyring)}

    def is_in_log() -> bool:
        keyring.require_kept()  # events that were put away are gone, too
        return left.isdisjoint(each.row_key for each in events.waiting(keyring))

    if not archive.wait_until(is_in_log, _PATIENCE_SECONDS):
        who = writer(archive.folder.lock)
        if who is None:
            return False
        raise UnavailableError(f"{who} has not recorded it for {_PATIENCE_SECONDS:.0f} s")
    try:
        sign_order.ask(keyring, archive.folder)
    except WriterGoneError:
        return False
    return True


@contextmanager
def _told() -> Iterator[None]:
    """Say of a failure that the change itself is made."""
    try:
        yield
    except IntegrityError:
        raise  # somebody else wrote rows meanwhile: that is the news, and nothing is signed over it
    except CofferError as error:
        raise UnavailableError(
            "the change is made and durable in the keyring, but it is not signed yet, so an older keyring put back"
            f" would not be noticed: {error}",
            hint="mend the cause, then run coffer checkpoint sign, which completes it; a running server does it by"
            " itself",
        ) from error
