"""What test folders share: where the real DICOM files are, what an absent peer means, how Hypothesis is bounded."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.warm_readers import READERS, WarmReaders

settings.register_profile(
    "suite", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("long", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

ROOT = Path(__file__).resolve().parent.parent


def absent(reason: str) -> NoReturn:
    """End a test whose peer, right or kernel feature is not there: it skips, but fails where .ci/run said COFFER_CI.

    A run of everything must not be green because half of it was left out. Elsewhere than on Linux it always skips.
    """
    if os.environ.get("COFFER_CI") and sys.platform == "linux":
        pytest.fail(f"{reason} (COFFER_CI is set: nothing may be left out)")
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _marks_elsewhere() -> Iterator[None]:
    """Marks outside the archives lie in no home folder, and on another volume than the archives where there is one."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="coffer-tests-", dir=memory if os.access(memory, os.W_OK) else None)
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = folder
    yield
    os.environ.pop("XDG_STATE_HOME")
    if before is not None:
        os.environ["XDG_STATE_HOME"] = before
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def _readers_loaded_once() -> Iterator[None]:
    """Commands that run in the tests' own process start their readers as forks (`tests.warm_readers`)."""
    warm = WarmReaders()
    with pytest.MonkeyPatch.context() as patch:
        for module in READERS:
            patch.setattr(module, "subprocess", warm)
        yield
    warm.close()


@pytest.fixture
def both_families() -> None:
    """A socket that listens on IPv4 and IPv6 together."""
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True).close()
    except (OSError, ValueError):
        absent("this machine has no IPv6")


@contextmanager
def volume_of(size: str, folder: Path) -> Iterator[Path]:
    """A volume of its own, in memory and of so many bytes ("64k", "5m"), at `folder` while the block runs."""
    if os.geteuid() != 0:
        absent("mounting needs root")
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False).returncode:
        absent("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real and malformed DICOM files; tests that need it skip, saying so, where it is absent.

    In CI too: the files are no part of the repository, and not everybody who runs it has them.
    """
    data = Path(os.environ.get("COFFER_SHARED", ROOT.parent / "shared")) / "data"
    if not (data / "files.csv").is_file():
        pytest.skip(f"no shared DICOM data at {data} (set COFFER_SHARED)")
    return data


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: half of a test's time is waiting, for a disk, another process or the clock."""
    return 2 * len(os.sched_getaffinity(0))


SLOWEST = (
    "test_install.py",
    "test_every_byte.py",
    "test_the_index_cannot_hide.py",
    "test_every_kill.py",
    "test_every_change_is_signed.py",
    "test_forgery.py",
    "test_shred_finish.py",
    "test_sequences.py",
    "test_rekey_stopped.py",
    "test_shares_stopped.py",
    "test_shortages.py",
    "test_corpus.py",
    "test_volumes.py",
    "test_bytes_in_bytes_out.py",
    "test_a_wrong_clock_grants_nothing.py",
    "test_every_remedy_works.py",
    "test_workers.py",
    "test_rekey.py",
    "test_crash.py",
    "test_patients_apart.py",
    "test_the_anchor_lies_outside.py",
    "test_faults.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: at the end all workers but one would wait for them."""
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOWEST)))
