"""Promise: nothing is called erased while a registered copy of the keyring, or of what opens it, can still open it.

Adversary: an insider who keeps a copy that somebody made and registered. Crossed with: a copy without an end, one that
is past, one from after the key left, one registered late, a rotation, a restored keyring, certificates and their check,
copies that backups made.
"""

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest

from coffer.archive.tree.certificate import EFFECTIVE, SCHEDULED, Certificate
from coffer.keys.clock import clock_ms
from tests.promises.test_erased_is_erased import burn, configure, filled, shredded, vkey
from tests.server.filled import run, told
from tests.server.three_studies import put_back

TOMORROW = str(dt.datetime.now(dt.UTC).date() + dt.timedelta(days=2))


def copied(*words: str) -> str:
    return str(told("keys", "copied", *words)["copy"])


def copies() -> list[str]:
    return [str(each["copy"]) for each in json.loads(run("keys", "copies", "--json").stdout)]


def certificate(key: str) -> Certificate:
    return Certificate.open(run("shred", "certificate", key).stdout.encode(), vkey())


def holding(key: str) -> list[str]:
    """The copies that are said to have the key, everywhere where it is said."""
    made = certificate(key)
    listed = {str(each["study_key"]): each for each in told("shred", "list")["shreds"]}  # type: ignore[attr-defined]
    assert (made.type == EFFECTIVE) == (listed[key]["state"] == "effective")
    if listed[key]["copies"]:
        assert made.type == SCHEDULED
        assert made.effective_ms is None
    return sorted(listed[key]["copies"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        Path("coffer.toml").write_text(configure() + "[integrity]\nmark = 'data.mark'\n")
        filled()
        burn()
    return base


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def destroyed() -> str:
    """Shred the study, and destroy what opened its epoch."""
    key = shredded()
    run("shred", "finish")
    assert told("shred", "finish", "--destroy")["destroyed"] == [1]
    return key


@pytest.mark.usefixtures("here")
def test_a_copy_of_the_keyring_counts_until_its_end_or_its_report() -> None:
    tape, safe = copied("--to", "tape 17", "--until", TOMORROW), copied("--to", "safe")
    key = destroyed()
    assert holding(key) == sorted([tape, safe])
    done = told("shred", "finish", "--destroy")
    assert (done["effective"], done["copies_until"], sorted(done["copies"])) == (0, None, sorted([tape, safe]))  # type: ignore[call-overload]
    assert f"coffer keys copied --gone {safe}" in run("shred", "finish", "--destroy").output
    run("keys", "copied", "--gone", safe, "--reason", "burned")
    assert str(told("shred", "finish")["copies_until"]) > TOMORROW
    assert holding(key) == [tape]
    run("keys", "copied", "--gone", tape, "--reason", "wiped")
    assert holding(key) == []
    now = certificate(key)
    assert now.type == EFFECTIVE
    assert now.effective_ms is not None
    assert clock_ms() - 60_000 < now.effective_ms <= clock_ms()  # the last copy ended just now
    assert copies() == []


@pytest.mark.usefixtures("here")
def test_a_copy_that_ended_counts_no_more() -> None:
    copied("--to", "tape", "--until", "2025-01-01")
    key = destroyed()
    assert holding(key) == []
    assert certificate(key).type == EFFECTIVE


@pytest.mark.usefixtures("here")
def test_a_copy_from_after_the_key_left_does_not_have_it() -> None:
    key = shredded()
    copied("--to", "tape")
    run("shred", "finish")
    run("shred", "finish", "--destroy")
    copied("--provider", "--to", "safe")
    assert holding(key) == []


@pytest.mark.usefixtures("here")
def test_a_copy_of_what_opens_the_epoch_counts_although_the_epoch_is_destroyed() -> None:
    stick = copied("--provider", "--to", "stick")
    key = destroyed()
    assert holding(key) == [stick]
    after = copied("--provider", "--to", "another")  # of the new epoch only
    assert holding(key) == [stick]
    run("keys", "copied", "--gone", stick, "--reason", "hammer")
    assert holding(key) == []
    assert copies() == [after]


@pytest.mark.usefixtures("here")
def test_an_older_copy_that_is_registered_late_ends_the_certainty() -> None:
    key = destroyed()
    assert holding(key) == []
    found = [copied("--to", "drawer", "--epoch", "1"), copied("--provider", "--to", "drawer", "--epoch", "1")]
    assert holding(key) == sorted(found)
    run("keys", "copied", "--to", "drawer", "--epoch", "9", code=12)
    run("keys", "copied", "--to", " ", code=12)
    run("keys", "copied", "--gone", found[0], code=12)
    run("keys", "copied", "--gone", "01020304", "--reason", "r", code=5)
    run("keys", "copied", code=2)


@pytest.mark.usefixtures("here")
def test_a_keyring_from_before_the_registration_is_refused() -> None:
    shutil.copytree("data/keyring", "before")
    copied("--to", "tape")
    put_back("before")
    assert "older than the log" in run("keys", "audit", code=1).output
    run("shred", "finish", code=13)


@pytest.mark.usefixtures("here")
def test_a_rotation_makes_copies_stale_until_new_ones_are_registered() -> None:
    def degraded() -> bool:
        said = json.loads(run("status", "--json").stdout)
        assert said["key_copies_stale"] == any("stale" in each for each in said["degraded"])
        return bool(said["key_copies_stale"])

    copied("--to", "tape")
    copied("--provider", "--to", "stick")
    assert not degraded()
    run("keys", "rotate")
    assert degraded()
    copied("--to", "tape")
    assert degraded()  # what opens it is of the old epoch still
    copied("--provider", "--to", "stick")
    assert not degraded()


@pytest.mark.usefixtures("here")
def test_the_copies_of_backups_count_until_they_are_gone_from_the_target() -> None:
    here = Path.cwd()
    with Path("coffer.toml").open("a") as file:
        file.write(f"[backup]\ntarget = '{here}/target'\nkeys = '{here}/vault'\n")
    Path("target").mkdir()
    Path("vault").mkdir()
    run("backup", "run")
    key = destroyed()
    (backup,) = holding(key)
    assert "coffer backup prune" in run("shred", "list").output
    run("backup", "run")  # of a keyring without the key
    assert holding(key) == [backup]
    (vault,) = [path for path in (here / "vault").iterdir() if path.is_dir()]
    oldest = min(path.stem for path in (vault / "keyrings").iterdir())
    (vault / "keyrings" / f"{oldest}.json").unlink()
    assert len(holding(key)) == 1  # its bytes lie there yet, and nothing says which keys they have
    shutil.rmtree(vault / "keyring-pieces" / oldest)
    assert holding(key) == []
    shutil.move("vault", "away")
    Path("vault").touch()
    run("shred", "certificate", key, code=6)
