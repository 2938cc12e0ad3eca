"""The auditor's verifier as a program: it accepts what Coffer wrote, names what was altered, and shares nothing."""

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from coffer.archive.format.record import record_size
from coffer.archive.reader import LogReader
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.checkpoint_history import read_entries
from coffer.archive.tree.proof import consistency, inclusion, root
from coffer.archive.tree.proof_bundle import Consistency, Inclusion
from coffer.archive.tree.tiles import Tiles
from tests.archive.auditor import AUDITOR, PROGRAM, PROOFS, PROVER, ROOT, prove, run
from tests.archive.conftest import ORIGIN, SmallArchive, entry

GOLDEN = (ROOT / "tests/vectors/log", ROOT / "tests/vectors/archive/archive")


def found(folder: Path, vkey: str = "", kept: tuple[Path, ...] = ()) -> list[str]:
    """What the verifier finds, in this process."""
    return list(AUDITOR.Archive(folder, vkey, kept).found)


@pytest.mark.parametrize("program", [PROGRAM, PROOFS], ids=["copies", "proofs"])
def test_it_is_short_and_stands_alone(program: Path) -> None:
    source = program.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 330
    imports = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imports <= {*sys.stdlib_module_names, PROGRAM.stem} - ({PROGRAM.stem} if program == PROGRAM else set())


@pytest.mark.parametrize("folder", GOLDEN, ids=["log", "archive"])
def test_it_accepts_the_golden_archives(folder: Path) -> None:
    about = json.loads((folder / "archive.json").read_text())
    assert "consistent with itself; not checked against any key from outside" in run(folder, code=17)
    assert "all is as it was signed" in run(folder, "--vkey", about["vkey"])
    other = json.loads((GOLDEN[0] / "archive.json").read_text())["vkey"] if folder == GOLDEN[1] else about["vkey"] + "x"
    run(folder, "--vkey", other, code=1)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallArchive]:
    """Three checkpoints, a whole and a partial tile, several segments, one open; read only."""
    archive = SmallArchive(tmp_path_factory.mktemp("auditor") / "archive")
    log = archive.writer(segment_bytes=60_000)
    for size in (100, 257, 600):
        log.append([entry(n, n % 9) for n in range(log.next_seq, size)])
        log.checkpoint(archive.sign)
    log.append([entry(n) for n in range(600, 604)])
    log.append([entry(604)])
    log.close()
    yield archive
    archive.close()


def test_it_accepts_a_fresh_archive_and_its_proofs(filled: SmallArchive, tmp_path: Path) -> None:
    vkey, notes = filled.folder.vkey, [n.note for n in read_entries(filled.folder)]
    (tmp_path / "kept.note").write_bytes(notes[0])
    told = run(filled.folder.path, "--vkey", vkey, "--kept", tmp_path / "kept.note")
    assert told == "605 records, 4 checkpoints, 0 bytes of an unfinished write: all is as it was signed\n"
    proof = tmp_path / "proof.json"
    for index in (0, 99, 256, 599):
        proof.write_bytes(Inclusion.make(filled.folder, header(filled, index), notes[-1]).serialize())
        assert f"record {index}, body SHA-256" in prove(proof, vkey)
    for old in notes:
        proof.write_bytes(Consistency.make(filled.folder, old, notes[-1]).serialize())
        assert "begin with the" in prove(proof, vkey)
    prove(proof, vkey[:-2] + "==", code=1)


def header(archive: SmallArchive, index: int) -> bytes:
    reader = LogReader(archive.folder)
    _, found_header = next(reader.records(index))
    reader.close()
    return found_header.serialize()


def test_proofs_agree_for_all_pairs(filled: SmallArchive) -> None:
    """Both checkers of all proofs between sizes up to 18: what one accepts, the other does, altered ones too."""
    from coffer.archive.tree.proof import consistency, inclusion, root
    from coffer.archive.tree.tiles import Tiles

    key, at = filled.folder.vkey, Tiles(filled.folder, 600).at
    notes = [filled.sign(Checkpoint(ORIGIN, n, root(n, at)).serialize()) for n in range(19)]
    for new in range(1, 19):
        for old in range(new + 1):
            proof = Consistency(notes[old], tuple(consistency(old, new, at)), notes[new])
            assert PROVER.check_proof(json.loads(proof.serialize()), key)
        for index in range(0, new, 3):
            made = Inclusion(header(filled, index), tuple(inclusion(index, new, at)), notes[new])
            assert PROVER.check_proof(json.loads(made.serialize()), key)


def alterations(told: dict[str, object]) -> Iterator[dict[str, object]]:
    """Every number one off, every text with a character changed, every list shorter, longer and altered."""
    for name, value in told.items():
        if isinstance(value, int):
            yield {**told, name: value + 1}
        elif isinstance(value, str):
            for place in range(0, len(value), 7):
                if value[place] != "\n":
                    yield {**told, name: value[:place] + ("a" if value[place] != "a" else "b") + value[place + 1 :]}
        elif isinstance(value, list):
            yield {**told, name: [*value, "00" * 32]}
            if value:
                yield {**told, name: value[:-1]}
                yield {**told, name: [f"{int(value[0], 16) ^ 1:064x}", *value[1:]]}
        yield {n: v for n, v in told.items() if n != name}


def test_it_refuses_altered_proofs(filled: SmallArchive) -> None:
    key, notes = filled.folder.vkey, [n.note for n in read_entries(filled.folder)]
    proofs = (
        Inclusion.make(filled.folder, header(filled, 5), notes[-1]).serialize(),
        Consistency.make(filled.folder, notes[1], notes[-1]).serialize(),
    )
    for proof in proofs:
        for altered in alterations(json.loads(proof)):
            with pytest.raises((ValueError, KeyError)):
                PROVER.check_proof(altered, key)


def test_it_names_flips_in_every_kind_of_file(filled: SmallArchive, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(filled.folder.path, folder)
    assert found(folder) == []
    positions = LogReader(filled.folder)
    places = {p.seq: p for p, _ in positions.records()}
    positions.close()
    for seq in (0, 150, 599, 604):
        place = places[seq]
        for offset in (3, 30, 100, 140, 157, 160, 165, 170 + seq % 9):
            name = f"segments/{place.segment:08d}.seg"
            told = flipped(folder, name, place.offset + offset)
            is_open_tail = seq == 604  # not signed, nothing behind it: no one can tell it from a torn write
            assert is_open_tail or any(
                f"{place.segment:08d}.seg: offset {place.offset}, record {seq}" in t for t in told
            )
    files = sorted(p for part in ("tiles", "checkpoints") for p in (folder / part).rglob("*") if p.is_file())
    assert len(files) == 6
    for path in files:
        for at in range(0, path.stat().st_size, 397):
            told = flipped(folder, str(path.relative_to(folder)), at)
            assert any(path.name in line for line in told)
    for name in ("archive.json", "segments/00000001.seg"):
        for at in range(0, 96, 5):
            assert flipped(folder, name, at)
    first = folder / "segments/00000001.seg"
    for at in range(first.stat().st_size - 400, first.stat().st_size, 7):
        assert any("00000001.seg" in line for line in flipped(folder, "segments/00000001.seg", at))


def flipped(folder: Path, name: str, at: int) -> list[str]:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
    try:
        return found(folder)
    except (ValueError, KeyError) as error:
        return [str(error)]  # main prints it: archive.json says how to read everything else
    finally:
        path.write_bytes(whole)


def test_it_finds_what_is_missing_or_put_back(filled: SmallArchive, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    notes = [n.note for n in read_entries(filled.folder)]

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(filled.folder.path, folder)

    for part in ("segments/00000002.seg", "segments/00000001.seg"):
        fresh()
        (folder / part).unlink()
        assert found(folder)
    fresh()
    (folder / "checkpoints/latest").write_bytes(notes[0])
    assert any("history" in line for line in found(folder))
    fresh()
    (folder / "checkpoints/history").write_bytes(notes[0])
    assert any("history" in line for line in found(folder))
    (folder / "checkpoints/history").write_bytes(notes[1] + notes[0] + notes[2])
    assert any("not the next note" in line for line in found(folder))
    fresh()
    shutil.rmtree(folder / "tiles")  # they can be made again
    assert found(folder) == []
    last = max((folder / "segments").iterdir())
    last.write_bytes(last.read_bytes()[:-3])  # as a power cut leaves it: nobody was told of record 604
    assert "unfinished write: consistent with itself" in run(folder, code=17)
    last.write_bytes(last.read_bytes()[: -record_size(40) - 3])  # and part of the group before it
    assert "log: neither a checkpoint nor a tag covers its 3 records from 600 on" in found(folder)
    last.unlink()
    last = max((folder / "segments").iterdir())
    last.write_bytes(last.read_bytes()[:100])
    assert any("covers 600" in line for line in found(folder))


def test_it_finds_a_footer_that_lies(filled: SmallArchive, tmp_path: Path) -> None:
    """Whole, with its hash made again: only what the records give shows that it does not describe them."""
    folder = tmp_path / "copy"
    shutil.copytree(filled.folder.path, folder)
    path = folder / "segments/00000001.seg"
    whole = path.read_bytes()
    start = len(whole) - int.from_bytes(whole[-44:-36], "big")
    for at in (16, 55, 57, len(whole) - start - 45):  # last header's hash, tree size, a subtree root, an offset
        body = bytearray(whole[start:-44])
        body[at] ^= 1
        path.write_bytes(whole[:start] + body + whole[-44:-36] + sha256(body).digest() + b"CFSX")
        assert any("the footer does not describe" in line for line in found(folder))


def test_it_refuses_the_proof_of_another_tree(filled: SmallArchive) -> None:
    """A signer that lies about the size: the hashes fit, and the path is too short for such a tree."""
    key, at = filled.folder.vkey, Tiles(filled.folder, 600).at
    lie = filled.sign(Checkpoint(ORIGIN, 9, root(2, at)).serialize())
    one = filled.sign(Checkpoint(ORIGIN, 1, root(1, at)).serialize())
    for proof in (
        Inclusion(header(filled, 0), tuple(inclusion(0, 2, at)), lie).serialize(),
        Consistency(one, tuple(consistency(1, 2, at)), lie).serialize(),
    ):
        with pytest.raises(ValueError, match="too short"):
            PROVER.check_proof(json.loads(proof), key)


def test_it_finds_a_kept_checkpoint_contradicted(filled: SmallArchive, tmp_path: Path) -> None:
    lie = tmp_path / "kept.note"
    lie.write_bytes(filled.sign(Checkpoint(ORIGIN, 50, sha256(b"").digest()).serialize()))
    told = run(filled.folder.path, "--kept", lie, code=1)
    assert re.search(r"kept\.note: the first 50 records .* are not those that were signed", told)
    lie.write_bytes(filled.sign(Checkpoint(ORIGIN, 5000, sha256(b"").digest()).serialize()))
    assert "covers 5000" in run(filled.folder.path, "--kept", lie, code=1)


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 511))
def test_its_ed25519_is_that_of_a_library(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert AUDITOR.is_signed(public, signature, message)
    forged = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
    assert not accepted(public, forged, message)
    assert not accepted(public, signature, message + b"x")
    s = int.from_bytes(signature[32:], "little") + AUDITOR.Q
    assert not accepted(public, signature[:32] + s.to_bytes(32, "little"), message)  # the same point, another form


def accepted(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        return bool(AUDITOR.is_signed(public, signature, message))
    except ValueError:
        return False


def test_a_torn_end_of_the_history_is_no_finding(small: SmallArchive, load_script: Callable[[str], ModuleType]) -> None:
    """Cut anywhere, or with sectors that were never written; neither for the auditor nor for the second reader."""
    log = small.writer()
    for size in (3, 5):
        log.append([entry(n) for n in range(log.next_seq, size)])
        log.checkpoint(small.sign)
    log.close()
    path, second = small.folder.checkpoint_history, load_script("reader_log")
    whole = path.read_bytes()
    first = whole.index(ORIGIN.encode() + b"\n5\n")
    small.folder.checkpoint.write_bytes(whole[whole.index(ORIGIN.encode() + b"\n3\n") : first])
    for at in (first + 1, first + 5, first + len(ORIGIN), first + len(ORIGIN) + 1, len(whole) - 100, len(whole) - 1):
        for torn in (whole[:at], whole[:at] + bytes(len(whole) - at), whole[:first] + bytes(at - first) + whole[at:]):
            path.write_bytes(torn)
            assert found(small.folder.path) == []
            assert [size for size, _ in second.Log(small.folder.path).history] == [0, 3]
    path.write_bytes(whole)
