"""What ever opened an epoch, as a certificate of erasure says it: what keyring and log agree on, receipts with records.

Rule: nothing of it may be missing. The log tells of everything that started to open an epoch, and a keyring that knows
less proves nothing. A receipt counts with its record only, and not while the secret is back at its provider.
"""

from collections.abc import Iterator

from coffer.archive.tree.certificate import SHARES, EpochOpener
from coffer.keys.crypto.shamir import Group
from coffer.keys.errors import IntegrityError
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.server.erasure.history import Deeds, Noted

__all__ = ["ProvedOpeners"]


class ProvedOpeners:
    """Every epoch's openers. Asks the providers, once, whether secrets that were destroyed are back."""

    def __init__(self, keyring: Keyring, deeds: Deeds) -> None:
        """Raises IntegrityError where the log tells of an opener that the keyring does not know."""
        self._deeds = deeds
        self._keepers = keyring.keepers()
        self._groups = keyring.share_groups()
        self._burned = keyring.burned()
        self._back = keyring.returned()
        self._records: dict[int, Noted] = {}
        known = {(each.epoch, each.id) for each in self._keepers}
        unknown = [str(each) for place, each in deeds.keepers.items() if place not in known]
        groups = {each.group for each in self._groups}
        unknown += [f"shares of group {group.hex()}" for group in deeds.groups if group not in groups]
        if unknown:
            raise IntegrityError(
                f"the log tells of something that opens an epoch and is not in the keyring: {unknown[0]}",
                hint="put the newest keyring back, then coffer keys audit",
            )

    def of(self, epoch: int) -> tuple[EpochOpener, ...]:
        """An epoch's openers, providers first. Raises IntegrityError where there is none, or a record is missing."""
        found = tuple(self._each(epoch))
        if all(each.kind == SHARES for each in found):
            raise IntegrityError(
                f"the keyring does not say what opened epoch {epoch}",
                hint="coffer shred finish, then coffer keys audit",
            )
        return found

    def record(self, number: int) -> Noted:
        """The record of a receipt that `of` gave."""
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
        noted = self._deeds.receipts.get((keeper.epoch, keeper.id))
        if noted is None or noted.event.time_ms != keeper.receipt_ms:
            raise IntegrityError(
                f"the log has no record of the receipt for epoch {keeper.epoch} that the keyring keeps",
                hint="coffer recover show tells whether the log lost records",
            )
        self._records[noted.seq] = noted
        caveat = noted.text("caveat")
        return EpochOpener(keeper.kind, name, keeper.name, keeper.receipt_ms, keeper.effective_ms, noted.seq, caveat)

    def _why(self, keeper: Keeper) -> str:
        """Why a receipt does not count."""
        if not keeper.is_ended:
            return "it has given no receipt"
        if keeper.epoch in self._back.epochs:
            return "its secret is back at its provider"
        return "its provider cannot be asked now whether the deletion was taken back"

    def _of_group(self, of: Group) -> EpochOpener:
        burned = self._burned.get(of.group, Burned())
        name, group = f"{of.threshold} of {of.count}", of.group.hex()
        if not burned.closed_ms:
            return EpochOpener(
                SHARES, group, name, None, None, None, f"{burned.left(of)} of {of.count} may be there yet"
            )
        told = self._deeds.burned.get(of.group, [])
        noted = next((each for each in told if each.event.time_ms == burned.closed_ms), None)
        if noted is None:
            raise IntegrityError(
                f"the log has no record that shares of group {group} were burned, which the keyring tells of",
                hint="coffer recover show tells whether the log lost records",
            )
        self._records[noted.seq] = noted
        caveat = f"by the word of {noted.text('officer')}, without any proof; {burned.left(of)} may be there yet"
        return EpochOpener(SHARES, group, name, burned.closed_ms, burned.closed_ms, noted.seq, caveat)
