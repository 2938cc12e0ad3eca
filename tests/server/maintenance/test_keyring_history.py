"""A keyring held against the whole log: what the log has and the keyring lacks, and what the log never had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.store.keyring_store import Row
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_writer
from tests.server.filled import part10, run
from tests.server.three_studies import UIDS, configure, put, slices

REASON = ("--reason", "r")
HOLD, REQUEST = b"L", b"Q"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two epochs, the first destroyed, shares of the second, one burned, a hold and a request."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        configure("[integrity]", "mark = 'data.mark'")
        run("init")
        put(*UIDS)
        run("keys", "split", "-n", "2", "-k", "2", "-o", "first")
        run("keys", "rotate")
        run("keys", "destroy", "1", "--yes")
        run("keys", "split", "-n", "3", "-k", "2", "-o", "second")
        group = json.loads(run("keys", "list", "--json").stdout)["epochs"][1]["shares"][0].split("group ")[1].split()[0]
        run("keys", "burn", group, "1", *REASON)
        for study in UIDS[:2]:
            run("hold", "add", study, *REASON)
        run("hold", "remove", json.loads(run("hold", "list", "--json").stdout)[0]["hold"])
        run("shred", "request", UIDS[2], *REASON)
        run("keys", "audit")
        run("verify", "--level", "decrypt")
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    return tmp_path / "base"


def last(ring: Keyring, prefix: bytes) -> Row:
    return ring.rows(prefix)[-1]


def removed(prefix: bytes) -> Callable[[Keyring], object]:
    return lambda ring: ring.amend([], [last(ring, prefix)[0]])


def doubled(prefix: bytes) -> Callable[[Keyring], object]:
    """The same row under another id."""

    def act(ring: Keyring) -> None:
        key, value = last(ring, prefix)
        ring.amend([(key[:-1] + bytes([key[-1] ^ 1]), value)])

    return act


def unburned(ring: Keyring) -> None:
    key, value = last(ring, rows.BURNED_PREFIX)
    ring.amend([(key, value[:2] + (2).to_bytes(2, "big") + value[4:])])


def unended(ring: Keyring) -> None:
    """A receipt that was given is gone."""
    key, value = ring.rows(rows.KEEPER_PREFIX)[0]
    ring.amend([(key, value[:2] + b"\x02" + value[3:40] + bytes(16) + value[56:])])


LACKS, PLANTED = "is in the log, and the keyring lacks it", "is in the keyring, and not in force by the log"
CASES: dict[str, tuple[Callable[[Keyring], object], str, str]] = {
    "a hold removed": (removed(HOLD), "hold ", LACKS),
    "a hold planted": (doubled(HOLD), "hold ", PLANTED),
    "a request removed": (removed(REQUEST), "request to shred ", LACKS),
    "a request planted": (doubled(REQUEST), "request to shred ", PLANTED),
    "a group removed": (removed(rows.SHARES_PREFIX), "group of shares ", LACKS),
    "a burned share forgotten": (removed(rows.BURNED_PREFIX), "what was burned of group ", LACKS),
    "another share burned": (unburned, "what was burned of group ", "is another in the keyring than by the log"),
    "a receipt forgotten": (unended, "the secret ", "of epoch 1 " + LACKS),
}


@pytest.mark.parametrize("case", CASES)
def test_somebody_with_the_keys_changes_a_row_past_the_log(base: Path, case: str) -> None:
    """Every sum is right, and it is signed: the newest records, which opening compares, say nothing of it."""
    act, what, how = CASES[case]
    run("put", *files())
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        act(archive.keyring)
    for command in (("keys", "audit"), ("verify", "--level", "decrypt")):
        said = run(*command, code=1).output
        assert any(what in line and how in line for line in said.splitlines()), said


def test_an_epoch_that_the_log_never_had(base: Path) -> None:
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        archive.keyring.rotate()
    assert f"epoch 3 {PLANTED}" in run("keys", "audit", code=1).output


def test_a_loss_that_was_accepted_is_not_held_against_the_keyring(base: Path) -> None:
    shutil.copytree("data", "old")
    run("hold", "add", UIDS[2], *REASON)
    run("keys", "rotate")
    for part in ("segments", "checkpoints"):
        shutil.rmtree(f"data/{part}")
        shutil.copytree(f"old/{part}", f"data/{part}")
    left = json.loads(run("recover", "show", "--json", code=1).stdout)["records"]
    run("recover", "accept-loss", "--to", str(left))
    run("keys", "audit")
    run("hold", "add", UIDS[0], *REASON)
    run("keys", "audit")


def files() -> list[str]:
    Path("new.dcm").write_bytes(part10(next(iter(slices("1.2.9", "P-1")))))
    return ["new.dcm"]
