"""A bounded campaign of power cuts; `python -m tests.crash` runs long ones."""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from archive.folder import ArchiveFolder
from archive.log import LogWriter
from keys.errors import UnavailableError
from tests.crash import files
from tests.crash.campaign import ORIGIN, SIGNER, Promises, Stop, Tally, Watched, entry, one_run, require_notes
from tests.crash.disk import Disk

RUNS = int(os.environ.get("COFFER_CRASH_RUNS", "20"))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder without a disk behind it, where there is one: the disk is simulated, and its syncs cost nothing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("seed", range(RUNS))
def test_what_was_acknowledged_survives_a_power_cut_anywhere(seed: int, memory: Path) -> None:
    tally = Tally()
    one_run(seed, memory, tally, states_a_call=2)
    assert tally.states == 2 * tally.calls > 0


@pytest.mark.parametrize("seed", range(RUNS // 5))
@pytest.mark.parametrize("kind", files.LIVES)
def test_files_beside_the_log_survive_a_power_cut_anywhere(kind: type[files.Life], seed: int, memory: Path) -> None:
    tally = Tally()
    files.one_run(kind, seed, memory, tally, states_a_call=1)
    assert tally.states == tally.calls > 0


def _found_by_the_next_writer(base: Path, doom: str) -> tuple[int, int]:
    """Three records are stable, one more ends badly, a writer opens, the power goes: what it found, what is left."""
    live, cold = base / "live", base / "cold"
    ArchiveFolder.prepare(live)
    ArchiveFolder(live, bytes(16), ORIGIN, SIGNER.vkey(ORIGIN)).commit()
    calls = Watched(live, Disk.of(live), random.Random(base.name))
    log = LogWriter(ArchiveFolder.open(live), now_ms=lambda: 1, calls=calls)
    log.append([entry(n, 40) for n in range(3)])
    if doom == "killed before the sync":
        calls.die_in(1, whole=True)
    elif doom == "the sync fails":
        calls.fails_in = 1
    with pytest.raises((Stop, UnavailableError)):
        log.append([entry(3, 2000)])
    calls.spare()
    calls.release()
    log = LogWriter(ArchiveFolder.open(live), now_ms=lambda: 1, calls=calls)
    found = log.next_seq
    calls.release()
    cold.mkdir()
    calls.disk.materialise(cold, random.Random(base.name))
    log = LogWriter(ArchiveFolder.open(cold), now_ms=lambda: 1)
    log.close()
    return found, log.next_seq


@pytest.mark.parametrize("doom", ["killed before the sync", "the sync fails"])
def test_what_a_writer_finds_when_it_opens_is_stable(memory: Path, doom: str) -> None:
    """Who sends such a record again is told that it is there, so it has to be."""
    seen = set()
    for number in range(40):
        (memory / str(number)).mkdir()
        found, left = _found_by_the_next_writer(memory / str(number), doom)
        assert found == left
        seen.add(found)
    assert seen == ({4} if doom == "killed before the sync" else {3, 4})


@pytest.mark.parametrize("sync", range(1, 14))
def test_a_checkpoint_whose_sync_failed_is_not_taken_for_signed(memory: Path, sync: int) -> None:
    """The server goes on and signs a minute later; the kernel shows bytes of the failed sync that no device has."""
    for number in range(12):
        live, cold = memory / f"{number}", memory / f"cold{number}"
        ArchiveFolder.prepare(live)
        ArchiveFolder(live, bytes(16), ORIGIN, SIGNER.vkey(ORIGIN)).commit()
        promises = Promises()
        calls = Watched(live, Disk.of(live), random.Random(f"{sync}/{number}"))
        log = LogWriter(ArchiveFolder.open(live), now_ms=lambda: 1, calls=calls)
        for n in range(2):
            log.append([entry(n, 40)])
            log.checkpoint(promises.sign, promises.remember)
        log.append([entry(2, 40)])
        calls.fails_in = sync
        with contextlib.suppress(UnavailableError):
            log.checkpoint(promises.sign, promises.remember)
        calls.spare()
        promises.latest = log.checkpoint(promises.sign, promises.remember) or promises.latest
        cold.mkdir()
        calls.disk.materialise(cold, random.Random(f"{sync}/{number}"))
        calls.release()
        require_notes(ArchiveFolder.open(cold), promises)
