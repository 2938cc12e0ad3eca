"""Every file of an archive, flipped byte by byte, cut, or put back to an older state: found, or shown to be harmless.

Segments and checkpoints are in tests/archive/verify/test_verify.py and test_history.py. The LMDB files are sampled; the
whole is `COFFER_EVERY_BYTE=1 pytest tests/integrity`, ten minutes.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from coffer.archive.events.repairs import SegmentRepaired
from coffer.archive.format.chain import read_footer
from coffer.archive.repair.deferred_events import DeferredEvent, defer, read_deferred
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.source import FileSource
from coffer.archive.tree.checkpoint import open_checkpoint
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.scrub import Scrub, parse_position
from coffer.archive.verify.verify import Finding, Options, Verifier, VerifyLevel
from coffer.keys.errors import CofferError, FormatError, NotFoundError
from coffer.server.access.principal import Principal
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.maintenance.offline import inspect_index, inspect_keyring
from coffer.server.services.api import StoreRequest
from tests.archive.events.samples import sample
from tests.server.filled import flip
from tests.services import services

SCRIPT = Path(__file__).with_name("lmdb_flips.py")
STEP = 1 if os.environ.get("COFFER_EVERY_BYTE") else 83
EXPLICIT_LE = "1.2.840.10008.1.2.1"
HARMLESS = (
    ("index",), ("tiles",), ("archive.json",), ("scrub",), ("segments", "checkpoints", "keyring"),
)  # fmt: skip


def store(config: Config, count: int, prefix: str) -> None:
    """Store small objects, each in a study of its own."""
    ds = sample_study()[0]
    del ds.PixelData
    with open_writer(config) as engine:
        for number in range(count):
            ds.SOPInstanceUID = ds.StudyInstanceUID = f"2.25.{prefix}{number}"
            request = StoreRequest(ds.SOPClassUID, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TEST"))
            reception = services(engine).ingest.begin(request)
            reception.write(encoded(ds))
            assert reception.finish().error is None


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of several segments, as it was (old) and as it is (new)."""
    base = tmp_path_factory.mktemp("states")
    config = Config(
        archive=base / "new", http=Http(enabled=False), keys=Keys(key_file=base / "key"),
        storage=Storage(segment_bytes=4000, reserve_bytes=0),
    )  # fmt: skip
    create_archive(config)
    store(config, 4, "1")
    shutil.copytree(base / "new", base / "old")
    store(config, 5, "2")
    assert len(list((base / "new" / "segments").iterdir())) > 2
    return base


@pytest.fixture
def folder(states: Path, tmp_path: Path) -> ArchiveFolder:
    """A copy of the new state to damage."""
    shutil.copytree(states / "new", tmp_path / "archive")
    return ArchiveFolder.open(tmp_path / "archive")


def verified(folder: ArchiveFolder, *, outside: bool = True) -> list[Finding]:
    """What `coffer verify` finds; without `outside`, what the log alone tells."""
    seen = inspect_keyring(folder) if outside else None
    index = inspect_index(folder) if outside else []
    verifier = Verifier(folder, Options(), remembered=seen.remembered if seen else None)
    return list(chain(seen.findings if seen else (), index, verifier.findings()))


def test_the_archive_is_clean(folder: ArchiveFolder) -> None:
    assert verified(folder) == []


@pytest.mark.parametrize("mask", [0x01, 0x20])  # the second turns upper case into lower
def test_every_byte_of_archive_json(folder: ArchiveFolder, mask: int) -> None:
    path = folder.path / "archive.json"
    for offset in range(path.stat().st_size):
        flip(path, offset, mask)
        with contextlib.suppress(FormatError, NotFoundError):  # it does not even open
            assert verified(ArchiveFolder.open(folder.path), outside=False), offset
        flip(path, offset, mask)
    assert verified(ArchiveFolder.open(folder.path)) == []


@pytest.mark.parametrize("part", ["checkpoints/history", "tiles"])
def test_every_byte_of_history_and_tiles(folder: ArchiveFolder, part: str) -> None:
    """Headers are enough to tell: neither has anything to do with bodies."""
    top = folder.path / part
    paths = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in paths) > 400
    for path in paths:
        for offset in range(path.stat().st_size):
            flip(path, offset, 1 << offset % 8)
            assert list(Verifier(folder, Options(VerifyLevel.HEADERS)).findings()), (path.name, offset)
            flip(path, offset, 1 << offset % 8)
    assert verified(folder) == []


def test_every_byte_of_what_the_scrub_keeps_and_of_pending_deeds(folder: ArchiveFolder) -> None:
    """A flipped place is no place: the pass begins again. A finding or a deed that was flipped is refused by name."""
    ledger = FindingStore(folder.scrub)
    ledger.add(Finding(1, 96, 0, "damage"), 1)
    scrub = Scrub(folder, remembered=lambda: None, now_ms=lambda: 1, pace=lambda _: None, on_finding=lambda _: None)
    scrub.segment()
    defer(folder, [DeferredEvent(sample(SegmentRepaired), "note:" + "0" * 64)])
    (finding,) = folder.scrub.glob("*.finding")
    readers: dict[Path, Callable[[], object]] = {
        folder.scrub / "place.json": lambda: parse_position((folder.scrub / "place.json").read_bytes()),
        finding: ledger.entries,
        folder.path / "pending.json": lambda: read_deferred(folder),
    }
    for path, read in readers.items():
        read()
        for offset in range(path.stat().st_size):
            flip(path, offset, 1 << offset % 8)
            with pytest.raises(FormatError):
                read()
            flip(path, offset, 1 << offset % 8)
        read()


@pytest.mark.parametrize("name", ["LOCK", "keyring/lock.mdb", "index/lock.mdb"])
def test_bytes_of_locks_are_harmless(states: Path, folder: ArchiveFolder, name: str) -> None:
    """The lock is flock's, whatever the text says; LMDB makes its table of readers anew when nobody has it open."""
    config = Config(
        archive=folder.path, keys=Keys(key_file=states / "key"), storage=Storage(reserve_bytes=0),
        integrity=Integrity(mark=folder.path.with_name("no mark")),
    )  # fmt: skip
    for size in (1, 100, 9000):
        (folder.path / name).write_bytes(os.urandom(size))
        with open_writer(config) as engine:
            assert engine.stats().objects == 9
            assert list(engine.index.query("STUDY", {0x0020000D: ()}, "study"))
        assert verified(folder) == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["keyring", "index"])
def test_bytes_of_the_databases(folder: ArchiveFolder, kind: str) -> None:
    """LMDB has no checksums; ours find what touches a row. The rest is unused space, or chooses an older commit."""
    file = folder.path / kind / "data.mdb"
    (file.parent / "lock.mdb").unlink(missing_ok=True)
    size = file.stat().st_size
    command = [sys.executable, str(SCRIPT), kind, str(file), str(7 % STEP), str(size), str(STEP)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr  # a page that leads nowhere is told, and kills nobody
    lines = done.stdout.splitlines()
    told = Counter(line.split()[1] for line in lines)
    assert sum(told.values()) == len(range(7 % STEP, size, STEP))
    assert told["WRONG"] == 0, [line for line in lines if "WRONG" in line]
    assert told["found"] > 10
    metas = 2 * os.sysconf("SC_PAGESIZE")
    assert all(int(line.split()[0]) < metas for line in lines if line.endswith("older"))
    assert verified(folder) == []


def test_every_meta_page_byte_that_brings_back_an_older_keyring_is_found(folder: ArchiveFolder) -> None:
    """The last commit of a closed archive is that of its checkpoint: an older one remembers less than is signed."""
    file = folder.keyring / "data.mdb"
    page = os.sysconf("SC_PAGESIZE")
    transaction = 16 + 24 + 2 * 48 + 8  # page header; magic to map size; two databases; last page: then the number
    seen = []
    for meta in (0, page):
        flip(file, meta + transaction, 0x80)
        seen.append(inspect_keyring(folder).findings)
        flip(file, meta + transaction, 0x80)
    assert inspect_keyring(folder).findings == ()
    assert [bool(findings) for findings in seen].count(True) == 1  # the other is the newest already


@pytest.mark.parametrize(
    ("parts", "found_alone"),
    [
        (("segments",), True),
        (("checkpoints",), False),  # harmless: the log goes further than an older checkpoint says, as after a stop
        (("keyring",), False),
        (("index",), False),  # harmless: it catches up from the log when the archive is opened
        (("segments", "checkpoints"), False),
        (("segments", "checkpoints", "index"), False),
        (("tiles",), False),  # harmless: they are the hashes of an older tree, which are those of this one too
        (("checkpoints", "tiles"), False),
        (("checkpoints/history",), True),
        (("checkpoints/history", "tiles"), True),
        (("archive.json",), False),  # harmless: it never changes
        (("scrub",), False),  # harmless: what was read since is read again
        (("segments", "checkpoints", "keyring"), False),  # all witnesses lie: only a checkpoint kept elsewhere tells
    ],
)
def test_an_older_copy_of_each_part(
    folder: ArchiveFolder, states: Path, parts: tuple[str, ...], *, found_alone: bool
) -> None:
    kept = ArchiveFolder.open(states / "new").checkpoint.read_bytes()
    for part in parts:
        put_back(folder.path / part, states / "old" / part)
    assert bool(verified(folder, outside=False)) == found_alone
    harmless = parts in HARMLESS
    assert bool(verified(folder)) != harmless
    if "segments" in parts:
        since = open_checkpoint(kept, folder)
        assert any("covers" in f.what for f in Verifier(folder, Options(since=since)).findings())


def put_back(path: Path, old: Path) -> None:
    """An older copy of a file or folder takes its place."""
    if old.is_file():
        shutil.copy(old, path)
        return
    shutil.rmtree(path)
    shutil.copytree(old, path)


def test_an_older_state_of_one_segment_alone(folder: ArchiveFolder, states: Path) -> None:
    """Each that has one, sealed since or not: as it was in the older archive, and as it was before its footer."""
    for number in folder.segment_files.numbers():
        path, old = folder.segment_files.path(number), states / "old" / "segments" / f"{number:08d}.seg"
        now, found = path.read_bytes(), read_tail_of(path)
        for content in [old.read_bytes()] if old.exists() else []:
            path.write_bytes(content)
            assert bool(verified(folder, outside=False)) == (content != now), f"segment {number} as it was"
        if found:
            path.write_bytes(now[:found])
            assert verified(folder, outside=False), f"segment {number} before it was sealed"
        path.write_bytes(now)
    assert verified(folder) == []


def read_tail_of(path: Path) -> int:
    """Where a segment's footer begins; 0 where it has none."""
    with path.open("rb") as file:
        sealed = read_footer(FileSource(file.fileno()), path.stat().st_size)
    return sealed[1] if sealed else 0


@pytest.mark.parametrize("part", ["keyring", "index", "checkpoints", "segments"])
def test_a_cut_or_emptied_file(folder: ArchiveFolder, part: str) -> None:
    for path in sorted(p for p in (folder.path / part).iterdir() if p.name != "lock.mdb"):
        good = path.read_bytes()
        for length in (0, 10, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:length])
            assert verified(folder), (path.name, length)
        path.write_bytes(good)
    assert verified(folder) == []


@pytest.mark.parametrize("part", ["keyring", "index"])
def test_another_archives_database(folder: ArchiveFolder, tmp_path: Path, part: str) -> None:
    other = Config(
        archive=tmp_path / "other", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "other.key"),
        storage=Storage(reserve_bytes=0),
    )  # fmt: skip
    create_archive(other)
    store(other, 2, "9")
    shutil.rmtree(folder.path / part)
    shutil.copytree(tmp_path / "other" / part, folder.path / part)
    assert verified(folder)
    with pytest.raises(CofferError):
        open_writer(Config(archive=folder.path, keys=Keys(key_file=tmp_path / "other.key")))
