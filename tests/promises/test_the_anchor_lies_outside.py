"""Whoever can write the archive folder, and has no key, cannot put a forged or an older state in its place unnoticed.

Every case is done to a real archive by somebody who knows the formats: chain, tree, checksums and the keyring's sum are
made true again after each change.
"""

import hashlib
import json
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from subprocess import run as run_program

import pytest

from coffer.archive.events.marks import MarkRenewed
from coffer.archive.events.rekeys import RekeyOrdered
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import Kind, genesis_hash
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.checkpoint_history import read_entries
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.memory.secret import Secret
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_for_service, open_reading, open_writer
from coffer.server.main.demo import sample_study
from tests.archive.events.samples import BY, KEY
from tests.conftest import ROOT
from tests.keyless import change
from tests.server.filled import part10, run, study_files, told

HEADER, RECORD, TRAILER = 88, 160, 96
THIEF = CheckpointSigner(Secret(bytes(range(32))))
Records = list[tuple[bytes, bytes, bytes]]  # header, body, tag


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of several groups, stored in two goes; `old` is what it was after the first."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text("archive = 'data'\n[storage]\nreserve_bytes = 0\n[http]\nenabled = false\n")
    Path("vkey.txt").write_text(str(told("init")["vkey"]))
    first, *others = map(str, study_files(tmp_path / "files"))
    run("put", first)
    shutil.copytree("data", "old")
    run("put", *others)
    assert told("verify", "--level", "decrypt")["vkey_from"] == "the mark"
    return tmp_path / "data"


def segment_of(archive: Path) -> Path:
    (path,) = (archive / "segments").iterdir()
    return path


def read(archive: Path) -> Records:
    """The records of the open segment, by FORMAT.md."""
    data, at, found = segment_of(archive).read_bytes(), HEADER, Records()
    while data[at : at + 4] == b"CFRC":
        length = int.from_bytes(data[at + 44 : at + 52], "big")
        body_end = at + RECORD + length
        found.append((data[at : at + RECORD], data[at + RECORD : body_end], data[body_end + 8 : body_end + 88]))
        at = -(-(body_end + TRAILER) // 8) * 8
    return found


def write(archive: Path, records: Records, signer: CheckpointSigner | None = None) -> Frontier:
    """Write these records as if they had been appended, each as a group of its own; `signer` makes new tags."""
    path, about = segment_of(archive), json.loads((archive / "archive.json").read_text())
    archive_id = bytes.fromhex(about["archive_id"])
    out, head, tree = bytearray(path.read_bytes()[:HEADER]), genesis_hash(archive_id), Frontier()
    for seq, (old, body, old_tag) in enumerate(records):
        numbers = struct.pack(">Q", seq)
        header = old[:8] + numbers + old[16:84] + hashlib.sha256(body).digest() + head + numbers
        header += struct.pack(">I", zlib.crc32(header))
        head, tag = leaf_hash(header), old_tag
        if signer is not None:
            place, lineage = struct.pack(">IQQQ", 0, 0, seq, seq + 1), old_tag[:16]
            tag = lineage + signer.sign_statement(b"coffer/group/v2\0" + archive_id + place + head + lineage)
        closing = old[44:52] + (tag if any(tag) else b"\1" * 80)
        out += header + body + closing + struct.pack(">I4s", zlib.crc32(closing), b"CFRE")
        out += bytes(-len(out) % 8)
        tree.append(head)
    path.write_bytes(out)
    return tree


def remember(archive: Path, note: bytes | None) -> None:
    """Change what the keyring remembers, and its sum: the row is in the clear."""
    change(archive / "keyring", {b"W": note})


def put_back(archive: Path, *parts: str) -> None:
    for part in parts:
        shutil.rmtree(archive / part)
        shutil.copytree(archive.parent / "old" / part, archive / part)


def sign_nothing(archive: Path) -> None:
    """The genuine checkpoint over no records, in all three places."""
    note = next(read_entries(ArchiveFolder.open(archive))).note
    for name in ("latest", "history"):
        (archive / "checkpoints" / name).write_bytes(note)
    remember(archive, note)
    shutil.rmtree(archive / "tiles")


def launder(archive: Path) -> None:
    """A1: a record is gone, and everything that was ever signed."""
    records = read(archive)
    write(archive, [*records[:1], *records[2:]])
    shutil.rmtree(archive / "checkpoints")
    shutil.rmtree(archive / "tiles")
    (archive / "checkpoints").mkdir()
    remember(archive, None)


def launder_to_the_first(archive: Path) -> None:
    """A1, with the only checkpoint that the forged log does not contradict."""
    records = read(archive)
    sign_nothing(archive)
    write(archive, [*records[:1], *records[2:]])


def alter_the_last(archive: Path) -> None:
    """A6: the newest record has another body, and no checkpoint covers it."""
    *records, (header, body, tag) = read(archive)
    sign_nothing(archive)
    write(archive, [*records, (header, bytes(len(body)), tag)])


def cut_whole_groups(archive: Path) -> None:
    """A6: the log ends with a genuine tag, earlier."""
    put_back(archive, "segments")
    sign_nothing(archive)


def sign_again(archive: Path) -> None:
    """A2: another key signs a log without one of the records, and archive.json names it."""
    records, path = read(archive), archive / "archive.json"
    about = json.loads(path.read_text())
    tree = write(archive, [*records[:1], *records[2:]], THIEF)
    about["vkey"] = THIEF.vkey(about["origin"])
    path.write_text(json.dumps(about, indent=1) + "\n")
    note = THIEF.sign_note(about["origin"], Checkpoint(about["origin"], tree.size, tree.root()).serialize())
    for name in ("latest", "history"):
        (archive / "checkpoints" / name).write_bytes(note)
    shutil.rmtree(archive / "tiles")
    remember(archive, note)


def roll_back(archive: Path) -> None:
    """A3: an older log with its checkpoints, beside the keyring of today that was told to remember no more."""
    put_back(archive, "segments", "checkpoints", "tiles")
    remember(archive, (archive / "checkpoints" / "latest").read_bytes())


def roll_back_all(archive: Path) -> None:
    """The whole folder is of yesterday: nothing in it contradicts anything else."""
    shutil.rmtree(archive)
    shutil.copytree(archive.parent / "old", archive)


def raise_the_epoch(archive: Path) -> None:
    """The number in the segment's header is another, under a right CRC; no hash covers it."""
    path = segment_of(archive)
    data = path.read_bytes()
    head = data[: HEADER - 12] + struct.pack(">Q", 3)
    path.write_bytes(head + struct.pack(">I", zlib.crc32(head)) + data[HEADER:])


def plant_a_segment(archive: Path) -> None:
    """A segment without records, which names the last one rightly; but the log did not end its segment there."""
    path, records = segment_of(archive), read(archive)
    head = path.read_bytes()[:24] + struct.pack(">QQ", 2, len(records)) + leaf_hash(records[-1][0]) + bytes(12)
    path.with_name("00000002.seg").write_bytes(head + struct.pack(">I", zlib.crc32(head)))


FORGERIES = [launder, launder_to_the_first, alter_the_last, cut_whole_groups, sign_again, roll_back, roll_back_all]
FORGERIES += [raise_the_epoch]


@pytest.mark.parametrize("forge", FORGERIES)
def test_it_is_found_and_nothing_is_written_on_it(archive: Path, forge: Callable[[Path], None]) -> None:
    """Verified without a key; refused by a command; a server reads on; and the remedies are shown."""
    forge(archive)
    run("verify", code=1)
    run("put", "files/0.dcm", code=13)
    run("recover", "show", code=1)
    with open_for_service(load_config(Path("coffer.toml"))) as served:
        assert served.log.refusal is not None
        times = [header.time_ms for _, header in served.reader.records()]
        assert served.last_record_ms == times[-1]  # so that its clock is watched all the same


@pytest.mark.parametrize("decide", ["accept", "renew"])
def test_an_administrator_decides_and_the_log_says_so(archive: Path, decide: str) -> None:
    """An older state counts again only after somebody said so; the mark is of it from then on."""
    roll_back_all(archive)
    run("put", "files/0.dcm", code=13)
    if decide == "accept":
        run("recover", "accept-loss", "--to", str(told("recover", "show", code=1)["records"]))
    else:
        run("mark", "renew", "--reason", "the newer one was a test", "--officer", "Meyer")
    run("verify", "--level", "decrypt")
    run("recover", "show")
    run("put", "files/0.dcm")
    assert told("mark", "show")["records"] == told("verify")["records"]
    with open_reading(load_config(Path("coffer.toml"))) as opened:
        (event,) = (
            each.event for each in opened.events(frozenset({Kind.STATE})) if isinstance(each.event, MarkRenewed)
        )
        assert event.old_mark is not None
        assert event.mark.records < event.old_mark.records


@pytest.mark.parametrize("forge", [roll_back, roll_back_all, cut_whole_groups])
def test_only_the_mark_knows_better(archive: Path, forge: Callable[[Path], None]) -> None:
    """What the mark adds, and what a copy that may be older is asked."""
    forge(archive)
    log, *history = (finding["what"] for finding in told("verify", code=1)["findings"])  # type: ignore[attr-defined]
    assert "the mark outside the folder covers" in log or "the mark outside the folder covers" in history.pop()
    beside = ("the history of checkpoints ends", "the latest checkpoint covers")
    assert all(what.startswith(beside) for what in history)
    assert told("verify", "--copy")["findings"] == []


def test_another_key_is_named_with_the_right_one(archive: Path) -> None:
    kept = Path("vkey.txt").read_text()
    sign_again(archive)
    for args in ((), ("--vkey", kept), ("--level", "decrypt")):
        found = [str(finding["what"]) for finding in told("verify", *args, code=1)["findings"]]  # type: ignore[attr-defined]
        (named,) = (what for what in found if "is none of this archive's" in what)
        assert kept in named
        assert THIEF.vkey(kept.partition("+")[0]) in named
    assert any("the keyring's signing key" in what for what in found)


@pytest.mark.parametrize("forge", [launder, launder_to_the_first, sign_again, raise_the_epoch, plant_a_segment])
def test_an_auditor_without_coffer_finds_it(archive: Path, forge: Callable[[Path], None]) -> None:
    command = [sys.executable, str(ROOT / "docs/auditor/verify_coffer.py"), str(archive)]
    kept = ["--vkey", Path("vkey.txt").read_text()]
    assert run_program([*command, *kept], check=False).returncode == 0
    assert run_program(command, check=False).returncode == 17
    forge(archive)
    assert run_program([*command, *kept], check=False, capture_output=True).returncode == 1


def test_a_planted_segment_is_refused_and_set_aside_when_somebody_decides_so(archive: Path) -> None:
    before = told("verify")["records"]
    plant_a_segment(archive)
    planted = (archive / "segments" / "00000002.seg").read_bytes()
    assert "no valid footer" in run("verify", code=1).output
    assert "coffer recover show" in run("put", "files/0.dcm", code=3).output
    assert (archive / "segments" / "00000002.seg").read_bytes() == planted
    assert told("recover", "show", code=1)["records"] == before
    run("recover", "accept-loss", "--to", str(before))
    assert planted in [kept.read_bytes() for kept in (archive / "lost+found").iterdir()]
    run("put", "files/0.dcm")
    run("verify", "--level", "decrypt")


def test_no_signature_vouches_for_an_altered_body(archive: Path) -> None:
    """Opening does not read what a checkpoint covers. What is signed after it covers the header, and so the hash of the
    bytes that were stored: the damage is the same finding before and after, and none once they are back."""
    path, (header, _, _) = segment_of(archive), read(archive)[1]
    stored = path.read_bytes()
    at = stored.index(header) + RECORD + 9
    path.write_bytes(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
    (before,) = told("verify", code=1)["findings"]  # type: ignore[misc]
    signed = told("mark", "show")["records"]
    other = next(iter(sample_study()))
    other.SOPInstanceUID = "2.25.4711"
    Path("other.dcm").write_bytes(part10(other))
    run("put", "other.dcm")
    assert int(str(told("mark", "show")["records"])) > int(str(signed))
    (after,) = told("verify", code=1)["findings"]  # type: ignore[misc]
    assert before == after
    assert (after["record"], after["what"]) == (1, "the body does not match its hash")
    run("verify", "--level", "headers")  # what was signed is as it was signed
    grown = path.read_bytes()
    path.write_bytes(grown[:at] + stored[at : at + 1] + grown[at + 1 :])
    run("verify", "--level", "decrypt")


def test_an_older_tag_is_believed_by_nobody(archive: Path) -> None:
    """Where a checkpoint or a later tag says more, another tag in its place is no finding, and makes no difference."""
    path, (header, body, tag) = segment_of(archive), read(archive)[1]
    data, whole = path.read_bytes(), header + body
    at = data.index(whole) + len(whole)
    for other in (bytes(79) + b"\1", tag[::-1]):
        closing = header[44:52] + other
        end = closing + struct.pack(">I", zlib.crc32(closing))
        path.write_bytes(data[:at] + end + data[at + len(end) :])
        run("verify", "--level", "decrypt")
        run("recover", "show")
    run("put", "files/0.dcm")
    run("verify", "--level", "decrypt")


def test_without_any_key_from_outside_a_verification_says_so(archive: Path) -> None:
    Path(str(told("mark", "show", code=None)["mark"])).unlink()
    found = told("verify", code=17)
    assert (found["findings"], found["vkey"]) == ([], None)
    assert "there is no mark" in str(found["degraded"])
    assert "not checked against any key from outside" in run("verify", code=17).output
    assert told("verify", "--vkey", Path("vkey.txt").read_text())["vkey_from"] == "--vkey"
    run("put", "files/0.dcm")  # a mark that is gone stops nothing, and is not made again
    assert "there is no mark" in str(told("status")["degraded"])
    assert "there is no mark" in run("mark", "show", code=1).output


def test_a_tail_after_a_crash_is_not_taken_if_it_was_changed(archive: Path) -> None:
    """A6: records that no checkpoint covers yet; dropping or swapping them leaves no true tag at the end."""
    with open_writer(load_config(Path("coffer.toml"))) as written:
        for reason in ("one", "two", "three"):
            written.record_event(RekeyOrdered(new_key=KEY, reason=reason, by=BY))
        shutil.copytree(archive, "crashed")
    records = read(Path("crashed"))
    for changed in ([*records[:-2], records[-1]], [*records[:-2], records[-1], records[-2]]):
        shutil.rmtree(archive)
        shutil.copytree("crashed", archive)
        write(archive, changed)
        run("verify", code=1)
        run("put", "files/0.dcm", code=13)


def test_another_continuations_signing_key_does_not_reach_the_mark(archive: Path) -> None:
    """A restore drill rotates its signing key; its endorsements are true, and lie here while an idle writer ends."""
    shutil.copytree("data", "kept")
    shown = told("mark", "show")
    mark, before = Path(str(shown["mark"])), shown["vkey"]
    marked = mark.read_bytes()
    run("keys", "rotate-signing", "--reason", "drill")
    theirs = Path("data/checkpoints/endorsements").read_bytes()
    shutil.rmtree("data")
    shutil.copytree("kept", "data")
    mark.write_bytes(marked)
    with open_writer(load_config(Path("coffer.toml"))):
        Path("data/checkpoints/endorsements").write_bytes(theirs)
    assert told("mark", "show")["vkey"] == before
    ours = Path("kept/checkpoints/endorsements")
    (archive / "checkpoints" / "endorsements").unlink()
    if ours.exists():
        shutil.copy(ours, archive / "checkpoints" / "endorsements")
    assert told("verify", "--level", "decrypt")["vkey_from"] == "the mark"
    run("put", "files")
