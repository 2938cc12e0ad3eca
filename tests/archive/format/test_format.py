"""FORMAT.md, the structs and the golden archive agree, and a second reader written from FORMAT.md reads it."""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coffer.archive.format import record, segment
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Verifier
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.memory.secret import Secret

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "vectors" / "log"
TEXT = (ROOT / "archive" / "FORMAT.md").read_text(encoding="utf-8")
Load = Callable[[str], ModuleType]


def offsets_in(title: str) -> list[tuple[int, int]]:
    """(offset, size) of the first offset table behind `title`."""
    table = TEXT.split(title, 1)[1].split("| Offset | Size | Field |", 1)[1].split("\n\n", 1)[0]
    return [(int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)]


def offsets_of(layout: struct.Struct) -> list[tuple[int, int]]:
    """(offset, size) of the fields of a big-endian struct, pad bytes counted as one field."""
    found, at = [], 0
    for count, letter in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        parts = [count + letter] if letter in "sx" else [letter] * int(count or 1)
        for part in parts:
            found.append((at, struct.calcsize(">" + part)))
            at += found[-1][1]
    return found


@pytest.mark.parametrize(
    ("title", "layout"),
    [
        ("\nSegment header:", segment.HEADER),
        ("\nRecord header:", record.HEADER),
        ("\nRecord trailer:", record.TRAILER),
        ("\nFooter, fixed part:", segment.FOOTER_HEAD),
        ("\nFooter, tail:", segment.FOOTER_TAIL),
    ],
)
def test_offset_tables(title: str, layout: struct.Struct) -> None:
    assert offsets_in(title) == offsets_of(layout)


def test_kinds_and_limits_stand_in_the_page() -> None:
    table = TEXT.split("| Kind | Value | Body |", 1)[1].split("\n\n", 1)[0]
    assert re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", table, re.MULTILINE) == [(k.name, str(k)) for k in record.Kind]
    assert f"at most {segment.MAX_FOOTER_BYTES}" in TEXT
    for magic in (record.MAGIC, record.END_MAGIC, segment.MAGIC, segment.FOOTER_MAGIC, segment.FOOTER_END):
        assert f"`{magic.decode()}`" in TEXT


def test_the_worked_example_is_the_golden_segment() -> None:
    block = TEXT.split("```")[1]
    lines = (re.match(r"(?:[0-9a-f]{2} )*[0-9a-f]{2}(?= {2,})", line) for line in block.splitlines())
    assert b"".join(bytes.fromhex(m[0]) for m in lines if m) == (GOLDEN / "segments" / "00000004.seg").read_bytes()
    note = (GOLDEN / "checkpoints" / "latest").read_text(encoding="utf-8")
    assert note.split("\n\n")[0] == TEXT.split("```")[5].strip()
    note = (GOLDEN / "checkpoints" / "endorsements").read_text(encoding="utf-8")
    assert note.split("\n\n")[0] == TEXT.split("```")[7].strip()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_golden_archive_is_made_again_byte_by_byte(tmp_path: Path, load_script: Load) -> None:
    load_script("make_log").make(tmp_path / "log")
    assert contents(tmp_path / "log") == contents(GOLDEN)


def test_both_readers_read_the_golden_archive(tmp_path: Path, load_script: Load) -> None:
    make, second = load_script("make_log"), load_script("reader_log")
    log = second.Log(GOLDEN)
    entries = [make.entry(n) for n in range(len(make.LENGTHS))]
    begun = log.records.pop(7)
    assert (begun["kind"], begun["body"]) == (record.Kind.LOG_EPOCH, make.EPOCH)
    assert [r["body"] for r in log.records] == [e.body for e in entries]
    assert [(r["kind"], r["flags"]) for r in log.records] == [(e.kind, e.flags) for e in entries]
    assert [(r["key_id"], r["content_id"]) for r in log.records] == [(e.study_key_id, e.content_id) for e in entries]
    assert list(Verifier(ArchiveFolder.open(GOLDEN)).findings()) == []
    assert (log.history[2:], log.tiles) == ([log.signed], 1)
    assert [least for _, least, _ in log.keys] == [0, 3] == [size for size, _ in log.history[:2]]
    make.make(tmp_path / "log")
    writer = LogWriter(
        ArchiveFolder.open(tmp_path / "log"),
        sign=CheckpointSigner(Secret(make.SEEDS[1])).sign_statement,
        now_ms=lambda: 1,  # far behind: the time of a record grows all the same
    )
    writer.append([make.entry(0)])
    assert second.Log(tmp_path / "log").tree.root() == writer._end.chain.tree.root()
    writer.close()


def test_the_tags_sign_what_the_second_reader_says(load_script: Load) -> None:
    """The golden archive's second key signs from three records on; the fourth and fifth record are one group."""
    make, log = load_script("make_log"), load_script("reader_log").Log(GOLDEN)
    keys = [Ed25519PrivateKey.from_private_bytes(seed).public_key() for seed in make.SEEDS]
    assert [size for size, _, _ in log.groups] == [1, 2, 3, 5, 6, 7, 8, 9]
    for size, statement, tag in log.groups:
        keys[size > 3].verify(tag, statement)


def test_the_second_reader_rejects_every_flipped_byte(tmp_path: Path, load_script: Load) -> None:
    load_script("make_log").make(tmp_path / "log")
    second = load_script("reader_log")
    text = (GOLDEN / "checkpoints" / "history").read_bytes().index(b"\n\n") + 2  # it does not check signatures
    keys = (GOLDEN / "checkpoints" / "endorsements").read_bytes().index(b"\n\n") + 2
    beside = [("checkpoints/history", text), ("checkpoints/endorsements", keys), ("tiles/tile/0/000.p/7", 7 * 32)]
    beside += [("archive.json", (GOLDEN / "archive.json").stat().st_size)]
    segments = [(str(p.relative_to(tmp_path / "log")), p.stat().st_size) for p in (tmp_path / "log/segments").iterdir()]
    for name, read in sorted(segments) + beside:
        path = tmp_path / "log" / name
        whole = path.read_bytes()
        for offset in range(read):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
            with pytest.raises(second.RejectedError):
                second.Log(tmp_path / "log")
        path.write_bytes(whole)


def test_the_second_reader_shares_nothing_with_the_product() -> None:
    source = (ROOT / "tests" / "vectors" / "reader_log.py").read_text(encoding="utf-8")
    assert not re.search(r"^(?:from|import) (?:archive|keys|index|server|cryptography)", source, re.MULTILINE)
