"""What ever opened an epoch, as a certificate of erasure lists it: as keyring and log agree, receipts with records.

Rule: no opener may be missing. The log names everything that ever began to open an epoch, and a keyring that knows less
proves nothing. A receipt counts only with its record, and not while the secret is back at its provider.
"""

from collections.abc import Iterator

from coffer.archive.events.event import Event
from coffer.archive.tree.certificate import SHARES, EpochOpener
from coffer.keys.crypto.shamir import Group
from coffer.keys.errors import IntegrityError
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.server.erasure.history import ErasureHistory, RecordedEvent

__all__ = ["ProvedOpeners"]


class ProvedOpeners:
    """The openers of every epoch. Asks the providers once whether destroyed secrets are back."""

    def __init__(self, keyring: Keyring, history: ErasureHistory) -> None:
        """Raises IntegrityError if the log names an opener that the keyring does not know."""
        self._history = history
        self._keepers = keyring.keepers()
        self._groups = keyring.share_groups()
        self._burned = keyring.burned()
        self._back = keyring.returned()
        self._records: dict[int, RecordedEvent[Event]] = {}
        known = {(each.epoch, each.id) for each in self._keepers}
        unknown = [str(each) for place, each in history.keepers.items() if place not in known]
        groups = {each.group for each in self._groups}
        unknown += [f"shares of group {group.hex()}" for group in history.groups if group not in groups]
        if unknown:
            raise IntegrityError(
                f"the log names something that opens an epoch and is not in the keyring: {unknown[0]}",
                hint="put the newest keyring back, then coffer keys audit",
            )

    def of(self, epoch: int) -> tuple[EpochOpener, ...]:
        """Return an epoch's openers, providers first. Raises IntegrityError if it has none, or a record is missing."""
        found = tuple(self._each(epoch))
        if all(each.kind == SHARES for each in found):
            raise IntegrityError(
                f"the keyring does not say what opened epoch {epoch}",
                hint="coffer shred finish, then coffer keys audit",
            )
        return found

    def record(self, number: int) -> RecordedEvent[Event]:
        """Return the record of a receipt that `of` returned."""
        return self._records[number]

    def _each(self, epoch: int) -> Iterator[EpochOpener]:
        for keeper in self._keepers:
            if keeper.epoch == epoch:
                yield self._of_keeper(keeper)
        for group in self._groups:
            if group.epoch == epoch:
                yield self._of_group(group)

    def _of_keeper(self, keeper: Keeper) -> EpochOpener:
        name = keeper.id.hex()
        if not keeper.is_ended or not self._back.is_gone(keeper, keeper.effective_ms):
            return EpochOpener(keeper.kind, name, keeper.name, None, None, None, self._why(keeper))
        recorded = self._history.receipts.get((keeper.epoch, keeper.id))
        if recorded is None or recorded.time_ms != keeper.receipt_ms:
            raise IntegrityError(
                f"the log has no record of the receipt for epoch {keeper.epoch} in the keyring",
                hint="coffer recover show says whether the log lost records",
            )
        self._records[recorded.seq] = recorded
        caveat = recorded.event.caveat
        return EpochOpener(keeper.kind, name, keeper.name, keeper.receipt_ms, keeper.effective_ms, recorded.seq, caveat)

    def _why(self, keeper: Keeper) -> str:
        """Why a receipt does not count."""
        if not keeper.is_ended:
            return "it has given no receipt"
        if keeper.epoch in self._back.epochs:
            return "its secret is back at its provider"
        return "its provider cannot be asked now whether the deletion was cancelled"

    def _of_group(self, of: Group) -> EpochOpener:
        burned = self._burned.get(of.group, Burned())
        name, group = f"{of.threshold} of {of.count}", of.group.hex()
        if not burned.closed_ms:
            return EpochOpener(
                SHARES, group, name, None, None, None, f"{burned.left(of)} of {of.count} may still exist"
            )
        events = self._history.burned.get(of.group, [])
        recorded = next((each for each in events if each.time_ms == burned.closed_ms), None)
        if recorded is None:
            raise IntegrityError(
                f"the log has no record that shares of group {group} were burned, as the keyring says",
                hint="coffer recover show says whether the log lost records",
            )
        self._records[recorded.seq] = recorded
        caveat = f"stated by {recorded.event.by.name}, without any proof; {burned.left(of)} may still exist"
        return EpochOpener(SHARES, group, name, burned.closed_ms, burned.closed_ms, recorded.seq, caveat)
