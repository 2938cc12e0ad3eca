"""Large objects: coded while they arrive, however they end; half a GiB goes in and out within 256 MiB of memory."""

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, Reply, get, store, synthetic
from tests.peers.wiretap import WireTap

SIZE = int(os.environ.get("COFFER_LARGE_BYTES", "536870912"))
GROWTH_BYTES = 256 << 20


def peak_bytes(coffer: CofferProcess) -> int:
    """The highest resident memory of each of the server's processes so far, together."""
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in coffer.processes())
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def large(size: int) -> Item:
    """A data set that ends in one element of `size` incompressible bytes."""
    small = synthetic(1, 100, study=88)
    block = os.urandom(1 << 20)
    head = b"\x23\x00\x10\x00LO\x06\x00TESTER" + b"\x23\x00\x01\x10OB\0\0" + size.to_bytes(4, "little")
    return Item(small.sop_class, small.sop_instance, small.transfer_syntax, small.data + head + block * (size >> 20))


@pytest.mark.timeout(300)
def test_half_a_gibibyte_in_and_out_within_a_memory_budget(
    new_coffer: Callable[..., CofferProcess], tap: Callable[[int], WireTap]
) -> None:
    coffer = new_coffer()
    assert store(coffer.port, [synthetic(2, 1000, study=88)]) == [Reply(0)]
    before = peak_bytes(coffer)
    wire = tap(coffer.port)
    item = large(SIZE)
    assert store(wire.port, [item]) == [Reply(0)]
    after_store = peak_bytes(coffer)
    assert after_store - before < GROWTH_BYTES, f"{(after_store - before) >> 20} MiB more after the store"
    study = item.sop_instance.rsplit(".", 2)[0]
    final = get(wire.port, [(item.sop_class, item.transfer_syntax)], StudyInstanceUID=study)
    assert final.Status == 0
    assert wire.newest("received")[item.sop_instance] == wire.newest()[item.sop_instance]
    after_get = peak_bytes(coffer)
    assert after_get - before < GROWTH_BYTES, f"{(after_get - before) >> 20} MiB more after the retrieval"


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """An Explicit VR Little Endian element with a 32-bit length."""
    said = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, said) + value


def numbers(**values: int) -> bytes:
    """Image attributes, US each."""
    tags = {"samples": 2, "rows": 0x10, "columns": 0x11, "bits": 0x100}
    return b"".join(struct.pack("<HH2sHH", 0x28, tags[n], b"US", 2, v) for n, v in values.items())


def item(value: bytes) -> bytes:
    """A fragment."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
IMAGES = np.add.outer(np.arange(4000), np.arange(800)).astype("<u2").tobytes()  # 6.4 MB, 4000 rows
SHAPE = struct.pack("<HH2sH", 0x28, 8, b"IS", 2) + b"8 "
SHAPE = numbers(samples=1) + SHAPE + numbers(rows=500, columns=800, bits=16)
BEHIND = element(0xFFFCFFFC, "OB", bytes(1000))
SHAPES = {
    "pixels at the end": SHAPE + element(0x7FE00010, "OW", IMAGES),
    "padding behind the pixels": SHAPE + element(0x7FE00010, "OW", IMAGES) + BEHIND,
    "pixels cut": SHAPE + element(0x7FE00010, "OW", IMAGES[:4_000_001], len(IMAGES)),
    "fewer pixels than said": SHAPE + element(0x7FE00010, "OW", IMAGES[:5_000_000]) + BEHIND,
    "a header of 3 MB": element(0x00231010, "OB", os.urandom(3_000_000)) + SHAPE + element(0x7FE00010, "OW", IMAGES),
    "fragments": SHAPE + element(0x7FE00010, "OB", item(IMAGES[: 1 << 22]) + SEQUENCE_END, 0xFFFFFFFF),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_that_is_coded_while_it_arrives_comes_back(
    coffer_server: CofferProcess, tap: Callable[[int], WireTap], shape: str
) -> None:
    small = synthetic(1, 0, study=89)
    sent = replace(small, data=small.data + SHAPES[shape])
    wire = tap(coffer_server.port)
    assert store(wire.port, [sent]) == [Reply(0)]
    study = sent.sop_instance.rsplit(".", 2)[0]
    assert get(wire.port, [(sent.sop_class, sent.transfer_syntax)], StudyInstanceUID=study).Status == 0
    came, went = wire.newest("received")[sent.sop_instance], wire.newest()[sent.sop_instance]
    assert came.sha256 == went.sha256 == hashlib.sha256(sent.data).hexdigest()
    if "pixels" in shape:
        stored = sum(path.stat().st_size for path in (coffer_server.archive / "segments").iterdir())
        assert stored < len(sent.data) / 10, "its pixels were not coded as pixels"
