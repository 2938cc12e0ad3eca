"""A thousand flipped bits, and verification without any key finds each one and says where it is."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Finding, Verifier
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import synthetic

FLIPS = 1000


def verify(archive: Path) -> list[Finding]:
    """Every finding, bodies included."""
    return list(Verifier(ArchiveFolder.open(archive)).findings())


def flip(path: Path, offset: int, bit: int) -> None:
    """Invert one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


class Part(NamedTuple):
    """A stretch of a segment file; `seq` is the number of the record it is, None for header and footer."""

    start: int
    stop: int
    seq: int | None


def parts(segment: Path) -> list[Part]:
    """What a segment consists of, read as archive/FORMAT.md says and not as the verifier does."""
    content = segment.read_bytes()
    out, at = [Part(0, 88, None)], 88
    while content[at : at + 4] == content[88:92]:
        seq = int.from_bytes(content[at + 8 : at + 16], "big")
        end = at + 160 + int.from_bytes(content[at + 44 : at + 52], "big") + 96
        end += -end % 8
        out.append(Part(at, end, seq))
        at = end
    return [*out, Part(at, len(content), None)] if at < len(content) else out


def part10(number: int, size: int, study: int) -> bytes:
    """A synthetic data set as a Part 10 file."""
    item = synthetic(number, size, study)
    meta = b""
    for element, value in ((2, item.sop_class), (3, item.sop_instance), (0x10, item.transfer_syntax)):
        raw = value.encode() + b"\0" * (len(value) % 2)
        meta += b"\x02\x00" + element.to_bytes(2, "little") + b"UI" + len(raw).to_bytes(2, "little") + raw
    length = b"\x02\x00\x00\x00UL\x04\x00" + len(meta).to_bytes(4, "little")
    return bytes(128) + b"DICM" + length + meta + item.data


@pytest.fixture
def filled(new_coffer: Callable[..., CofferProcess], tmp_path: Path) -> CofferProcess:
    """A stopped archive of several small segments, some sealed, and without its key file."""
    source = tmp_path / "source"
    source.mkdir()
    dice = random.Random(7)
    for number in range(120):
        (source / f"{number:03d}.dcm").write_bytes(
            part10(number, dice.choice((200, 3000, 20_000, 120_000)), number % 5)
        )
    coffer = new_coffer(extra="\n[storage]\nsegment_bytes = 1048576\n", serve=False)
    coffer.run("put", str(source))
    coffer.key_file.rename(coffer.key_file.with_suffix(".away"))
    return coffer


def test_every_flipped_bit_is_found_without_a_key(filled: CofferProcess) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    segments = sorted((filled.archive / "segments").iterdir())
    assert len(segments) >= 1
    assert not verify(filled.archive)
    sizes = [s.stat().st_size for s in segments]
    map_of = {segment: parts(segment) for segment in segments}
    assert sum(part.seq is not None for each in map_of.values() for part in each) > 120
    for _ in range(FLIPS):
        segment = dice.choices(segments, sizes)[0]
        offset, bit = dice.randrange(segment.stat().st_size), dice.randrange(8)
        flip(segment, offset, bit)
        findings = verify(filled.archive)
        flip(segment, offset, bit)
        where = f"bit {bit} of byte {offset} of {segment.name}"
        part = next(p for p in map_of[segment] if p.start <= offset < p.stop)
        named = [f for f in findings if f.segment == int(segment.stem) and f.seq == part.seq]
        assert any(part.start <= f.offset < part.stop for f in named), f"{where}, {part}: {findings[:3]}"
        assert all(f.what for f in findings)
    assert not verify(filled.archive)
    filled.key_file.with_suffix(".away").rename(filled.key_file)


def test_the_command_finds_it_and_ends_with_1(filled: CofferProcess) -> None:
    segment = min((filled.archive / "segments").iterdir())
    middle = segment.stat().st_size // 2
    part = next(p for p in parts(segment) if p.start <= middle < p.stop)
    flip(segment, middle, 3)
    done = filled.run("verify", "--json", check=False)
    flip(segment, middle, 3)
    assert done.returncode == 1, done.stdout + done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["segment"], finding["record"]) == (int(segment.stem), part.seq)
    assert part.start <= finding["offset"] < part.stop
    filled.key_file.with_suffix(".away").rename(filled.key_file)
