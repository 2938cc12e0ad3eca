"""Recover an archive's key without its provider: from shares to an epoch row that another provider opens.

Rule: the key is checked against the keyring before anything is written; the new provider's secret is durable before the
row that needs it. Every step may be repeated. It works beside a running server, whose keys in memory stay valid. It
knows no share files and prompts nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path

from coffer.keys.crypto import selftest
from coffer.keys.crypto.shamir import Recovered
from coffer.keys.errors import FormatError, IntegrityError, KeyUnavailableError, ShreddedError, UnavailableError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper, require_keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.overview import header_in
from coffer.keys.keyring.rows import EpochRow, KeyRow
from coffer.keys.providers.base import KekProvider
from coffer.keys.shares.provider import RecoveredProvider
from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.values.epoch import GONE
from coffer.keys.values.waiting_event import WaitingEvent

__all__ = ["Recovery", "RecoveryProof"]


@dataclass(frozen=True, slots=True)
class RecoveryProof:
    """What a recovered key opens: its epoch, the current epoch, whether the archive root key is under it, how many
    study keys are, and how many there are in all."""

    epoch: int
    current: int
    archive: bool
    opened: int
    studies: int


class Recovery:
    """A keyring and the KEK recovered from shares. Opens the keyring read-only, and only while it proves."""

    def __init__(self, folder: Path, recovered: Recovered) -> None:
        """Raises KeyUnavailableError for another archive or an unknown epoch, ShreddedError for a destroyed one."""
        selftest.require()
        self._folder = folder
        self._of = of = recovered.of
        self._kek = recovered.kek
        store = LmdbKeyringStore(folder, readonly=True)
        try:
            self._header = header = header_in(store)
            if header.archive_id != of.archive_id:
                raise KeyUnavailableError(
                    f"the shares are of archive {of.archive_id.hex()}, this one is {header.archive_id.hex()}",
                    hint="select the right archive with --archive, or use the right shares",
                )
            self._row = _epoch_row(store, of.epoch)
        finally:
            store.close()
        if self._row.state in GONE:
            raise ShreddedError(
                f"key epoch {of.epoch} was destroyed on purpose, and its shares no longer open anything",
                hint=f"burn them; the current epoch is {header.epoch}: coffer keys split -n N -k K -o FOLDER splits"
                " its key",
            )
        if self._row.kek_id != of.kek_id:
            raise KeyUnavailableError(
                f"the shares are of another key of epoch {of.epoch} than the keyring's",
                hint="an older keyring was restored, or a new one was made: use the shares that belong to it",
            )

    def prove(self, progress: Callable[[], None] = lambda: None) -> RecoveryProof:
        """Open every key under the epoch, about 20 us each, and change nothing.

        Raises KeyUnavailableError when the KEK does not open them, or when no key is under the epoch any more.
        """
        opened = seen = 0
        archive = False

        def visit(key: bytes, value: bytes) -> None:
            nonlocal opened, seen, archive
            progress()
            is_own = key in rows.OWN_KEYS
            seen += not is_own
            row = KeyRow.decode(value)
            if row.epoch != self._of.epoch:
                return
            row.unwrap(self._kek, self._header.archive_id, rows.NO_ID if is_own else key[1:])
            opened += not is_own
            archive |= key == rows.ARCHIVE_ROOT_KEY

        store = LmdbKeyringStore(self._folder, readonly=True)
        try:
            for own in rows.OWN_KEYS:
                store.walk(own, visit)
            store.walk(rows.STUDY_PREFIX, visit)
        except IntegrityError as error:
            raise KeyUnavailableError(
                f"the shares give a key that does not open this keyring: {error}",
                hint="verify the keyring (coffer verify), and try another backup of it",
            ) from error
        finally:
            store.close()
        if not (opened or archive):
            raise KeyUnavailableError(
                f"the shares are stale: no key is under epoch {self._of.epoch} any more, the current one is"
                f" {self._header.epoch}",
                hint="use shares of the current epoch; without them only its provider opens the archive",
            )
        return RecoveryProof(self._of.epoch, self._header.epoch, archive, opened, seen)

    def provider(self, beside: KekProvider) -> KekProvider:
        """Return a provider that opens the keyring with the recovered key: it makes and keeps nothing."""
        return RecoveredProvider(self._of, self._kek, beside)

    def move(
        self,
        keyring: Keyring,
        provider: KekProvider,
        command: str,
        event: Callable[[Sequence[Keeper]], WaitingEvent],
    ) -> bool:
        """Make `provider` the keeper of the epoch: first its secret, then the epoch row, the new keeper and what
        `event` makes of all keepers so far; all durable on return. Earlier keepers stay in the keyring, because
        older copies of it name them. Returns False, with nothing changed, where it keeps the epoch already.

        `keyring` is the same one, open. Others are shown `command`. Raises LockedError while another process changes
        the keys, UnavailableError when the row changed meanwhile, IntegrityError for rows that somebody else wrote, and
        what the provider raises.
        """
        with keyring.exclusive(command):
            keyring.require_whole()
            return self._move(keyring, provider, event)

    def _move(self, keyring: Keyring, provider: KekProvider, event: Callable[[Sequence[Keeper]], WaitingEvent]) -> bool:
        of = self._of
        context = rows.epoch_context(of.archive_id, of.kek_id, of.epoch)
        if self._is_kept_by(provider, context):
            return False
        wrapped = provider.adopt_epoch(of.epoch, self._kek, context)
        if not provider.unwrap(wrapped, context).matches(self._kek):
            raise KeyUnavailableError(f"the {provider.kind} provider does not open what it has just wrapped")
        key = rows.epoch_row_key(of.epoch)
        moved = with_changes(self._row, provider=provider.kind, wrapped=wrapped)
        keeper = Keeper.of(of.epoch, provider.kind, provider.holding(of.epoch))
        before = [each for each in keyring.keepers() if each.epoch == of.epoch]
        require_keeper(self._row, before)
        fresh = [] if any(each.id == keeper.id for each in before) else [keeper]
        told = event([*before, *fresh])
        put = [(key, moved.encode()), *((each.row_key, each.encode()) for each in fresh), told.row]
        if not keyring.amend(put, expected=[(key, self._row.encode())]):
            raise UnavailableError("the key epoch changed meanwhile", hint="wait for the rotation, then try again")
        return True

    def _is_kept_by(self, provider: KekProvider, context: bytes) -> bool:
        if self._row.provider != provider.kind:
            return False
        try:
            return provider.unwrap(self._row.wrapped, context).matches(self._kek)
        except (FormatError, KeyUnavailableError):
            return False  # for example another key file


def _epoch_row(store: KeyringStore, epoch: int) -> EpochRow:
    value = store.get(rows.epoch_row_key(epoch))
    if value is None:
        raise KeyUnavailableError(
            f"the keyring has no epoch {epoch}", hint="the keyring is older than the shares: restore a newer one"
        )
    return EpochRow.decode(value)
