"""The naive model of an erasure: a set of places, each with the secrets that it has, and nothing of how Coffer works.

A study's key was under the epochs from 1 to its last, and copies of the keyring from all that time are in the wrong
hands. It can be opened while any place has a secret that ever opened one of these epochs, or while enough shares are.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

STEPS = ("split", "recover", "change", "rotate", "shred", "finish", "back", "old copy")


@dataclass(slots=True)
class Model:
    """Places are numbers; 0 is the first key file, 1 the HSM, the others are key files of recoveries."""

    epoch: int = 1
    last: int = 0  # the shredded key's last epoch, 0 while the study lives
    current: str = "file"
    in_place: dict[str, int] = field(default_factory=lambda: {"file": 0, "hsm": 1})
    away: set[int] = field(default_factory=set)
    kept_by: dict[int, int] = field(default_factory=lambda: {1: 0})  # which place opens an epoch by the newest keyring
    opened_by: dict[int, set[int]] = field(default_factory=lambda: {1: {0}})  # which ever did, by any keyring
    has: set[tuple[int, int]] = field(default_factory=lambda: {(0, 1)})  # place and epoch
    ever: set[tuple[int, int]] = field(default_factory=lambda: {(0, 1)})
    destroyed: set[tuple[int, int]] = field(default_factory=set)  # at least once
    shares: dict[int, int] = field(default_factory=dict)  # groups by epoch
    ended: set[int] = field(default_factory=set)  # epochs whose end was begun
    places: int = 2

    def copy(self) -> Model:
        return deepcopy(self)

    def step(self, name: str) -> None:
        getattr(self, "do_" + name.replace(" ", "_"))()

    def do_split(self) -> None:
        self.shares[self.epoch] = self.shares.get(self.epoch, 0) + 1

    def do_recover(self) -> None:
        """The place that opens the current epoch is lost; shares bring the key back into a new key file."""
        if not self.shares.get(self.epoch):
            return
        lost, new = self.kept_by[self.epoch], self.places
        self.places += 1
        self.away.add(lost)
        # What an old copy had brought back there goes away with it: it is a copy in a drawer again.
        self.has -= {each for each in self.destroyed if each[0] == lost}
        self.in_place["file"] = new
        self.current = "file"
        self._opens(new, self.epoch)

    def do_change(self) -> None:
        self._rotate("hsm" if self.current == "file" else "file")

    def do_rotate(self) -> None:
        self._rotate(self.current)

    def do_shred(self) -> None:
        self.last = self.last or self.epoch

    def do_finish(self) -> None:
        """What lives moves on; then every place that can be reached destroys what it has for the epochs before."""
        if self.can_be_opened() and self.last == self.epoch and not self._rotate(self.current):
            return
        if self.can_be_opened():
            self.ended |= set(range(1, self.last + 1))
        gone = {(place, epoch) for place, epoch in self.has if epoch in self.ended and place not in self.away}
        self.has -= gone
        self.destroyed |= gone

    def do_back(self) -> None:
        self.away.clear()

    def do_old_copy(self) -> None:
        places = {*self.in_place.values()} - self.away
        self.has |= {(place, epoch) for place, epoch in self.ever if place in places}

    def burn(self) -> None:
        """All shares there are."""
        self.shares.clear()

    def can_be_opened(self) -> bool:
        """Whether anybody can open the shredded study."""
        epochs = range(1, self.last + 1)
        return any(self.shares.get(epoch) for epoch in epochs) or any(
            (place, epoch) in self.has for epoch in epochs for place in self.opened_by[epoch]
        )

    def is_erased(self) -> bool:
        return self.last > 0 and not self.can_be_opened()

    def _rotate(self, kind: str) -> bool:
        place = self.in_place[kind]
        if place in self.away:
            return False
        self.current, self.epoch = kind, self.epoch + 1
        self._opens(place, self.epoch)
        return True

    def _opens(self, place: int, epoch: int) -> None:
        self.kept_by[epoch] = place
        self.opened_by.setdefault(epoch, set()).add(place)
        self.has.add((place, epoch))
        self.ever.add((place, epoch))
