"""What events record of an epoch's openers, so that a restored or altered keyring loses none of them.

Rule: everything that begins to open an epoch is in an event, as the bytes of its keyring row, and every rotation
records all that still do. Receipts and burned shares are recorded likewise. Pure: `missing` compares, and writes
nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from coffer.archive.events.epochs import EpochDestroyed, EpochRotated
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.shares import KeyRecovered, SharesBurned, SharesGivenUp, SharesMade
from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import EpochState

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

    keepers: dict[bytes, Keeper] = field(default_factory=dict)  # by row key, as `groups` and `burned`
    groups: dict[bytes, Group] = field(default_factory=dict)
    burned: dict[bytes, Burned] = field(default_factory=dict)

    def add(self, event: Event | UnknownEvent) -> None:
        """Add one event. Raises as `Openers.of`."""
        of = Openers.of(event)
        for each in of.keepers:
            if each.is_ended or each.row_key not in self.keepers:
                self.keepers[each.row_key] = each
        self.groups |= {rows.SHARES_PREFIX + each.group: each for each in of.groups}
        self.groups.pop(rows.SHARES_PREFIX + of.given_up, None)
        self.burned |= {rows.BURNED_PREFIX + group: each for group, each in of.burned.items()}

    def missing(self, keyring: Keyring) -> list[tuple[bytes, bytes]]:
        """The rows that a keyring lacks or has in an older state; an epoch without remaining openers is destroyed."""
        put = [(place, of.encode()) for place, of in self.groups.items() if keyring.row(place) is None]
        for place, burned in self.burned.items():
            value = keyring.row(place)
            before = Burned() if value is None else Burned.decode(value)
            if burned.numbers & ~before.numbers:
                put.append((place, burned.encode()))
        known = {each.row_key: each for each in keyring.keepers()}
        fresh = {
            place: each
            for place, each in self.keepers.items()
            if place not in known or (each.is_ended and not known[place].is_ended)
        }
        now = [*(known | fresh).values()]
        for info in keyring.epochs():
            row = keyring.epoch_row(info.epoch)
            of = [each for each in now if each.epoch == info.epoch]
            if row.state in rows.GONE - {EpochState.DESTROYED} and of and all(each.is_ended for each in of):
                put.append(
                    (rows.epoch_row_key(row.epoch), replace(row, state=EpochState.DESTROYED, wrapped=b"").encode())
                )
        return put + [(place, each.encode()) for place, each in fresh.items()]
