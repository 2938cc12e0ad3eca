"""Promise: what was answered 0000 is on stable storage, is found, and comes back bit for bit.

Adversary: accident. Processes that are killed, disks that are full, that answer short or not at all, bytes that rot
and are repaired, clocks that jump, keyrings and indexes that were put back from yesterday, commands that run where no
server does. Nothing of it may lose an acknowledged object; where one cannot be given now, that is said until it can.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.format.record import HEADER, Kind
from coffer.archive.reader import LogReader
from coffer.archive.repair.repair import repair
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.errors import HistoryError, UnavailableError
from coffer.server.access.principal import Principal
from coffer.server.cli import main
from coffer.server.engine import reconcile
from coffer.server.engine.opening import open_for_rebuild
from coffer.server.keyops.rekey_order import carry_out, one_study, order
from tests.conftest import volume_of
from tests.promises.kept import Kept
from tests.services import services


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """What a kill left: several segments, a signed part, and a tail of which neither index nor checkpoint knows."""
    base = tmp_path_factory.mktemp("source")
    kept = Kept.create(base / "live")
    with kept.opened() as engine:
        kept.put(engine, 1, 1, 2, 3)
        kept.put(engine, 2, 1, 2)
        engine.sign_checkpoint()
        engine.index.flush()
        shutil.copytree(kept.archive / "keyring", base / "keyring of then")
        shutil.copytree(kept.archive / "index", base / "index of then")
        kept.put(engine, 2, 3)
        kept.put(engine, 3, 1, 2)
        kept.put(engine, 4, 1)
        killed = kept.copy(base / "killed")
    shutil.rmtree(killed.archive / "index")
    shutil.copytree(base / "index of then", killed.archive / "index")
    return killed


@pytest.fixture
def kept(source: Kept, tmp_path: Path) -> Kept:
    return source.copy(tmp_path / "kept")


def _objects(kept: Kept) -> list[tuple[int, int, int]]:
    """Record, segment and offset of every object in the log."""
    reader = LogReader(ArchiveFolder.open(kept.archive))
    found = [(p.seq, p.segment, p.offset) for p, header in reader.records() if header.kind == Kind.OBJECT]
    reader.close()
    return found


def _flip(kept: Kept, segment: int, offset: int) -> None:
    path = kept.archive / "segments" / f"{segment:08d}.seg"
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 8]))


# Kills


def test_after_a_kill_commands_give_all_before_any_writer_opens_it(kept: Kept) -> None:
    before = {p: p.read_bytes() for p in kept.archive.rglob("*") if p.is_file() and p.name != "lock.mdb"}
    kept.require_all()
    assert {p: p.read_bytes() for p in before} == before, "reading changed the archive"
    kept.require_all(write=True)
    assert kept.lost_and_found() == []


def test_after_a_kill_the_files_come_by_the_command_too(kept: Kept, tmp_path: Path) -> None:
    from click.testing import CliRunner

    (tmp_path / "coffer.toml").write_text(
        f'archive = "{kept.archive}"\n[keys]\nkey_file = "{kept.config.keys.key_file}"\n'
    )
    uids = [part for study in (1, 2, 3, 4) for part in ("--study", f"1.2.{study}")]
    args = ["--config", str(tmp_path / "coffer.toml"), "get", *uids, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    files = [path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm")]
    assert len(files) == len(kept.acknowledged)
    assert all(any(file.endswith(data) for file in files) for data in kept.acknowledged.values())


def test_a_log_cut_at_any_place_of_its_last_write_loses_nothing_older(kept: Kept, tmp_path: Path) -> None:
    """A stop in the middle of a write: what is cut was never answered."""
    path = max((kept.archive / "segments").iterdir())
    whole = path.read_bytes()
    (_, segment, offset) = _objects(kept)[-1]
    assert path.name == f"{segment:08d}.seg"
    uid = "1.2.4.1.1"
    acknowledged = {name: data for name, data in kept.acknowledged.items() if name != uid}
    for at in (offset + 1, offset + HEADER.size, offset + HEADER.size + 100, len(whole) - 1):
        cut = kept.copy(tmp_path / str(at))
        cut.acknowledged = acknowledged
        os.truncate(cut.archive / "segments" / path.name, at)
        cut.require_all()
        cut.require_all(write=True)


# Media that answer short, or not


def _opens(kept: Kept) -> list[str]:
    with kept.opened() as engine:
        return sorted(kept.missing(engine))


class _Fault:
    """The n-th `pread` answers short, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self.at, self.count, self.fails = os.pread, -1, 0, False
        monkeypatch.setattr(os, "pread", self._pread)

    def _pread(self, fd: int, length: int, offset: int) -> bytes:
        self.count += 1
        if self.count - 1 != self.at:
            return self._real(fd, length, offset)
        if self.fails:
            raise OSError(5, "Input/output error")
        return self._real(fd, length // 2, offset)


@pytest.mark.parametrize("fails", [False, True])
def test_one_reading_that_comes_short_or_fails_loses_nothing(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """At opening, catching up and giving out: a fault at every fifth reading, the others belong to the same loops."""
    fault, refused = _Fault(monkeypatch), list[str]()
    assert _opens(kept.copy(tmp_path / "counted")) == []
    total = fault.count
    assert total > 60
    for at in range(fails, total, 5):
        copy = kept.copy(tmp_path / str(at))
        fault.at, fault.count, fault.fails = at, 0, fails
        try:
            missing = _opens(copy)
            assert missing == [] or fails
        except UnavailableError as error:
            refused.append(str(error))
        fault.at = -1
        assert copy.lost_and_found() == []
        copy.require_all(write=True)
        shutil.rmtree(copy.base)
    assert bool(refused) == fails
    assert [told for told in refused if not told.endswith(": Input/output error")] == []


# Bytes that rot


def test_an_object_that_is_repaired_is_found_again(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index was made anew while a body was damaged: it says so until the object can be read, then it has it."""
    kept.require_all(write=True)
    whole = kept.copy(tmp_path / "backup")
    damaged = _objects(kept)[4]
    _flip(kept, damaged[1], damaged[2] + HEADER.size + 100)
    with kept.opened() as engine:
        report = engine.rebuild_index(lambda *_: None)
        assert report.damaged == [damaged[0]]
        (lost,) = kept.missing(engine)
    for write in (False, True):  # whoever opens it is told, after every restart
        with kept.opened(write=write) as engine:
            assert kept.missing(engine) == {lost}
            assert engine.stats().skipped == 1
            assert any("1 stored objects are not found" in told for told in engine.concerns())
    repair(ArchiveFolder.open(kept.archive), ArchiveFolder.open(whole.archive))
    with kept.opened() as engine:
        assert kept.missing(engine) == set()
        assert (engine.stats().skipped, engine.concerns()) == (0, [])
    # And beside a server that runs: the disk gives it again.
    _flip(kept, damaged[1], damaged[2] + HEADER.size + 100)
    monkeypatch.setattr(reconcile, "_AGAIN_SECONDS", 0.0)
    with kept.opened() as engine:
        engine.rebuild_index(lambda *_: None)
        engine.reconcile()
        assert kept.missing(engine) == {lost}
        _flip(kept, damaged[1], damaged[2] + HEADER.size + 100)
        engine.reconcile()
        assert kept.missing(engine) == set()
        assert engine.concerns() == []
    kept.require_all()


def test_a_damaged_body_in_the_newest_minute_keeps_nobody_from_the_others(kept: Kept) -> None:
    seq, segment, offset = _objects(kept)[-2]
    _flip(kept, segment, offset + HEADER.size + 100)
    for write in (False, True):
        with kept.opened(write=write) as engine:
            assert len(kept.missing(engine)) == 1
            assert engine.stats().skipped == 1
    assert kept.lost_and_found() == []
    with kept.opened() as engine:
        assert kept.put(engine, 5, 1) == [0]
    _flip(kept, segment, offset + HEADER.size + 100)
    kept.require_all(write=True)
    assert seq > 0


# Indexes


def _garbage(folder: Path) -> None:
    data = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(os.urandom(len(data)))


def _half(folder: Path) -> None:
    os.truncate(folder / "data.mdb", (folder / "data.mdb").stat().st_size // 2)


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"what is this")


def _a_link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    (elsewhere / "precious").write_bytes(b"somebody's")
    folder.symlink_to(elsewhere)


def _nothing(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("spoil", [_garbage, _half, _a_file, _a_link, _nothing])
def test_a_rebuild_makes_the_index_anew_whatever_lies_there(kept: Kept, spoil: Callable[[Path], None]) -> None:
    spoil(kept.archive / "index")
    with open_for_rebuild(kept.config) as engine:
        report = engine.rebuild_index(lambda *_: None)
        assert (report.damaged, report.keyless) == ([], [])
        assert kept.missing(engine) == set()
    kept.require_all()
    if spoil is _a_link:
        assert (kept.archive / "elsewhere" / "precious").read_bytes() == b"somebody's"


def test_an_index_that_is_too_far_behind_is_no_answer(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffer.server.engine.catch_up._MOST_RECORDS", 3)
    with kept.opened(write=False) as engine:
        assert isinstance(engine.shortfall, UnavailableError)
        assert "records behind the log" in str(engine.shortfall)
        assert "coffer index rebuild" in engine.shortfall.hint()
    kept.require_all(write=True)
    kept.require_all()


# Keyrings


def test_an_older_keyring_stores_nothing_and_the_right_one_back_loses_nothing(kept: Kept, source: Kept) -> None:
    """It has no key of two studies that came after the last checkpoint; what is stored would get keys in it alone."""
    right = kept.base / "right"
    (kept.archive / "keyring").rename(right)
    shutil.copytree(source.base.parent / "keyring of then", kept.archive / "keyring")
    before = {p: p.read_bytes() for p in (kept.archive / "segments").iterdir()}
    with pytest.raises(HistoryError, match="older than the log: 2 studies have no key") as refused, kept.opened():
        pass
    assert "restore the newest copy of the keyring" in refused.value.hint()
    with kept.opened(may_refuse=True) as engine:
        assert kept.put(engine, 1, 9) == [0xA700]
        assert kept.put(engine, 9, 1) == [0xA700]
        assert kept.missing(engine) == {"1.2.3.1.1", "1.2.3.1.2", "1.2.4.1.1"}  # what opens is still given
        assert engine.stats().skipped == 3
    assert {p: p.read_bytes() for p in before} == before
    shutil.rmtree(kept.archive / "keyring")
    right.rename(kept.archive / "keyring")
    kept.require_all(write=True)
    with kept.opened() as engine:
        assert kept.put(engine, 9, 1) == [0]
        assert engine.concerns() == []
    kept.require_all()


def test_a_rekey_that_is_killed_loses_nothing(kept: Kept, tmp_path: Path) -> None:
    with kept.opened() as engine:
        begun = order(engine, one_study(engine, "1.2.2"), "a core dump", Principal.person("Jane", "jane"))
        kept.copy(tmp_path / "ordered").require_all()
        carry_out(engine, begun, lambda *_: None)
        killed = kept.copy(tmp_path / "done")
        killed.require_all()
        killed.require_all(write=True)
    kept.require_all()


# Clocks


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_loses_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    real, offset = time.time_ns, years * 365 * 86_400 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: real() + offset)
    with kept.opened() as engine:
        assert kept.missing(engine) == set()
        assert kept.put(engine, 1, 7) == [0]
        assert kept.put(engine, 7, 1) == [0]
    monkeypatch.undo()
    with kept.opened() as engine:
        assert kept.put(engine, 7, 2) == [0]
        assert kept.missing(engine) == set()
        assert engine.rebuild_index(lambda *_: None).damaged == []
        assert kept.missing(engine) == set()


# Full disks


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 5 MiB."""
    with volume_of("5m", tmp_path / "volume") as volume:
        yield volume


@pytest.mark.parametrize("part", ["keyring", "index"])
def test_a_full_disk_is_told_as_that_and_loses_nothing(kept: Kept, small_volume: Path, part: str) -> None:
    """The volume of one part is full to the last block; the log has room."""
    folder = kept.archive / part
    shutil.copytree(folder, small_volume / part)
    shutil.rmtree(folder)
    folder.mkdir()
    subprocess.run(["mount", "--bind", str(small_volume / part), str(folder)], check=True)
    try:
        with kept.opened() as engine:
            with (small_volume / "filler").open("wb", buffering=0) as filler:
                try:
                    while filler.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            told = ""
            for study in range(50, 80):
                kept.put(engine, study, 1)
                try:
                    engine.index.flush()
                    services(engine).committer.require_accepting()
                except UnavailableError as error:
                    told = f"{error}; {error.hint()}"
                    break
            assert "no space is left on its volume" in told
            assert f"free space on the volume that holds {folder}" in told
            assert "restart Coffer" in told
            assert kept.put(engine, 90, 1) == [0xA700]
            assert kept.missing(engine) == set()
            (small_volume / "filler").unlink()
        kept.require_all()
        kept.require_all(write=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
