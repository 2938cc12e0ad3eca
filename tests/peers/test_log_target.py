"""A log that cannot be written costs lines and nothing else: a reader who stops reading, who is gone, a full volume."""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import find
from tests.peers.ward import Ward, health, objects, wait_until

_PIPE_BYTES = 4096


def work(ward: Ward, study: int) -> None:
    """Stores and queries, each in an association of its own, whose end is a line."""
    for number in range(15):
        assert {reply.status for reply in ward.store(objects(study, 1, number))} == {0}
        assert len(find(ward.coffer.port, "STUDY", StudyInstanceUID=f"1.2.3.{study}")) == 1


def lost(coffer: CofferProcess) -> float:
    (line,) = (line for line in coffer.metrics().splitlines() if line.startswith("coffer_log_lines_lost_total"))
    return float(line.split()[1])


def test_a_reader_who_stops_and_then_is_gone(new_coffer: Callable[..., CofferProcess]) -> None:
    coffer = new_coffer(serve=False, extra='\n[log]\nlevel = "debug"\n')
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    coffer.start(stderr=writer)
    os.close(writer)
    ward = Ward(coffer)
    work(ward, 0)  # more than the pipe holds, and nobody reads
    assert health(coffer)[0] == 200
    os.close(reader)
    work(ward, 1)
    wait_until(lambda: lost(coffer) > 0)
    status, told = health(coffer)
    assert (status, "the log cannot be written" in told) == (200, True)
    ward.all_is_there()


@pytest.fixture
def full_volume(tmp_path: Path) -> Iterator[Path]:
    """A file on a volume without room for one more byte."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        absent("no file system can be mounted here")
    (folder / "log").touch()
    with contextlib.suppress(OSError), (folder / "rest").open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(512))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_volume_that_is_full_when_it_starts(new_coffer: Callable[..., CofferProcess], full_volume: Path) -> None:
    coffer = new_coffer(serve=False)
    with (full_volume / "log").open("ab") as log:
        coffer.start(stderr=log.fileno())
    ward = Ward(coffer)
    work(ward, 0)
    assert lost(coffer) > 0
    (full_volume / "rest").unlink()
    work(ward, 1)
    wait_until(lambda: "log lines were lost" in (full_volume / "log").read_text())
    wait_until(lambda: 'degraded":[]' in health(coffer)[1])
    ward.all_is_there()
    coffer.stop()
    assert "stopped" in (full_volume / "log").read_text().splitlines()[-1]
