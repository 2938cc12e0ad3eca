"""Moves on rows of keyring and index: counts and the sums that need no key are made to fit each time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from random import Random

from tests.forgery.kit import index_rows, keyring_rows
from tests.forgery.moves.attacked import Attacked, CannotError
from tests.keyless import change, rows_of

_COPIES = ("then", "late", "fork", "drill")
LETTERS = "HEUAVKJTCGLMWPQIOF"


@dataclass(frozen=True, slots=True)
class KeyringRow:
    """One row of the keyring: removed, altered, as it was in a copy, under another's key, or one that was not there."""

    how: str

    @property
    def name(self) -> str:
        return f"a row of the keyring {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        rows = at.rows()
        keys = sorted(key for key in rows if key[:1] != keyring_rows.COUNTS)
        letter = rng.choice(sorted({key[:1] for key in keys}))
        same = [key for key in keys if key[:1] == letter]
        if not same:
            raise CannotError
        key = rng.choice(same)
        change(at.path / "keyring", self._changed(rows, key, same, at, rng))

    def _changed(
        self, rows: dict[bytes, bytes], key: bytes, same: list[bytes], at: Attacked, rng: Random
    ) -> dict[bytes, bytes | None]:
        if self.how == "removed":
            return {key: None}
        if self.how == "altered":
            value = bytearray(rows[key])
            value[rng.randrange(len(value))] ^= rng.randrange(1, 256)
            return {key: bytes(value)}
        if self.how == "put back":
            then = rows_of(at.world.copy(rng.choice(_COPIES)) / "keyring")
            other = sorted(k for k in then.keys() | rows.keys() if then.get(k) != rows.get(k) and k[:1] != b"D")
            key = rng.choice(other)
            return {key: then.get(key)}
        if self.how == "swapped with another":
            other_key = rng.choice(same)
            return {key: rows[other_key], other_key: rows[key]}
        kind = rng.choice(LETTERS).encode()
        return {kind + rng.randbytes(len(key) - 1 if kind == key[:1] else rng.choice((0, 4, 8, 16))): rows[key]}


@dataclass(frozen=True, slots=True)
class Buckets:
    """Some buckets of the keyring as they were in a copy, with their sums; with the states of row `S`, or not."""

    copy: str
    has_states: bool = False

    @property
    def name(self) -> str:
        states = ", and the states of all" if self.has_states else ""
        return f"buckets of the keyring of {self.copy!r}{states}"

    def apply(self, at: Attacked, rng: Random) -> None:
        rows, older = at.rows(), rows_of(at.world.copy(self.copy) / "keyring")
        now, then = keyring_rows.buckets(rows), keyring_rows.buckets(older)
        other = [number for number in range(256) if now[number] != then[number]]
        if not other:
            raise CannotError
        changed: dict[bytes, bytes | None] = {}
        for number in rng.sample(other, rng.randint(1, min(len(other), 4))):
            changed |= keyring_rows.put_back(now[number], then[number])
        if self.has_states and b"S" in older:
            changed[b"S"] = older[b"S"]
        change(at.path / "keyring", changed)


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One row of the index: removed, altered, as it was in a copy, or another archive's."""

    how: str

    @property
    def name(self) -> str:
        return f"a row of the index {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        folder = at.index()
        rows = index_rows.rows_of(folder)
        if not rows:
            raise CannotError
        tables = sorted({row[0] for row in rows})
        table = rng.choice(tables)
        row = rng.choice(sorted(each for each in rows if each[0] == table))
        if self.how == "removed":
            index_rows.change(folder, [row])
        elif self.how == "altered":
            value = bytearray(row[2])
            value[rng.randrange(len(value))] ^= rng.randrange(1, 256)
            index_rows.change(folder, [row], [(row[0], row[1], bytes(value))])
        elif self.how == "of all tables removed":
            index_rows.change(folder, [each for each in rows if each[1] != index_rows.SUM or rng.random() < 0.5])
        else:
            name = rng.choice(_COPIES) if self.how == "put back" else "other"
            theirs = index_rows.rows_of(at.world.copy(name) / "index")
            new = sorted(theirs - rows)
            if not new:
                raise CannotError
            added = rng.choice(new)
            index_rows.change(folder, [each for each in rows if each[:2] == added[:2] and each[0] != 1], [added])


@dataclass(frozen=True, slots=True)
class FileDamaged:
    """The file of the keyring or the index: a byte flipped, or cut."""

    part: str
    how: str

    @property
    def name(self) -> str:
        return f"the {self.part}'s file {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        path = at.file(f"{self.part}/data.mdb")
        data = bytearray(path.read_bytes())
        if not data:
            raise CannotError
        if self.how == "cut":
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        at.damaged.add(f"{self.part}/data.mdb")


@dataclass(frozen=True, slots=True)
class Part:
    """Whole folders: removed, or those of a copy."""

    parts: tuple[str, ...]
    copy: str = ""

    @property
    def name(self) -> str:
        return f"{' and '.join(self.parts)} {f'of {self.copy!r}' if self.copy else 'removed'}"

    def apply(self, at: Attacked, rng: Random) -> None:
        for part in self.parts:
            if not self.copy and not (at.path / part).is_dir():
                raise CannotError
            shutil.rmtree(at.path / part, ignore_errors=True)
            at.damaged.discard(f"{part}/data.mdb")
            if self.copy and (at.world.copy(self.copy) / part).is_dir():
                shutil.copytree(at.world.copy(self.copy) / part, at.path / part)


_LOG, _ALL = ("segments", "checkpoints", "tiles"), ("segments", "checkpoints", "tiles", "keyring", "index")
_PARTS = (("keyring",), ("index",), ("segments",), ("checkpoints",), _LOG, (*_LOG, "index"), (*_LOG, "keyring"), _ALL)
MOVES = (
    *(KeyringRow(how) for how in ("removed", "altered", "put back", "swapped with another", "planted")),
    *(Buckets(copy, states) for copy in _COPIES for states in (False, True)),
    *(IndexRow(how) for how in ("removed", "altered", "put back", "of another archive", "of all tables removed")),
    *(FileDamaged(part, how) for part in ("keyring", "index") for how in ("flipped", "cut")),
    *(Part((part,)) for part in ("keyring", "index", "segments", "checkpoints", "tiles", "scrub")),
    *(Part(parts, copy) for parts in _PARTS for copy in (*_COPIES, "other")),
)
