"""The same steps on the real keyring, with providers in memory, and somebody who has every copy of it that ever was."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.crypto.shamir import Share, combine
from coffer.keys.errors import CofferError
from coffer.keys.keyring import rows, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import EpochRow, KeyRow
from coffer.keys.memory.secret import Secret
from coffer.keys.shares import groups
from coffer.keys.shares.recovery import Recovery
from coffer.keys.values.epoch import EpochState
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Keys
from coffer.server.engine.erasure_state import EFFECTIVE, Erasure, erasures
from coffer.server.erasure.finish import finish_keys
from coffer.server.keyops.epochs import EpochAdmin
from tests.erasure.model import Model
from tests.erasure.stores import InPlace, Store
from tests.keys.left import left

ARCHIVE_ID = bytes(range(16))
STUDY = b"the study's keys"
NOW = 1_800_000_000_000
NOBODY = Principal.person("nobody", "nobody")


def random_from(seed: str) -> Callable[[int], bytes]:
    """Bytes that a seed gives."""
    calls = itertools.count()

    def take(length: int) -> bytes:
        return hashlib.shake_128(f"{seed} {next(calls)}".encode()).digest(length)

    return take


@dataclass(slots=True)
class World:
    """A keyring in `folder`, its providers' places by number as in `Model`, the shares that are not burned, and what
    the adversary has seen: wrapped keys of epochs and of the study, from every copy."""

    folder: Path
    places: dict[int, Store]
    in_place: dict[str, int]
    current: str
    shares: list[Share]
    wrapped: set[tuple[int, bytes, bytes]] = field(default_factory=set)  # epoch, KEK id, wrapped
    study_rows: set[bytes] = field(default_factory=set)
    path: str = ""
    _ring: Keyring | None = None

    @classmethod
    def begin(cls, folder: Path, hsm: Store | None = None) -> World:
        """An archive's keyring with one study; with `hsm`, that is the HSM."""
        places = {0: Store("file", "file 0"), 1: hsm or Store("hsm", "hsm 1")}
        made = cls(folder, places, {"file": 0, places[1].kind: 1}, "file", [])
        made._ring = Keyring.create(folder, made.providers, ARCHIVE_ID, random_from("begin"), lambda: NOW)
        made._ring.new_study(STUDY)
        made._see()
        return made

    def copy(self, folder: Path) -> World:
        """The same in another folder."""
        folder.mkdir()
        shutil.copyfile(self.folder / "data.mdb", folder / "data.mdb")
        places = {number: store.copy() for number, store in self.places.items()}
        return World(
            folder,
            places,
            dict(self.in_place),
            self.current,
            list(self.shares),
            set(self.wrapped),
            set(self.study_rows),
            self.path,
        )

    def close(self) -> None:
        """Close the keyring, and remove it."""
        self._close()
        shutil.rmtree(self.folder)

    def step(self, name: str) -> None:
        """Do it; what is refused is not done."""
        self.path += f"/{name}"
        try:
            getattr(self, "do_" + name.replace(" ", "_"))()
        finally:
            if name not in {"back", "old copy"}:  # the others change the keyring
                self._see()

    def do_split(self) -> None:
        ring = self._open()
        made = ring.make_shares(2, 3)
        groups.begin(ring, made[0].of, bytes(16), left(b"event", made[0].of.group))
        groups.end(ring, made[0].of)
        self.shares += made

    def do_recover(self) -> None:
        row = self._current_row()
        shares = [each for each in self.shares if each.of.epoch == row.epoch]
        if not shares:
            return
        of = shares[-1].of
        lost = next(n for n, store in self.places.items() if self._opens(store, row))
        new = max(self.places) + 1
        self.places[lost].lose()
        self.places[new] = Store("file", f"file {new}")
        self.in_place["file"], self.current = new, "file"
        self._close()
        recovery = Recovery(self.folder, combine({str(s.index): s for s in shares if s.of == of}))
        recovery.prove()
        provider = self.places[new].provider(random_from(self.path))
        ring = Keyring.open(
            self.folder, recovery.provider(provider), False, random_from(self.path + "/ring"), lambda: NOW
        )
        assert recovery.move(ring, provider, "test", lambda _: left(b"event", of.group))
        ring.close()

    def do_change(self) -> None:
        self._rotate(self.places[1].kind if self.current == "file" else "file")

    def do_rotate(self) -> None:
        self._rotate(self.current)

    def do_shred(self) -> None:
        ring = self._open()
        shred.schedule(ring, {STUDY: bytes(16)}, now_ms=NOW, until_ms=NOW)
        shred.drop(ring, [STUDY])

    def do_finish(self) -> None:
        ring = self._open()
        renewal = self._renewal(ring)
        try:
            finish_keys(ring, renewal, lambda *_: None, destroy=True, early=True)
        except CofferError:
            return
        for store in self.places.values():  # those that are found again, and not configured any more
            if not store.away and store is not self.places[self.in_place[store.kind]]:
                self._end_at(ring, renewal, store)

    def do_back(self) -> None:
        for store in self.places.values():
            store.away = False

    def do_old_copy(self) -> None:
        for number in self.in_place.values():
            if not self.places[number].away:
                self.places[number].put_old_copy_back()

    def burn(self) -> None:
        """All shares there are, of every group."""
        if not self.shares:
            return
        ring = self._open()
        for of in {share.of for share in self.shares}:
            groups.burn(ring, of, [1, 2, 3], NOW, lambda _: left())
        self.shares.clear()

    # What is true

    def erasures(self) -> list[Erasure]:
        """What Coffer says."""
        ring = self._open()
        return erasures(ring, lambda: NOW)

    def is_erased(self) -> bool:
        """Whether Coffer says so."""
        return any(each.state == EFFECTIVE for each in self.erasures())

    def can_be_opened(self) -> bool:
        """Whether somebody with every copy of the keyring, every place and every share opens the study."""
        for value in self.study_rows:
            row = KeyRow.decode(value)
            for kek_id, kek in self._keks(row.epoch):
                if kek_id == row.kek_id and row.unwrap(kek, ARCHIVE_ID, STUDY):
                    return True
        return False

    def _keks(self, epoch: int) -> Iterator[tuple[bytes, Secret]]:
        groups: dict[bytes, list[Share]] = {}
        for share in self.shares:
            if share.of.epoch == epoch:
                groups.setdefault(share.of.group, []).append(share)
        for shares in groups.values():
            if len(shares) >= shares[0].of.threshold:
                yield shares[0].of.kek_id, combine({str(each.index): each for each in shares}).kek
        for of, kek_id, wrapped in self.wrapped:
            for store in self.places.values():
                kek = (
                    store.opens(epoch, wrapped, rows.epoch_context(ARCHIVE_ID, kek_id, epoch)) if of == epoch else None
                )
                if kek is not None:
                    yield kek_id, kek

    def _see(self) -> None:
        """The adversary takes a copy of the keyring."""
        ring = self._open()
        found = [EpochRow.decode(value) for _, value in ring.rows(rows.EPOCH_PREFIX)]
        self.wrapped |= {(row.epoch, row.kek_id, row.wrapped) for row in found if row.wrapped}
        value = ring.row(rows.STUDY_PREFIX + STUDY)
        self.study_rows |= set() if value is None else {value}

    # How

    @property
    def providers(self) -> InPlace:
        """As they are configured at any moment."""
        return InPlace(self, random_from(f"{self.path}?"))

    def _open(self) -> Keyring:
        if self._ring is None:
            random = random_from(self.path + "!")
            self._ring = Keyring.open(self.folder, self.providers, random=random, now_ms=lambda: NOW)
        return self._ring

    def _close(self) -> None:
        if self._ring is not None:
            self._ring.close()
        self._ring = None

    def _renewal(self, ring: Keyring) -> EpochAdmin:
        return EpochAdmin(ArchiveFolder(self.folder / "none", ARCHIVE_ID, "test", ""), ring, Keys(), NOBODY, "test")

    def _rotate(self, kind: str) -> None:
        before, self.current = self.current, kind
        try:
            ring = self._open()
            self._renewal(ring).rotate()
        except CofferError:
            self.current = before

    def _end_at(self, ring: Keyring, renewal: EpochAdmin, store: Store) -> None:
        for info in ring.epochs():
            if info.state is EpochState.DESTROYING:
                try:
                    renewal.destroy(info.epoch, store.provider(random_from(self.path)))
                except CofferError:
                    continue

    def _current_row(self) -> EpochRow:
        ring = self._open()
        return ring.epoch_row(ring.epoch)

    def _opens(self, store: Store, row: EpochRow) -> bool:
        context = rows.epoch_context(ARCHIVE_ID, row.kek_id, row.epoch)
        return store.opens(row.epoch, row.wrapped, context) is not None


def difference(world: World, model: Model) -> str:
    """What Coffer says, what the adversary can do and what the model says, where they are not the same; else ""."""
    told, opened, wanted = world.is_erased(), world.can_be_opened(), model.is_erased()
    if told and opened:
        return "it is called erased, and can be opened"
    if model.last and opened != model.can_be_opened():
        return f"the model is wrong: opened {opened}"
    if told != wanted:
        return f"it is called {'' if told else 'not '}erased, and is {'' if wanted else 'not '}"
    return ""


def finished(world: World, model: Model) -> str:
    """What is wrong once everything that can be destroyed was; else ""."""
    world.burn()
    model.burn()
    for name in ("back", "finish") if model.last else ("back", "shred", "finish"):
        world.step(name)
        model.step(name)
    wrong = difference(world, model)
    if wrong or world.is_erased():
        return wrong
    return f"it is never called erased: {[each.opened_by for each in world.erasures()]}"
