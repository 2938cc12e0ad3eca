"""Events of key epochs: keys moved to a new one, an old one destroyed or given up.

Rule: everything that begins or ends to open an epoch is recorded as the bytes of its keyring row, so that a keyring
that was put back learns of it again.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import (
    By,
    Command,
    Count,
    Epoch,
    Flag,
    Groups,
    Hex16,
    Keepers,
    Ms,
    Provider,
    Reason,
    Row,
    ShareGroups,
    Text,
    doc,
)
from coffer.archive.format.record import Kind

__all__ = ["EpochAbandoned", "EpochDestroyed", "EpochRotated"]


class EpochRotated(Event, frozen=True, kw_only=True):
    """Every key of the keyring was moved to a new epoch."""

    code = "epoch.rotated"
    kind = Kind.KEYRING_ROTATED

    epoch: Epoch
    provider: Provider
    moved: Annotated[Count, doc("how many study keys were moved")]
    resumed: Annotated[Flag, doc("whether an interrupted rotation was finished")]
    keepers: Keepers
    groups: Groups
    by: By
    command: Command


class EpochDestroyed(Event, frozen=True, kw_only=True):
    """A provider destroyed a secret that opened an epoch, and gave its receipt."""

    code = "epoch.destroyed"
    kind = Kind.EPOCH_DESTROYED

    epoch: Epoch
    provider: Provider
    keeper: Annotated[Hex16, doc("the id of the secret")]
    keeper_row: Annotated[Row, doc("the row of the secret's keeper, with its receipt")]
    caveat: Annotated[Text, doc("what the provider says is left to destroy elsewhere")]
    destroyed_ms: Annotated[Ms, doc("when the provider gave its receipt")]
    effective_ms: Annotated[Ms, doc("from when on nobody can restore the secret")]
    share_groups: ShareGroups
    by: By
    command: Command


class EpochAbandoned(Event, frozen=True, kw_only=True):
    """An epoch was given up, because a provider of it is lost and has destroyed nothing."""

    code = "epoch.abandoned"

    epoch: Epoch
    provider: Provider
    reason: Reason
    cause: Annotated[Text, doc("the provider's error, as it was shown")]
    share_groups: ShareGroups
    by: By
    command: Command
