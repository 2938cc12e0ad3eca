"""A bounded campaign of power cuts; `python -m tests.crash` runs long ones."""

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.keys.errors import UnavailableError
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, KeyFileProvider, generate_keyfile
from tests.crash import files
from tests.crash.campaign import ORIGIN, SIGNER, Promises, Stop, Tally, Watched, entry, one_run, require_notes
from tests.crash.disk import Disk
from tests.crash.files import KEK

RUNS = int(os.environ.get("COFFER_CRASH_RUNS", "5"))


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
    empty = ArchiveFolder(live, bytes(16), ORIGIN, SIGNER.vkey(ORIGIN))
    begin(empty, partial(SIGNER.sign_note, ORIGIN))
    empty.commit()
    calls = Watched(live, Disk.of(live), random.Random(base.name))
    log = LogWriter(ArchiveFolder.open(live), sign=SIGNER.sign_statement, now_ms=lambda: 1, calls=calls)
    log.append([entry(n, 40) for n in range(3)])
    if doom == "killed before the sync":
        calls.die_in(1, whole=True)
    elif doom == "the sync fails":
        calls.fails_in = 1
    with pytest.raises((Stop, UnavailableError)):
        log.append([entry(3, 2000)])
    calls.spare()
    calls.release()
    log = LogWriter(ArchiveFolder.open(live), sign=SIGNER.sign_statement, now_ms=lambda: 1, calls=calls)
    found = log.next_seq
    calls.release()
    cold.mkdir()
    calls.disk.materialise(cold, random.Random(base.name))
    log = LogWriter(ArchiveFolder.open(cold), sign=SIGNER.sign_statement, now_ms=lambda: 1)
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


@pytest.mark.parametrize("does", ["adopt", "destroy", "find", "answer"])
@pytest.mark.parametrize("call", range(1, 10))
def test_what_a_killed_command_left_is_stable_once_it_is_said_again(memory: Path, does: str, call: int) -> None:
    """What a KEK hangs on is not taken by the next power cut; what was destroyed or answered does not come back."""
    for number in range(4):
        live, cold = memory / f"{number}", memory / f"cold{number}"
        live.mkdir()
        generate_keyfile(live / "key", cost=CHEAPEST_FOR_TESTS)
        KeyFileProvider(live / "key").adopt_epoch(2, KEK, b"")
        finding = FindingStore(live).add(Finding(1, 96, 0, "damage"), 1)
        assert finding is not None
        calls = Watched(live, Disk.of(live), random.Random(f"{does}/{number}"))
        keeper, ledger = KeyFileProvider(live / "key", calls=calls), FindingStore(live, calls, key=KEK)
        act: dict[str, Callable[[], object]] = {
            "adopt": lambda keeper=keeper: keeper.adopt_epoch(3, KEK, b""),
            "destroy": lambda keeper=keeper: keeper.destroy_epoch(2),
            "find": lambda ledger=ledger: ledger.add(Finding(1, 400, 1, "more damage"), 1),
            "answer": lambda ledger=ledger, name=finding.name: ledger.acknowledge([name], 2),
        }
        calls.die_in(call)
        with contextlib.suppress(Stop):
            act[does]()
        calls.spare()
        calls.release()
        done = act[does]()
        cold.mkdir()
        calls.disk.materialise(cold, random.Random(f"{does}/{number}/{call}"))
        if does == "adopt":
            assert isinstance(done, bytes)
            assert KeyFileProvider(cold / "key").unwrap(done, b"").matches(KEK)
        elif does == "destroy":
            assert 2 not in KeyFileProvider(cold / "key").describe().epochs
        else:
            found = FindingStore(cold).entries()
            assert len(found) == 2 if does == "find" else found[0].acknowledged_ms


@pytest.mark.parametrize("call", range(1, 16))
def test_an_archive_whose_making_was_killed_is_there_once_somebody_writes_to_it(memory: Path, call: int) -> None:
    live, cold = memory / "live", memory / "cold"
    ArchiveFolder.prepare(live)
    calls = Watched(live, Disk.of(live), random.Random(call))
    calls.die_in(call)
    with contextlib.suppress(Stop):
        ArchiveFolder(live, bytes(16), ORIGIN, SIGNER.vkey(ORIGIN)).commit(calls)
    calls.spare()
    calls.release()
    if not (live / "archive.json").exists():
        return
    ArchiveFolder.open(live).complete(calls)
    for number in range(8):
        shutil.rmtree(cold, ignore_errors=True)
        cold.mkdir()
        calls.disk.materialise(cold, random.Random(number))
        assert ArchiveFolder.open(cold) == ArchiveFolder(cold, bytes(16), ORIGIN, SIGNER.vkey(ORIGIN))


@pytest.mark.parametrize("sync", range(1, 14))
def test_a_checkpoint_whose_sync_failed_is_not_taken_for_signed(memory: Path, sync: int) -> None:
    """The server goes on and signs a minute later; the kernel shows bytes of the failed sync that no device has."""
    for number in range(12):
        live, cold = memory / f"{number}", memory / f"cold{number}"
        ArchiveFolder.prepare(live)
        empty = ArchiveFolder(live, bytes(16), ORIGIN, SIGNER.vkey(ORIGIN))
        begin(empty, partial(SIGNER.sign_note, ORIGIN))
        empty.commit()
        promises = Promises()
        calls = Watched(live, Disk.of(live), random.Random(f"{sync}/{number}"))
        log = LogWriter(ArchiveFolder.open(live), sign=SIGNER.sign_statement, now_ms=lambda: 1, calls=calls)
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
