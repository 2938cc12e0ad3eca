"""The wire tap itself, between two DCMTK programs: what it notes is what arrives."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pydicom

from tests.peers.coffer_process import free_port, run_tool
from tests.peers.dicom_client import Item, Reply, split_part10, store, synthetic, uid
from tests.peers.wiretap import WireTap


def test_what_the_tap_notes_is_what_arrives(
    dcmtk: None, storescp: Callable[[int], Path], tap: Callable[[int], WireTap], tmp_path: Path
) -> None:
    port = free_port()
    arrived = storescp(port)
    wire = tap(port)
    items = [synthetic(n, 100_000 * n + 100, study=3) for n in range(5)]
    assert store(wire.port, items) == [Reply(0)] * 5
    assert {s.sop_instance: s.sha256 for s in wire.sent} == {
        i.sop_instance: hashlib.sha256(i.data).hexdigest() for i in items
    }
    assert wire.acknowledged() == {i.sop_instance for i in items}
    kept = [split_part10(f.read_bytes()) for f in arrived.iterdir()]
    assert {(uid(meta[3]), hashlib.sha256(data).hexdigest()) for meta, data in kept} == {
        (s.sop_instance, s.sha256) for s in wire.sent
    }


def test_dcmsend_passes_the_tap(
    dcmtk: None, storescp: Callable[[int], Path], tap: Callable[[int], WireTap], well_formed: list[Path]
) -> None:
    port = free_port()
    storescp(port)
    wire = tap(port)
    done = run_tool("dcmsend", "-dn", "-nuc", "-nh", "127.0.0.1", str(wire.port), *map(str, well_formed[:40]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({s.sop_instance for s in wire.sent}) == len(wire.acknowledged()) > 30
    assert all(isinstance(s.length, int) and s.length > 0 for s in wire.sent)


def test_a_synthetic_item_is_what_it_says() -> None:

    item: Item = synthetic(4, 3000, study=2)
    dataset = pydicom.filereader.read_dataset(io.BytesIO(item.data), is_implicit_VR=False, is_little_endian=True)
    assert dataset.SOPInstanceUID == item.sop_instance
    assert dataset.PatientName == "Kill^Test2"
