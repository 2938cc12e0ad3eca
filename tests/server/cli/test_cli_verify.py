"""`coffer verify` on a real archive: levels, parts, samples, JSON lines, and exit codes that tell what happened."""

import json
from pathlib import Path

import pytest

from coffer.archive.format.segment import HEADER
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.load import load_config
from coffer.server.engine.providers import provider_of
from tests.server.filled import flip, run, study_files, told


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of one study, put in two goes; the checkpoint between them was kept."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text("archive = 'data'\n[storage]\nreserve_bytes = 0\n")
    run("init")
    first, *others = map(str, study_files(tmp_path / "files"))
    run("put", first)
    Path("kept.note").write_bytes(Path("data/checkpoints/latest").read_bytes())
    run("put", *others)
    return tmp_path / "data"


def lines(*args: str, code: int = 0) -> list[dict[str, object]]:
    return [json.loads(line) for line in run("verify", "--json-lines", *args, code=code).stdout.splitlines()]


def first_segment(archive: Path) -> Path:
    return archive / "segments" / "00000001.seg"


def test_decrypt_opens_everything(archive: Path) -> None:
    found = told("verify", "--level", "decrypt")
    assert found["findings"] == []
    assert found["opened"] == found["records"] == found["signed_records"]
    assert found["shredded"] == 0
    assert "opened, 0 whose key was destroyed: no findings" in run("verify", "--level", "decrypt").stdout


def test_decrypt_needs_the_key_file_and_the_others_do_not(archive: Path) -> None:
    archive.with_suffix(".key").rename(archive.with_suffix(".elsewhere"))
    run("verify", "--level", "decrypt", code=8)
    run("verify")
    run("verify", "--level", "headers")


def test_a_key_that_is_missing_is_found_only_with_keys(archive: Path) -> None:
    config = load_config(Path("coffer.toml"))
    keyring = Keyring.open(archive / "keyring", provider_of(config.keys, bytes(16)))
    (key_id,) = keyring.study_key_ids()
    keyring._store.put([], [b"K" + key_id])
    keyring.close()
    run("verify")
    (finding,) = told("verify", "--level", "decrypt", code=1)["findings"]  # type: ignore[misc]
    assert "is missing, and no record says that it was destroyed" in finding["what"]


def test_since_a_kept_checkpoint_and_a_count(archive: Path) -> None:
    whole = told("verify")
    kept = int(Path("kept.note").read_text(encoding="utf-8").split("\n")[1])
    for since in ("kept.note", str(kept)):
        assert told("verify", "--since", since)["bodies"] == int(str(whole["records"])) - kept
    assert "no checkpoint covers 999" in run("verify", "--since", "999", code=12).output
    assert "cannot be read" in run("verify", "--since", "nothing.note", code=12).output
    flip(Path("kept.note"), 5)
    run("verify", "--since", "kept.note", code=3)


def test_a_sample_says_what_it_covered(archive: Path) -> None:
    found = told("verify", "--sample", "50%", "--seed", "7")
    assert (found["sample"], found["seed"]) == (0.5, 7)
    assert f"{found['bodies']} bodies were read (--sample 50.0000% --seed 7)" in run(
        "verify", "--sample", "50%", "--seed", "7"
    ).stdout.replace("\n", " ")
    run("verify", "--sample", "50%", "--level", "headers", code=2)
    run("verify", "--sample", "0%", code=2)


def test_lines_of_json_a_finding_each_and_the_summary_last(archive: Path) -> None:
    (summary,) = lines()
    assert summary["findings"] == 0
    flip(first_segment(archive), HEADER.size + 163)
    flip(first_segment(archive), -124)
    *found, summary = lines(code=1)
    assert summary["findings"] == len(found) == 2
    assert all(set(f) == {"segment", "offset", "record", "what"} for f in found)
    assert lines("--jobs", "3", code=1)[:-1] == found


def test_what_could_not_be_run_is_no_finding(tmp_path: Path, archive: Path) -> None:
    (archive / "archive.json").write_text("{")
    run("verify", code=4)
    run("verify", "--archive", str(tmp_path / "nowhere"), code=11)
