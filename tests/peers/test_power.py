"""Power cuts under the real server and its LMDB files; `python -m tests.peers.power` runs it long."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.peers.coffer_process import ROOT, CofferProcess
from tests.peers.power import campaign


@pytest.fixture
def fuse(tmp_path: Path) -> None:
    """Skip where the kernel lets nobody mount; .ci/run runs where it does."""
    mountpoint, folder = tmp_path / "mounted", tmp_path / "folder"
    mountpoint.mkdir()
    folder.mkdir()
    command = [sys.executable, "-m", "tests.crash.fuse", str(mountpoint), str(folder)]
    tried = subprocess.run(command, cwd=ROOT, input="end\n", capture_output=True, text=True, timeout=20, check=False)
    if tried.returncode:
        absent(f"no file system can be mounted here (root, /dev/fuse and fuse3 are needed): {tried.stderr[-300:]}")


@pytest.mark.long
def test_power_cuts_under_load_cost_nothing_acknowledged(
    fuse: None, new_coffer: Callable[..., CofferProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    coffer = new_coffer(serve=False)

    assert campaign(coffer, cuts=5, states=4, seed=1, told=print) == 20

    told = capsys.readouterr().out
    assert int(told.split()[0]) > 0, told
