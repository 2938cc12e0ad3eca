"""What events record of an epoch's openers, so that a restored or altered keyring loses none of them.

Rule: everything that begins to open an epoch is in an event, as the bytes that keys/FORMAT.md gives it, and every
rotation records all that still do. Receipts and burned shares are recorded likewise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coffer.archive.events.epochs import EpochDestroyed, EpochRotated
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.shares import KeyRecovered, SharesBurned, SharesGivenUp, SharesMade
from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.shares import openers

__all__ = ["OpenerHistory", "Openers"]


@dataclass(frozen=True, slots=True)
class Openers:
    """Keepers and groups that one event records, the group that it says was given up (b"": none), and by group which
    shares are burned by then."""

    keepers: tuple[Keeper, ...] = ()
    groups: tuple[Group, ...] = ()
    given_up: bytes = b""
    burned: Mapping[bytes, Burned] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Event | UnknownEvent) -> "Openers":
        """Read an event; most have none. Raises FormatError, InputError for a value that is no row."""
        found = cls()
        match event:
            case EpochRotated():
                found = cls(_keepers(event.keepers), _groups(event.groups))
            case EpochDestroyed():
                found = cls(_keepers([event.keeper_row]))
            case KeyRecovered():
                found = cls(_keepers(event.keepers))
            case SharesMade():
                found = cls(groups=_groups([event.group_row]))
            case SharesGivenUp():
                found = cls(given_up=bytes.fromhex(event.group))
            case SharesBurned():
                burned = Burned.decode(bytes.fromhex(event.burned_row))
                found = cls(groups=_groups([event.group_row]), burned={bytes.fromhex(event.group): burned})
        return found


def _keepers(values: Iterable[str]) -> tuple[Keeper, ...]:
    return tuple(Keeper.decode(bytes.fromhex(each)) for each in values)


def _groups(values: Iterable[str]) -> tuple[Group, ...]:
    return tuple(Group.decode(bytes.fromhex(each)) for each in values)


@dataclass(slots=True)
class OpenerHistory:
    """What a range of the log records of openers, as of its end."""

    keepers: dict[tuple[int, bytes], Keeper] = field(default_factory=dict)  # by epoch and id
    groups: dict[bytes, Group] = field(default_factory=dict)  # by id, as `burned`
    burned: dict[bytes, Burned] = field(default_factory=dict)

    def add(self, event: Event | UnknownEvent) -> None:
        """Add one event. Raises as `Openers.of`."""
        of = Openers.of(event)
        for each in of.keepers:
            if each.is_ended or (each.epoch, each.id) not in self.keepers:
                self.keepers[each.epoch, each.id] = each
        self.groups |= {each.group: each for each in of.groups}
        self.groups.pop(of.given_up, None)
        self.burned |= of.burned

    def restore(self, keyring: Keyring) -> bool:
        """Write what a keyring lacks of them, or has in an older state; durable on return. Returns whether it did."""
        return openers.restore(keyring, self.keepers.values(), self.groups.values(), self.burned)
