"""Sealed bodies: what went in comes out, from memory and from disk; anything altered raises and gives nothing."""

import hashlib
import os
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.body.frame_encoder import EncoderPool, FrameEncoder
from coffer.archive.body.reseal import reseal
from coffer.archive.body.sealed_body import BodyContext, BodyReader, own_memory, seal_body
from coffer.archive.body.spool import MemoryBudget, Spool, clear_stale
from coffer.archive.codec import frames
from coffer.archive.codec.layout import PixelLayout
from coffer.archive.format.entry import SealedFile
from coffer.archive.store.free_space import FreeSpace
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.memory.secret import Secret
from tests.archive.codec.both import BOTH

KEY, RANDOM = Secret(bytes(range(32))), bytes  # always zeros
CONTEXT = BodyContext(b"a" * 16, b"s" * 16, b"c" * 32, 1)
MEMORY = 1 << 30
CODERS = EncoderPool(3)


def spooled(folder: Path, data: bytes, memory: int = MEMORY, budget: int = MEMORY) -> Spool:
    spool = Spool(FreeSpace(folder, 0), MemoryBudget(budget), memory)
    for start in range(0, len(data), 100_000):
        spool.write(data[start : start + 100_000])
    return spool


def drafted(
    folder: Path, data: bytes, memory: int = MEMORY, layout: PixelLayout | None = None, early: int = MEMORY
) -> FrameEncoder:
    """A finished draft; its layout is given when `early` bytes have arrived."""
    draft = FrameEncoder(Spool(FreeSpace(folder, 0), MemoryBudget(MEMORY), memory), CODERS, 1 << 40)
    for start in range(0, len(data), 100_000):
        draft.write(data[start : start + 100_000])
        if draft.size >= early and not draft.is_laid_out:
            draft.lay_out(layout)
    draft.finish(layout)
    return draft


@pytest.mark.parametrize("writes", ["spool", "seal", "reseal"])
def test_files_of_objects_on_their_way_leave_the_reserve_alone(tmp_path: Path, free: list[int], writes: str) -> None:
    """Refused at the first byte where there is room for the file, but not for what must follow it."""
    data, room = os.urandom(300_000), FreeSpace(tmp_path, 1000)
    draft, stored = drafted(tmp_path, data, memory=0), seal(tmp_path, data)
    left = sorted(tmp_path.iterdir())
    with closing(Spool(room, MemoryBudget(0), 0)) as spool, reader(stored) as body:
        write = {
            "spool": lambda: spool.write(data),
            "seal": lambda: seal_body(KEY, CONTEXT, b"meta", draft, RANDOM, room, own_memory),
            "reseal": lambda: reseal(body, body.meta, KEY, CONTEXT, RANDOM, room, in_memory=False),
        }
        free[0] = 1000 + (64 << 10) + 550_000
        with pytest.raises(UnavailableError, match="reserve"):
            write[writes]()
        assert [path for path in tmp_path.iterdir() if path not in left and path.stat().st_size] == []
        free[0] = 1000 + (64 << 10) + (4_000_000 if writes == "spool" else 650_000)
        done = write[writes]()
    if isinstance(done, SealedFile):
        done.path.unlink()
    draft.close()


@pytest.mark.parametrize("writes", ["seal", "reseal"])
def test_a_file_that_is_being_sealed_stops_where_others_took_the_room(
    tmp_path: Path, free: list[int], writes: str
) -> None:
    data, room = os.urandom(3_000_000), FreeSpace(tmp_path, 1000)
    draft, stored = drafted(tmp_path, data, memory=0), seal(tmp_path, data)
    left, asked = sorted(tmp_path.iterdir()), room.require

    def others_write(count: int) -> None:
        asked(count)
        free[0] = 1000 + (64 << 10)

    free[0] = 10_000_000
    room.require = others_write  # type: ignore[method-assign]
    with reader(stored) as body:
        write = {
            "seal": lambda: seal_body(KEY, CONTEXT, b"meta", draft, RANDOM, room, own_memory),
            "reseal": lambda: reseal(body, body.meta, KEY, CONTEXT, RANDOM, room, in_memory=False),
        }
        with pytest.raises(UnavailableError, match="reserve"):
            write[writes]()
    assert sorted(tmp_path.iterdir()) == left
    draft.close()


def sealed_bytes(body: memoryview | SealedFile) -> bytes:
    if isinstance(body, memoryview):
        return bytes(body)
    data = body.path.read_bytes()
    assert (len(data), hashlib.sha256(data).digest()) == (body.length, body.sha256)
    body.path.unlink()
    return data


def seal(folder: Path, data: bytes, memory: int = MEMORY, layout: PixelLayout | None = None) -> bytes:
    draft = drafted(folder, data, memory, layout)
    try:
        return sealed_bytes(seal_body(KEY, CONTEXT, b"meta", draft, RANDOM, FreeSpace(folder, 0), own_memory))
    finally:
        draft.close()


def reader(sealed: bytes, context: BodyContext = CONTEXT) -> BodyReader:
    return BodyReader(KEY, context, lambda at, length: sealed[at : at + length], len(sealed))


@pytest.mark.parametrize("size", [0, 1, 1000, frames.FRAME_BYTES, frames.FRAME_BYTES + 1, 3_000_000])
@pytest.mark.parametrize("memory", [MEMORY, 0])
def test_round_trip(tmp_path: Path, size: int, memory: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    sealed = seal(tmp_path, data, memory)
    with reader(sealed) as body:
        assert (body.meta, body.length, body.sha256) == (b"meta", size, hashlib.sha256(data).digest())
        assert b"".join(body.chunks()) == data
        assert body.read(size // 2, size // 2 + 70) == data[size // 2 : size // 2 + 70]
    assert not list(tmp_path.iterdir())


def test_a_body_is_the_same_by_either_kernel_and_read_by_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed with the same randomness, every byte is equal: which kernel an archive was written with shows nowhere."""
    words = np.random.default_rng(11).integers(0, 1 << 16, (900, 1000)) >> np.resize(range(16), (900, 1000))
    data = b"header" * 40 + words.astype("<u2").tobytes()
    layout, sealed = PixelLayout(240, len(data) - 240, 900, 1000, 1, 16, 1), {}
    for name, kernels in BOTH.items():
        monkeypatch.setattr(frames, "kernels", kernels)
        sealed[name] = seal(tmp_path, data, layout=layout)
    assert sealed["numpy"] == sealed["compiled"]
    for kernels in BOTH.values():
        monkeypatch.setattr(frames, "kernels", kernels)
        with reader(sealed["numpy"]) as body:
            assert b"".join(body.chunks()) == data


def test_meta_that_goes_beyond_the_first_chunk(tmp_path: Path) -> None:
    meta, draft = bytes(range(256)) * 300, drafted(tmp_path, b"data set")
    sealed = sealed_bytes(seal_body(KEY, CONTEXT, meta, draft, RANDOM, FreeSpace(tmp_path, 0), own_memory))
    draft.close()
    with reader(sealed) as body:
        assert (body.meta, b"".join(body.chunks())) == (meta, b"data set")


@pytest.mark.parametrize("memory", [0, MEMORY])
@pytest.mark.parametrize("early", [1, 300_000, 700_000, MEMORY])
def test_it_does_not_matter_when_and_where_it_is_coded(tmp_path: Path, memory: int, early: int) -> None:
    pixels = np.arange(450_000, dtype="<u2").tobytes()
    data = b"head" * 1000 + pixels + b"tail"
    layout = PixelLayout(4000, len(pixels), 500, 450, 1, 16, 2)
    draft = drafted(tmp_path, data, memory, layout, early)
    assert draft.sha256() == hashlib.sha256(data).digest()
    sealed = sealed_bytes(seal_body(KEY, CONTEXT, b"meta", draft, RANDOM, FreeSpace(tmp_path, 0), own_memory))
    draft.close()
    assert sealed == seal(tmp_path, data, layout=layout)
    with reader(sealed) as body:
        assert b"".join(body.chunks()) == data


@given(
    steps=st.lists(st.tuples(*[st.integers(1, 400_000)] * 3), min_size=1, max_size=6),
    settle=st.integers(0, 900_000),
)
def test_a_draft_can_be_read_while_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]], settle: int
) -> None:
    content = bytes(1000) + bytes(range(256)) * 3000 + bytes(1000)
    draft = FrameEncoder(Spool(FreeSpace(tmp_path_factory.mktemp("d"), 0), MemoryBudget(0), 0), CODERS, 1 << 40)
    for step, before, length in [*steps, (len(content), 500_000, 300_000)]:
        draft.write(content[draft.size : draft.size + step])
        if draft.size > settle and not draft.is_laid_out:
            draft.lay_out(PixelLayout(1000, 768_000, 300, 640, 1, 16, 2))
        start = max(draft.size - before, 0)
        assert draft.read(start, start + length) == content[: draft.size][start : start + length]
    draft.finish(None)
    assert draft.read(0, 1 << 30) == content
    draft.close()


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    sealed = bytearray(seal(tmp_path_factory.mktemp("b"), os.urandom(40_000)))
    sealed[at * len(sealed) // 10_001] ^= 1 << bit
    with pytest.raises(IntegrityError):
        list(reader(bytes(sealed)).chunks())


@pytest.mark.parametrize("field", ["archive_id", "study_key_id", "content_id", "kind"])
def test_a_body_opens_in_one_place_only(tmp_path: Path, field: str) -> None:
    parts = {n: getattr(CONTEXT, n) for n in ("archive_id", "study_key_id", "content_id", "kind")}
    parts[field] = 2 if field == "kind" else parts[field][::-1].replace(parts[field][:1], b"x")
    with pytest.raises(IntegrityError):
        reader(seal(tmp_path, b"data"), BodyContext(**parts))


def test_cut_bodies_are_refused(tmp_path: Path) -> None:
    sealed = seal(tmp_path, b"x" * 50_000)
    for length in range(0, len(sealed), 37):
        with pytest.raises(IntegrityError):
            list(reader(sealed[:length]).chunks())


def test_a_large_object_is_sealed_and_read_with_little_memory(tmp_path: Path) -> None:
    draft = FrameEncoder(Spool(FreeSpace(tmp_path, 0), MemoryBudget(0), 0), CODERS, 1 << 40)
    block = os.urandom(1 << 20)
    tracemalloc.start()
    for _ in range(60):
        draft.write(block)
    draft.finish(None)
    body = seal_body(KEY, CONTEXT, b"", draft, RANDOM, FreeSpace(tmp_path, 0), own_memory)
    assert isinstance(body, SealedFile)
    draft.close()
    with body.path.open("rb") as file:

        def read(at: int, length: int) -> bytes:
            file.seek(at)
            return file.read(length)

        with BodyReader(KEY, CONTEXT, read, body.length) as opened:
            assert sum(len(chunk) for chunk in opened.chunks()) == 60 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20
    body.path.unlink()


def test_a_spool_file_holds_nothing_readable_and_goes(tmp_path: Path) -> None:
    data = b"PATIENT^NAME 1234567890 " * 20_000
    spool = spooled(tmp_path, data, memory=1000)
    assert not spool.is_in_memory
    (path,) = tmp_path.iterdir()
    assert b"PATIENT^NAME" not in path.read_bytes()
    assert spool.read(0, len(data)) == data
    assert spool.read(65_530, 65_550) == data[65_530:65_550]
    spool.close()
    spool.close()
    assert not list(tmp_path.iterdir())


def test_an_altered_spool_file_is_found(tmp_path: Path) -> None:
    spool = spooled(tmp_path, bytes(300_000), memory=0)
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.seek(70_000)
        byte = file.read(1)[0]
        file.seek(70_000)
        file.write(bytes((byte ^ 0xFF,)))
    with pytest.raises(IntegrityError):
        spool.read(0, 300_000)
    spool.close()


def test_the_budget_is_shared_and_given_back(tmp_path: Path) -> None:
    budget = MemoryBudget(3 << 20)
    spools = [Spool(FreeSpace(tmp_path, 0), budget, 2 << 20) for _ in range(3)]
    for spool in spools:
        spool.write(bytes(1_500_000))
    assert [s.is_in_memory for s in spools] == [True, False, False] or sum(s.is_in_memory for s in spools) < 3
    for spool in spools:
        assert spool.read(0, 1 << 30) == bytes(1_500_000)
        spool.close()
    assert budget.take(3 << 20)


def test_an_object_over_the_limit_is_refused(tmp_path: Path) -> None:
    draft = FrameEncoder(Spool(FreeSpace(tmp_path, 0), MemoryBudget(MEMORY), MEMORY), CODERS, 1000)
    with pytest.raises(UnavailableError, match="larger than"):
        draft.write(bytes(1001))
    draft.close()


def test_stale_files_are_cleared(tmp_path: Path) -> None:
    for name in ("0123456789abcdef.spool", "0123456789abcdef.sealed", "left.spool", "notes.txt"):
        (tmp_path / name).write_bytes(b"noise")
    assert clear_stale(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"left.spool", "notes.txt"}  # not ours to remove
