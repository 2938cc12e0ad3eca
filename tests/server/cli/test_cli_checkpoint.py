"""Checkpoints and proofs by the command line: signed, shown, proved, and checked by somebody without the archive."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.server.config.load import load_config
from coffer.server.main.demo import sample_study
from coffer.server.main.service import Server
from tests.server.filled import free_port, run, study_files, told


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of one study, put in two goes; kept.note is what was signed between."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        f"archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {free_port()}\n[http]\nenabled = false\n"
    )
    run("init")
    first, *others = map(str, study_files(tmp_path / "files"))
    run("put", first)
    Path("kept.note").write_text(str(told("checkpoint", "show")["note"]))
    run("put", *others)
    yield tmp_path / "data"
    run("verify")


def first_uid() -> str:
    """The SOP Instance UID of a stored object."""
    return str(next(iter(sample_study())).SOPInstanceUID)


def test_show_tells_what_is_signed(archive: Path) -> None:
    shown = told("checkpoint", "show")
    status = told("status")
    assert (shown["records"], shown["unsigned_records"]) == (status["records"], 0)
    assert shown["keyring_records"] == shown["records"]
    assert str(shown["note"]) == (archive / "checkpoints/latest").read_text(encoding="utf-8")
    assert str(shown["verifier_key"]) in run("checkpoint", "show").output


def test_an_empty_archive_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("init")
    assert (told("checkpoint", "show")["records"], told("checkpoint", "show")["keyring_records"]) == (0, 0)
    assert "covers all 0 records" in run("checkpoint", "sign").output


def test_sign_says_when_there_is_nothing_new(archive: Path) -> None:
    assert "nothing was added" in run("checkpoint", "sign").output
    assert told("checkpoint", "sign")["signed"] is False
    latest = archive / "checkpoints/latest"
    latest.rename("taken")
    assert "checkpoints/latest is missing" in run("checkpoint", "sign", code=13).output
    Path("taken").rename(latest)


def test_proofs_are_made_beside_a_server(archive: Path) -> None:
    with Server(load_config(Path("coffer.toml"))):
        run("checkpoint", "show")
        run("checkpoint", "prove-inclusion", "0")


def test_an_object_is_proved_to_somebody_with_the_verifier_key_alone(archive: Path, tmp_path: Path) -> None:
    vkey = str(told("checkpoint", "show")["verifier_key"])
    by_name = told("checkpoint", "prove-inclusion", first_uid(), "-o", "by-name.json")
    run("checkpoint", "prove-inclusion", str(by_name["record"]), "-o", "by-number.json")
    assert Path("by-name.json").read_bytes() == Path("by-number.json").read_bytes()
    assert run("checkpoint", "prove-inclusion", str(by_name["record"])).stdout == Path("by-name.json").read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    proof = shutil.move("by-name.json", elsewhere)
    shutil.move(archive, tmp_path / "away")
    checked = told("checkpoint", "check", str(proof), "--vkey", vkey)
    assert (checked["proved"], checked["record"]) == ("inclusion", by_name["record"])
    run("checkpoint", "check", str(proof), code=11)  # no archive, no key
    other = vkey.replace("coffer/", "coffee/")
    run("checkpoint", "check", str(proof), "--vkey", other, code=4)
    shutil.move(tmp_path / "away", archive)
    run("checkpoint", "check", str(proof))


def test_growth_is_proved_from_a_kept_note_and_from_the_history(archive: Path) -> None:
    run("checkpoint", "prove-consistency", "kept.note", "-o", "proof.json")
    size = Path("kept.note").read_text().split("\n")[1]
    assert run("checkpoint", "prove-consistency", size).stdout == Path("proof.json").read_text()
    checked = told("checkpoint", "check", "proof.json")
    assert (checked["proved"], checked["old_records"]) == ("consistency", int(size))
    missed = run("checkpoint", "prove-consistency", "1000", code=5).output
    assert f"the nearest ones cover 0, {size}" in missed
    run("checkpoint", "prove-consistency", "no-such-file", code=12)


def test_a_rolled_back_log_cannot_prove_a_kept_note(archive: Path) -> None:
    """Everything was put back together, so that nothing here knows better: the note that was kept elsewhere does."""
    now = told("checkpoint", "show")
    Path("later.note").write_text(str(now["note"]))
    shutil.copytree(archive, "today")
    old = Path("kept.note").read_bytes()
    (archive / "checkpoints/latest").write_bytes(old)
    assert (
        f"over {now['records']} records was signed"
        in run("checkpoint", "prove-consistency", "later.note", code=13).output
    )
    (archive / "checkpoints/latest").write_text(str(now["note"]))


def test_an_altered_proof_is_refused(archive: Path) -> None:
    """Every number and hash of it; each change keeps it a proof by its form."""
    run("checkpoint", "prove-inclusion", "1", "-o", "inclusion.json")
    run("checkpoint", "prove-consistency", "kept.note", "-o", "consistency.json")
    for name in ("inclusion.json", "consistency.json"):
        whole = Path(name).read_text()
        fields = json.loads(whole)
        hashes = [f"{int(h, 16) ^ 1 << 8:064x}" for h in fields["hashes"]]
        changes: list[dict[str, object]] = [{**fields, "hashes": hashes}, {**fields, "hashes": hashes[:-1]}]
        changes += [{**fields, key: value + 1} for key, value in fields.items() if isinstance(value, int)]
        if "record" in fields:
            record = fields["record"]
            changes.append({**fields, "record": record[:-1] + ("0" if record[-1] != "0" else "1")})
        for changed in changes:
            Path(name).write_text(json.dumps(changed, indent=1, ensure_ascii=False) + "\n")
            result = run("checkpoint", "check", name, code=3 if changed["hashes"] != fields["hashes"] else 4)
            assert "proof" in result.output or "prove" in result.output or "header" in result.output
    Path("nothing.json").write_text("{}")
    run("checkpoint", "check", "nothing.json", code=4)
    run("checkpoint", "check", "missing.json", code=12)


def test_what_cannot_be_proved_is_said(archive: Path) -> None:
    run("checkpoint", "prove-inclusion", "1.2.3.4", code=5)
    assert "no record 4711" in run("checkpoint", "prove-inclusion", "4711", code=5).output
    (archive / "checkpoints/latest").write_bytes(Path("kept.note").read_bytes())
    last = (
        int(str(told("checkpoint", "show")["unsigned_records"])) + int(Path("kept.note").read_text().split("\n")[1]) - 1
    )
    assert "run coffer checkpoint sign" in run("checkpoint", "prove-inclusion", str(last), code=12).output
    run("checkpoint", "sign", code=13)  # the mark names more
    run("recover", "accept-loss", "--to", str(told("recover", "show", code=1)["records"]))
    run("checkpoint", "prove-inclusion", str(last))
