"""Promise: an archive that was restored without its newest records and went on is never taken for the one it came from.

Adversary: who has both, with their keys, and puts the one in the place of the other. Crossed with: a checkpoint that an
auditor kept, the mark of either, and the parts of the log.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from tests.server.backed_up import base, made, snapshots
from tests.server.filled import run, told
from tests.server.three_studies import UIDS, put

__all__ = ["base", "made"]

LOG = ("segments", "checkpoints")


@pytest.fixture
def two(base: Path) -> Path:
    """`original` is the archive with all records and its mark; here is what was restored without the newest ones and
    has more records by now. `kept.note` is the last checkpoint of the original."""
    Path("kept.note").write_bytes(ArchiveFolder.open(Path("data")).checkpoint.read_bytes())
    for name in ("data", "state"):
        shutil.copytree(name, Path("first", name))
    shutil.rmtree("data")
    done = told("restore", snapshots()[0], "data")
    run("recover", "accept-loss", "--to", str(done["records"]))
    run("index", "rebuild")
    put(UIDS[2])
    put(UIDS[1])
    return base


def test_a_checkpoint_that_an_auditor_kept_shows_it(two: Path) -> None:
    before = read_checkpoint(ArchiveFolder.open(Path("first/data")))
    now = read_checkpoint(ArchiveFolder.open(Path("data")))
    assert (now.origin, now.size > before.size) == (before.origin, True)
    refused = run("checkpoint", "prove-consistency", "kept.note", code=13)
    assert "are not those that the older checkpoint covers" in refused.output


@pytest.mark.parametrize("parts", [LOG, ("segments",), (*LOG, "tiles", "index", "keyring")], ids="-".join)
def test_neither_takes_the_place_of_the_other(two: Path, parts: tuple[str, ...]) -> None:
    for here, other in (("first", "."), (".", "first")):
        shutil.copytree(Path(here), Path("site"), ignore=shutil.ignore_patterns("first", "site", "target", "vault"))
        for part in parts:
            shutil.rmtree(Path("site/data", part))
            shutil.copytree(Path(other, "data", part), Path("site/data", part))
        for name in ("coffer.toml", "data.key"):
            shutil.copy(name, "site")
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir("site")
            assert run("verify", code=None).exit_code == 1, (here, other)
            assert run("checkpoint", "sign", code=None).exit_code in {3, 13}, (here, other)
        shutil.rmtree("site")
