"""Checkpoints of a live archive: signed by order, and copied beside the senders as docs/first-steps.md says."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from tests.peers.coffer_process import CofferProcess
from tests.peers.ward import Ward, objects


def test_a_running_server_signs_by_order_and_when_it_ends(new_coffer: Callable[..., CofferProcess]) -> None:
    ward = Ward(new_coffer())
    coffer = ward.coffer
    ward.store(objects(1))
    signed = coffer.json("checkpoint", "sign")
    assert (signed["signed"], signed["records"]) == (True, 4)
    assert signed["note"] == (coffer.archive / "checkpoints" / "latest").read_text()
    assert coffer.json("checkpoint", "sign")["signed"] is False
    ward.store(objects(2))
    assert coffer.json("checkpoint", "show")["unsigned_records"] == 4
    coffer.stop()
    shown = coffer.json("checkpoint", "show")
    assert (shown["records"], shown["unsigned_records"]) == (8, 0)
    coffer.start()


@pytest.mark.long
def test_a_copy_taken_beside_senders_is_whole(new_coffer: Callable[..., CofferProcess], tmp_path: Path) -> None:
    """In the order of the page: segments for a start, checkpoint, checkpoints, segments, keyring."""
    ward = Ward(new_coffer(extra="\n[storage]\nsegment_bytes = 1_048_576\n"))
    archive, copy, stop = ward.coffer.archive, tmp_path / "copy", threading.Event()

    def keep_storing(sender: int) -> None:
        study = 1000 * sender
        while not stop.is_set():
            ward.store(objects(study))
            study += 1

    senders = [threading.Thread(target=keep_storing, args=(sender,)) for sender in (1, 2)]
    for sender in senders:
        sender.start()
    while len(ward.acknowledged) < 30:
        assert any(sender.is_alive() for sender in senders)
    shutil.copytree(archive / "segments", copy / "segments")
    before = dict(ward.acknowledged)
    ward.coffer.run("checkpoint", "sign")
    shutil.copytree(archive / "checkpoints", copy / "checkpoints")
    shutil.copytree(archive / "segments", copy / "segments", dirs_exist_ok=True)
    (copy / "keyring").mkdir()
    with lmdb.open(str(archive / "keyring"), readonly=True) as env:  # what mdb_copy does
        env.copy(str(copy / "keyring"))
    shutil.copy(archive / "archive.json", copy)
    stop.set()
    for sender in senders:
        sender.join()
    ward.coffer.stop()
    ward.coffer.run("--archive", str(copy), "verify", "--level", "decrypt", "--copy")
    ward.coffer.archive.rename(tmp_path / "original")
    copy.rename(archive)
    ward.coffer.run("mark", "renew", "--reason", "a backup was restored")
    ward.coffer.start()
    ward.acknowledged = before
    ward.all_is_there()
    ward.coffer.run("verify", "--level", "decrypt")
