"""System calls that fail under the real server: writes and syncs of the log, keyring, index, checkpoint and spool.

Each time: the sender is told (A700, with the cause), the probe turns red, what was stored can still be queried and
retrieved, and after a restart everything that was ever acknowledged is there, bit for bit.
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.peers.coffer_process import COFFER, CofferProcess
from tests.peers.dicom_client import Reply, find, synthetic
from tests.peers.ward import (
    FULL,
    SPOOLING,
    Ward,
    failing,
    health,
    large,
    objects,
    require_empty_spool_and_store,
    require_strace,
    wait_until,
)

LOG, KEYRING, INDEX = "segments/00000001.seg", "keyring/data.mdb", "index/data.mdb"


@pytest.mark.parametrize(
    ("inject", "where"),
    [
        ("fdatasync:error=EIO:when=2+", LOG),
        ("writev:error=ENOSPC:when=1", LOG),
        ("pwrite64,pwritev,fdatasync,fsync,msync:error=EIO:when=1+", KEYRING),
        ("pwrite64,pwritev,fdatasync,fsync,msync:error=ENOSPC:when=1+", INDEX),
        *(
            [
                ("writev:error=EIO:when=2+", LOG),
                ("writev,fdatasync:error=EROFS:when=1+", LOG),
                ("pwrite64,pwritev,fdatasync,fsync,msync:error=ENOSPC:when=1+", KEYRING),
                ("pwrite64,pwritev,fdatasync,fsync,msync:error=EIO:when=1+", INDEX),
            ]
            if os.environ.get("COFFER_EVERY_FAULT")
            else []
        ),
    ],
)
def test_a_failing_disk_loses_nothing_that_was_acknowledged(
    new_coffer: Callable[..., CofferProcess], inject: str, where: str
) -> None:
    ward = Ward(new_coffer())
    assert {r.status for r in ward.store(objects(1))} == {0}
    with failing(ward.coffer, inject, ward.coffer.archive / where):
        replies = [reply for study in (2, 3) for reply in ward.store(objects(study))]
        if where == INDEX:  # it is written a moment after the answer
            wait_until(lambda: health(ward.coffer)[0] == 503)
    replies += ward.store(objects(9))
    refused = [reply for reply in replies if reply.status != 0]
    assert refused
    assert {reply.status for reply in refused} == {FULL}
    assert all(reply.comment for reply in refused)
    ward_rows = find(ward.coffer.port, "STUDY", StudyInstanceUID="1.2.3.1")
    assert len(ward_rows) == 1, "reads go on"
    status, why = health(ward.coffer)
    assert status == 503
    assert {LOG: "the log stopped", KEYRING: "the keyring", INDEX: "the index stopped"}[where] in why
    ward.coffer.kill()
    ward.coffer.start()
    ward.all_is_there()
    assert {r.status for r in ward.store(objects(4))} == {0}


def test_a_key_file_that_cannot_be_written_ends_the_rotation_and_stops_nothing(
    new_coffer: Callable[..., CofferProcess],
) -> None:
    """It is written by the command, never by a store: the present epoch's key is in it already."""
    ward = Ward(new_coffer())
    ward.store(objects(1))
    fresh = ward.coffer.key_file.with_name(f".{ward.coffer.key_file.name}.new")
    coffer = [str(COFFER), "--config", str(ward.coffer.config), "keys", "rotate"]
    require_strace()
    for study, call in enumerate(("fsync", "rename"), start=2):
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(fresh), "-e", f"inject={call}:error=EIO:when=1+"]
        done = subprocess.run([*strace, *coffer], env=ward.coffer.environment(), capture_output=True, text=True)
        assert done.returncode == 6, done.stderr
        assert "Input/output error" in done.stderr
        assert health(ward.coffer)[0] == 200
        assert {reply.status for reply in ward.store(objects(study))} == {0}
    ward.coffer.run("keys", "rotate")
    ward.coffer.stop()
    ward.coffer.start()
    ward.all_is_there()


def test_a_spool_that_cannot_be_written_costs_the_large_object_only(new_coffer: Callable[..., CofferProcess]) -> None:
    """Received and sealed in the processes in front; what needs no file goes on meanwhile."""
    ward, item = Ward(new_coffer(extra=SPOOLING)), large()
    with ExitStack() as stack:
        for worker in ward.coffer.processes()[1:]:
            stack.enter_context(failing(ward.coffer, "pwrite64:error=EIO:when=1+", pid=worker))
        (refused,) = ward.store([item])
        assert ward.store([synthetic(2, 1000, study=77)]) == [Reply(0)]
    assert (refused.status, refused.comment) == (FULL, "cannot spool an object: Input/output error")
    require_empty_spool_and_store(ward, item)


def test_a_checkpoint_that_cannot_be_written_is_signed_later(new_coffer: Callable[..., CofferProcess]) -> None:
    ward = Ward(new_coffer())
    ward.store(objects(1))
    with failing(ward.coffer, "rename:error=EIO:when=1+", ward.coffer.archive / "checkpoints" / ".latest.new"):
        ward.coffer.stop()
    ward.coffer.start()
    ward.all_is_there()
    ward.coffer.stop()
    assert ward.coffer.json("verify")["signed_records"] == 4
