"""A small archive that has lived, older and other states of it, and the live copy that each case is done to.

`mine` is the archive as a kill left it, with groups behind its last checkpoint; it has several segments, versions, a
shred, holds, a split, a rekey, rotations of keys and signing key, and an epoch of the log that a confirmed clock began.
The attacker has kept `then` (an older checkpoint), `late` (between the last checkpoint and the end), `fork` (a copy of
`then` that went on by itself, with the same keys), `drill` (a copy of the end that did so) and `other` (another
archive).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from coffer.archive.body.spool import Spool
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.scrub import Scrub
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import orders
from coffer.keys.mailbox.officer_records import OfficerRecordAdmin
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from tests.server.filled import run, status
from tests.services import services
from tests.set_clock import DAY_MS, SetClock

SEGMENT_BYTES = 5_000
_WITH_A_DEFAULT = (  # not the index, whose threads would draw in any order
    Keyring.create.__func__, Keyring.open.__func__, generate_keyfile,
    KeyFileProvider.__init__, OfficerRecordAdmin.__init__, orders.give, Spool.__init__,
)  # type: ignore[attr-defined]  # fmt: skip
COPIES = ("then", "late", "fork", "drill", "other")
_CT, _EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
_CONFIG = """archive = '{archive}'
[keys]
key_file = '{base}/key'
[storage]
reserve_bytes = 0
[http]
enabled = false
[integrity]
mark = '{mark}'
"""


@dataclass(frozen=True, slots=True)
class World:
    """`live` is what a case changes and commands look at; the configs differ in what they know from outside: nothing,
    the verifier key, or the mark. `files` is every file of `mine` by its path, which `restore` brings back."""

    base: Path
    files: dict[str, bytes]
    folders: tuple[str, ...]
    mark: bytes
    vkey: str

    @property
    def live(self) -> Path:
        return self.base / "data"

    def copy(self, name: str) -> Path:
        """The folder of one of `COPIES`."""
        return self.base / name

    def config(self, anchor: str) -> Path:
        """The file of settings for "none", "vkey" or "mark"."""
        return self.base / f"{anchor}.toml"

    def restore(self) -> None:
        """Make the live archive, and the mark, what they were: only what differs is written."""
        for path in sorted(self.live.rglob("*"), reverse=True):
            name = str(path.relative_to(self.live))
            if path.is_symlink() or (path.is_file() and name not in self.files):
                path.unlink()
            elif path.is_dir() and name not in self.folders:
                path.rmdir()
        for name in self.folders:
            (self.live / name).mkdir(exist_ok=True)
        for name, data in self.files.items():
            path = self.live / name
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)
        if (self.base / "mark").read_bytes() != self.mark:
            (self.base / "mark").write_bytes(self.mark)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, but the locks, which hold nothing outside a process."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def store(base: Path, *objects: tuple[int, int, str], then: Path | None = None, sign: bool = True) -> None:
    """Store objects (study, number, comment). `then`: the folder becomes what a kill would leave of it there."""
    with open_writer(config_at(base / "mark.toml")) as engine:
        put(engine, *objects)
        if sign:
            engine.sign_checkpoint()
        if then is not None:
            _copy(engine, base, then)


def _copy(engine: WritableArchive, base: Path, to: Path) -> None:
    """What a kill would leave now. How much of the index is on disk by then is otherwise a matter of time."""
    engine.index.flush()
    shutil.copytree(base / "data", to)


def put(engine: object, *objects: tuple[int, int, str]) -> list[int]:
    """Store objects (study, number, comment) by the real service; returns DIMSE statuses."""
    statuses = []
    for study, number, comment in objects:
        ds = sample_study()[0]
        del ds.PixelData
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{study}", f"1.2.{study}.1"
        ds.SOPInstanceUID, ds.ImageComments, ds.PatientID = f"1.2.{study}.1.{number}", comment, f"P-{study % 4}"
        request = StoreRequest(_CT, ds.SOPInstanceUID, _EXPLICIT_LE, _peer())
        reception = services(engine).ingest.begin(request)  # type: ignore[arg-type]
        reception.write(encoded(ds))
        statuses.append(status(reception.finish()))
    return statuses


def _peer() -> object:
    from coffer.server.access.principal import Principal

    return Principal.peer("TESTER")


def make(base: Path, seed: int = 1) -> World:
    """Make everything in an empty folder. Ids and sizes follow from the seed, so that a case can be repeated."""
    base.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, _repeatable(patch, base, seed) as clock:
        _settings(base / "elsewhere")
        run("--config", str(base / "elsewhere" / "mark.toml"), "init")
        store(base / "elsewhere", *((9, n, "another archive's") for n in range(4)))
        shutil.copytree(base / "elsewhere" / "data", base / "other")
        _settings(base)
        _live_a_little(base, clock)
    mark = (base / "mark").read_bytes()
    vkey = json.loads((base / "data" / "archive.json").read_text())["vkey"]
    folders = sorted(str(path.relative_to(base / "data")) for path in (base / "data").rglob("*") if path.is_dir())
    world = World(base, files_of(base / "data"), tuple(folders), mark, vkey)
    (base / "vkey.toml").write_text((base / "vkey.toml").read_text() + f"vkey = '{vkey}'\n")
    return world


def _settings(base: Path) -> None:
    base.mkdir(exist_ok=True)
    for anchor in ("none", "vkey", "mark"):
        mark = base / ("mark" if anchor == "mark" else "no mark")
        text = _CONFIG.format(base=base, archive=base / "data", mark=mark)
        (base / f"{anchor}.toml").write_text(text)


def _live_a_little(base: Path, clock: SetClock) -> None:
    def coffer(*args: str) -> None:
        run("--config", str(base / "mark.toml"), *args)

    coffer("init")
    store(base, *((1, n, "first") for n in range(5)), (2, 1, "second"))
    store(base, (1, 2, "another version"), (3, 1, "third"), (3, 2, "third"))
    coffer("hold", "add", "1.2.2", "--reason", "court case")
    coffer("keys", "split", "-n", "2", "-k", "2", "-o", str(base / "shares"))
    shutil.copytree(base / "data", base / "then")
    coffer("keys", "rotate-signing", "--reason", "yearly")
    coffer("shred", "1.2.3", "--reason", "erased", "--yes")
    coffer("keys", "rekey", "1.2.1", "--reason", "suspicion", "--yes")
    coffer("keys", "rotate")
    clock.jump(400 * DAY_MS)
    store(base, (4, 1, "with a clock ahead"))
    clock.jump(-400 * DAY_MS)
    coffer("clock", "confirm", "--reason", "time server was wrong")
    store(base, *((5, n, "after it") for n in range(4)), (1, 3, "newest version"))
    _go_on(base, base / "then", "fork", 12)
    with open_writer(config_at(base / "mark.toml")) as engine:
        put(engine, (5, 9, "signed"))
        engine.sign_checkpoint()
        put(engine, (6, 1, "behind it"), (1, 1, "newer"))
        _copy(engine, base, base / "late")
        put(engine, (6, 2, "at the end"), (7, 1, "at the end"))
        _copy(engine, base, base / "killed")
        mark = (base / "mark").read_bytes()
    (base / "mark").write_bytes(mark)
    shutil.rmtree(base / "data")
    (base / "killed").rename(base / "data")
    folder = ArchiveFolder.open(base / "data")
    scrub = Scrub(folder, remembered=lambda: None, now_ms=lambda: 1, pace=lambda _: None, on_finding=lambda _: None)
    scrub.segment()
    shutil.copytree(base / "data" / "scrub", base / "other" / "scrub", dirs_exist_ok=True)
    _go_on(base, base / "data", "drill", 4)


def _go_on(base: Path, source: Path, name: str, objects: int) -> None:
    """A copy that goes on by itself, with the same keys and a signing key that the archive's own endorsed."""
    twin = base / f"twin of {name}"
    _settings(twin)
    shutil.copytree(source, twin / "data")
    shutil.copy(base / "key", twin / "key")
    run("--config", str(twin / "mark.toml"), "mark", "renew", "--reason", name)
    run("--config", str(twin / "mark.toml"), "keys", "rotate-signing", "--reason", name)
    store(twin, *((8, n, f"of the {name}") for n in range(objects)), then=base / name)


@contextmanager
def _repeatable(patch: pytest.MonkeyPatch, base: Path, seed: int) -> Iterator[SetClock]:
    source, real = random.Random(seed), os.urandom
    patch.setattr(os, "urandom", source.randbytes)
    for function in _WITH_A_DEFAULT:  # which they have kept since they were imported
        defaults, named = function.__defaults__ or (), function.__kwdefaults__ or {}
        patch.setattr(function, "__defaults__", tuple(source.randbytes if each is real else each for each in defaults))
        for name, value in named.items():
            patch.setitem(named, name, source.randbytes if value is real else value)
    clock = SetClock(base / "clock.json")
    clock.install(patch)
    yield clock


def config_at(file: Path) -> Config:
    """The settings in a file, with segments smaller than a file may ask for: commands add to the one that is open."""
    config = load_config(file)
    storage = msgspec.structs.replace(config.storage, segment_bytes=SEGMENT_BYTES)
    return msgspec.structs.replace(config, storage=storage)


def mark_size(mark: bytes) -> int:
    """How many records a mark names."""
    return int(json.loads(mark[: mark.rindex(b"}") + 1])["size"])
