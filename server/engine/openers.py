"""What events record of an epoch's openers, so that a restored or altered keyring loses none of them.

Rule: everything that begins to open an epoch is in an event, as the bytes of its keyring row, and every rotation
records all that still do. Receipts and burned shares are recorded likewise. Pure: `missing` compares, and writes
nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import EpochState

__all__ = ["GIVEN_UP", "SHARES_BURNED", "OpenerHistory", "Openers", "facts_of"]

SHARES_BURNED: Final = "key shares burned"
GIVEN_UP: Final = "key split given up"


def facts_of(keepers: Iterable[Keeper] = (), groups: Iterable[Group] = ()) -> dict[str, object]:
    """The facts that an event records of openers."""
    return {"keepers": [each.encode().hex() for each in keepers], "groups": [each.encode().hex() for each in groups]}


@dataclass(frozen=True, slots=True)
class Openers:
    """Keepers and groups that one event records, the group that it says was given up (b"": none), and by group which
    shares are burned by then."""

    keepers: tuple[Keeper, ...]
    groups: tuple[Group, ...]
    given_up: bytes
    burned: Mapping[bytes, Burned]

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> "Openers":
        """Read an event's facts; most events have none. Raises FormatError, InputError for a value that is no row."""
        what, group = facts.get("what"), bytes.fromhex(str(facts.get("group", "")))
        burned = {group: Burned.decode(bytes.fromhex(str(facts["row"])))} if what == SHARES_BURNED else {}
        return cls(
            tuple(Keeper.decode(each) for each in _rows(facts, "keepers")),
            tuple(Group.decode(each) for each in _rows(facts, "groups")),
            group if what == GIVEN_UP else b"",
            burned,
        )


def _rows(facts: Mapping[str, object], name: str) -> Sequence[bytes]:
    found = facts.get(name)
    return [bytes.fromhex(str(each)) for each in found] if isinstance(found, list) else []


@dataclass(slots=True)
class OpenerHistory:
    """What a range of the log records of openers, as of its end."""

    keepers: dict[bytes, Keeper] = field(default_factory=dict)  # by row key, as `groups` and `burned`
    groups: dict[bytes, Group] = field(default_factory=dict)
    burned: dict[bytes, Burned] = field(default_factory=dict)

    def add(self, facts: Mapping[str, object]) -> None:
        """Add one event."""
        event = Openers.of(facts)
        for each in event.keepers:
            if each.is_ended or each.row_key not in self.keepers:
                self.keepers[each.row_key] = each
        self.groups |= {rows.SHARES_PREFIX + each.group: each for each in event.groups}
        self.groups.pop(rows.SHARES_PREFIX + event.given_up, None)
        self.burned |= {rows.BURNED_PREFIX + group: each for group, each in event.burned.items()}

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
