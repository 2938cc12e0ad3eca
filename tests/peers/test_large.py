"""An object of one GiB goes in and comes out while the server's memory grows by less than 256 MiB."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, Reply, get, store, synthetic
from tests.peers.wiretap import WireTap

SIZE = int(os.environ.get("COFFER_LARGE_BYTES", "1073741824"))
GROWTH_BYTES = 256 << 20


def peak_bytes(coffer: CofferProcess) -> int:
    """The highest resident memory of the server process so far."""
    assert coffer.process is not None
    status = Path(f"/proc/{coffer.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def large(size: int) -> Item:
    """A data set that ends in one element of `size` incompressible bytes."""
    small = synthetic(1, 100, study=88)
    block = os.urandom(1 << 20)
    head = b"\x23\x00\x10\x00LO\x06\x00TESTER" + b"\x23\x00\x01\x10OB\0\0" + size.to_bytes(4, "little")
    return Item(small.sop_class, small.sop_instance, small.transfer_syntax, small.data + head + block * (size >> 20))


@pytest.mark.timeout(300)
def test_one_gibibyte_in_and_out_within_a_memory_budget(
    new_coffer: Callable[..., CofferProcess], tap: Callable[[int], WireTap]
) -> None:
    coffer = new_coffer()
    assert store(coffer.port, [synthetic(2, 1000, study=88)]) == [Reply(0)]
    before = coffer.resident_bytes()
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
