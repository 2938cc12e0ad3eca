"""A thousand flipped bits, and verification without any key finds each one and says where it is."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from archive.folder import ArchiveFolder
from archive.verify import Finding, Verifier
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
    for _ in range(FLIPS):
        segment = dice.choices(segments, sizes)[0]
        offset, bit = dice.randrange(segment.stat().st_size), dice.randrange(8)
        flip(segment, offset, bit)
        findings = verify(filled.archive)
        flip(segment, offset, bit)
        assert findings, f"bit {bit} of byte {offset} of {segment.name} was not found"
        named = [f for f in findings if str(f.segment) in segment.name or segment.name in str(f.segment)]
        assert named, f"{segment.name} is not named: {findings[:3]}"
        assert all(f.offset is not None and f.what for f in named)
    assert not verify(filled.archive)
    filled.key_file.with_suffix(".away").rename(filled.key_file)


def test_the_command_finds_it_and_ends_with_1(filled: CofferProcess) -> None:
    segment = min((filled.archive / "segments").iterdir())
    middle = segment.stat().st_size // 2
    flip(segment, middle, 3)
    done = filled.run("verify", check=False)
    flip(segment, middle, 3)
    assert done.returncode == 1, done.stdout + done.stderr
    assert segment.stem.lstrip("0") in done.stdout + done.stderr
    filled.key_file.with_suffix(".away").rename(filled.key_file)
