"""A sealed body put into another record, study or archive by somebody who can sign: only its seal can tell."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.tree.checkpoint_history import begin
from coffer.index.dicom.attributes import STUDY_UID
from coffer.keys.clock import clock_ms
from coffer.keys.errors import IntegrityError, NotFoundError, UnavailableError
from coffer.keys.keyring import signing_key
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.config.load import load_config
from coffer.server.engine.checkpoint_signer import mark_of
from coffer.server.engine.opening import open_reading
from coffer.server.engine.providers import open_keyring, provider_of
from tests.server.filled import part10, run, told
from tests.server.three_studies import UIDS, configure, slices

EACH = 8


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of two studies."""
    monkeypatch.chdir(tmp_path)
    configure()
    filled()
    return tmp_path / "data"


def filled() -> None:
    """Make the archive: each study's key, and its objects, whose sizes differ by a few bytes or not at all."""
    run("init")
    for study_uid in UIDS[:2]:
        files = []
        for number in range(EACH):
            ds = next(slices(study_uid, "P-1"))
            ds.SOPInstanceUID = f"{study_uid}.1.{number}"
            files.append(f"{number}.dcm")
            Path(files[-1]).write_bytes(part10(ds))
        run("put", *files)


def entries(path: Path) -> list[tuple[RecordHeader, Entry]]:
    """Every record of a log as it would be appended."""
    reader = LogReader(ArchiveFolder.open(path))
    found = []
    for position, header in reader.records():
        body = bytes(reader.read_body(position))
        entry = Entry(header.kind, header.study_key_id, header.flags, header.content_id, body)
        found.append((header, entry))
    reader.close()
    return found


def written_again(path: Path, records: list[Entry]) -> None:
    """Let another log replace an archive's: sums, chain, tree, signature, remembered checkpoint and mark are right."""
    folder = ArchiveFolder.open(path)
    for part in (folder.segments, folder.checkpoints, folder.tiles):
        shutil.rmtree(part)
    folder.complete()
    keyring = open_keyring(folder, provider_of(load_config(Path("coffer.toml")).keys, folder.archive_id))
    signer = signing_key.current(keyring)
    begin(folder, partial(signer.sign_note, folder.origin), keyring.remember_checkpoint)
    log = LogWriter(folder, sign=signer.sign_statement, now_ms=clock_ms)
    log.append(records)
    log.checkpoint(partial(signer.sign_note, folder.origin), keyring.remember_checkpoint)
    mark = mark_of(folder, keyring, read_checkpoint(folder), 0, bytes(16))
    MarkFile.of(load_config(Path("coffer.toml")), folder.archive_id).write(mark)
    log.close()
    keyring.close()


def of_another_record(here: list[Entry], _path: Path) -> list[Entry]:
    return here[1 : EACH + 1]


def of_another_study(here: list[Entry], _path: Path) -> list[Entry]:
    return here[EACH + 2 : 2 * EACH + 2]


def of_another_archive(_here: list[Entry], path: Path) -> list[Entry]:
    """The same objects', in another archive."""
    path.rename("first")
    Path("data.key").rename("first.key")
    filled()
    path.rename("second")
    Path("first").rename(path)
    Path("first.key").rename("data.key")
    return [entry for _, entry in entries(Path("second"))[1 : EACH + 1]]


def length(entry: Entry) -> int:
    assert isinstance(entry.body, bytes)
    return len(entry.body)


@pytest.mark.parametrize("donors", [of_another_record, of_another_study, of_another_archive])
def test_a_body_in_another_place_opens_nothing(
    archive: Path, donors: Callable[[list[Entry], Path], list[Entry]]
) -> None:
    before = entries(archive)
    records = [entry for _, entry in before]
    of_a_study = [Kind.STUDY_KEY_CREATED, *[Kind.OBJECT] * EACH]
    assert [header.kind for header, _ in before[: 2 * EACH + 2]] == of_a_study * 2
    pairs = itertools.product(range(1, EACH + 1), donors(records, archive))
    # Of one length, so that every record stays where the index says.
    at, donor = next((n, each) for n, each in pairs if each != records[n] and length(each) == length(records[n]))
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        (victim,) = [each for each in engine.index.locate({STUDY_UID: (UIDS[0],)}) if each.version.seq == at]
    records[at] = replace(records[at], body=donor.body)
    written_again(archive, records)
    assert told("verify")["findings"] == []  # nothing that needs no key can tell
    refused = run("get", "--instance", victim.sop_instance, "--out", "out", code=UnavailableError.exit_code)
    assert "another state of the log" in refused.output
    rebuilt = run("index", "rebuild", code=IntegrityError.exit_code)  # an index of what is there now
    assert "1 objects could not be read or opened" in rebuilt.output
    run("get", "--instance", victim.sop_instance, "--out", "out", code=NotFoundError.exit_code)
    assert not list(Path().glob("out/**/*.dcm"))
    run("get", "--study", UIDS[1], "--out", "out")
    (finding,) = told("verify", "--level", "decrypt", code=1)["findings"]  # type: ignore[misc]
    assert finding["record"] == at  # type: ignore[index]
    assert "commitment mismatch" in str(finding)
