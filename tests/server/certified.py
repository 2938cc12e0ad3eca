"""An archive of which every shred can be finished at once, and its certificates of erasure."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coffer.archive.tree.certificate import Certificate
from tests.archive.auditor import PROVER
from tests.server.filled import run, told
from tests.server.three_studies import UIDS, effective_at_once, put

FILE = Path("study.note")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies, two of one patient, verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    effective_at_once()
    run("init")
    put(*UIDS[:2])
    put(UIDS[2], patient_id="P-99")
    yield tmp_path / "data"
    run("verify", "--level", "decrypt")


def shredded() -> list[str]:
    """The ids of all keys that are gone, oldest first."""
    return [each["study_key"] for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]


def finish() -> None:
    """Make every shred effective."""
    run("shred", "finish")
    run("shred", "finish", "--destroy")


def issue(*args: str) -> Certificate:
    """Issue one certificate into FILE."""
    FILE.write_text(run("shred", "certificate", *args).stdout, encoding="utf-8")
    made = Certificate.open(FILE.read_bytes(), vkey())
    told_again, _ = PROVER.check_certificate(FILE.read_bytes(), vkey())
    assert told_again == json.loads(json.dumps(msgspec.to_builtins(made)))
    return made


def vkey() -> str:
    return str(json.loads(Path("data/archive.json").read_text())["vkey"])
