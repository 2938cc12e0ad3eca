"""What events record of an epoch's openers, so that a restored or altered keyring loses none of them.

Rule: everything that begins to open an epoch is in an event, as the bytes that keys/FORMAT.md gives it, and every
rotation records all that still do. Receipts and burned shares are recorded likewise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.shares import openers

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

    keepers: dict[tuple[int, bytes], Keeper] = field(default_factory=dict)  # by epoch and id
    groups: dict[bytes, Group] = field(default_factory=dict)  # by id, as `burned`
    burned: dict[bytes, Burned] = field(default_factory=dict)

    def add(self, facts: Mapping[str, object]) -> None:
        """Add one event."""
        event = Openers.of(facts)
        for each in event.keepers:
            if each.is_ended or (each.epoch, each.id) not in self.keepers:
                self.keepers[each.epoch, each.id] = each
        self.groups |= {each.group: each for each in event.groups}
        self.groups.pop(event.given_up, None)
        self.burned |= event.burned

    def restore(self, keyring: Keyring) -> bool:
        """Write what a keyring lacks of them, or has in an older state; durable on return. Returns whether it did."""
        return openers.restore(keyring, self.keepers.values(), self.groups.values(), self.burned)
