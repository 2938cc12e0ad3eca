"""`coffer users` and `coffer access explain`, as an administrator uses them: the first admin, changes, refusals."""

import os
import pwd
from pathlib import Path

import pytest

from coffer.server.access.users_file import read_users
from coffer.server.identity.passwords import is_right
from tests.server.filled import run, told

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name
USERS = Path("archive-data.users.toml")
FIRST = ("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("init")


def refused(*args: str, code: int = 10) -> str:
    done = run(*args, code=code)
    assert done.stdout == ""
    return done.stderr


def test_there_is_nobody_at_first_and_the_first_one_is_an_admin() -> None:
    assert "the open role is in force" in run("users", "list").stdout
    assert told("users", "list") == {
        "open_role": True,
        "single_officer": False,
        "treatment_without_consent": False,
        "sha256": "",
        "users": [],
    }
    before = "nobody could change roles"
    assert before in refused("users", "add", "ct1", "--role", "modality", "--ae-title", "CT1")
    assert before in refused("users", "add", "anna", "--role", "admin")
    assert not USERS.exists()
    run(*FIRST)
    assert USERS.stat().st_mode & 0o777 == 0o600
    found = told("users", "list")
    assert found["open_role"] is False
    assert "the role admin does not permit find" in refused("find")
    assert "the role admin does not permit rotate" in refused("keys", "rotate")
    run("verify", code=None)


def test_only_the_account_of_archive_and_key_adds_the_first_user(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("archive-data.key").rename("elsewhere.key")
    assert "added by the account that owns archive and key" in refused(*FIRST)
    Path("elsewhere.key").rename("archive-data.key")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert f"sudo -u {ACCOUNT} coffer users add" in refused(*FIRST)


def test_what_may_not_be_is_refused_and_changes_nothing() -> None:
    run(*FIRST)
    assert "cannot be auditor and key-officer at once" in refused(
        "users", "add", "bert", "--role", "key-officer", "--role", "auditor"
    )
    assert "nobody changes their own roles" in refused("users", "remove", "anna")
    assert "nobody changes their own roles" in refused("users", "change", "Anna", "--account", "other")
    run("users", "add", "bert", "--role", "auditor")
    before = USERS.read_bytes()
    assert "there is a user Bert already" in run("users", "add", "Bert", "--role", "admin", code=None).stderr
    assert "there is no user ghost" in run("users", "remove", "ghost", code=None).stderr
    assert USERS.read_bytes() == before
    assert "belongs to anna, not to Meyer" in refused("hold", "add", "1.2", "--reason", "r", "--officer", "Meyer")


def test_a_user_is_changed_and_removed() -> None:
    run(*FIRST)
    run("users", "add", "ct1", "--role", "modality", "--ae-title", "CT1", "--days", "3", "--modality", "CT")
    run("users", "change", "CT1", "--ae-title", "CT1", "--ae-title", "CT2", "--modality", "none")
    user = read_users(USERS.absolute()).directory.named("ct1")
    assert user is not None
    assert (user.ae_titles, user.days, user.modalities) == ({"CT1", "CT2"}, 3, None)
    run("users", "remove", "ct1")
    assert read_users(USERS.absolute()).directory.named("ct1") is None


def test_a_password_is_kept_as_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    run(*FIRST)
    from click.testing import CliRunner

    from coffer.server.cli import main

    def passwd(said: str, *more: str) -> str:
        return CliRunner().invoke(main, ["users", "passwd", "anna", *more], input=said).stderr

    assert "12 to 1024 characters" in passwd("short\n")
    assert passwd("correct horse battery\n") == ""
    phc = read_users(USERS.absolute()).passwords["anna"]
    assert "horse" not in USERS.read_text()
    assert is_right(b"correct horse battery", phc)
    assert not is_right(b"correct horse batterz", phc)
    assert not is_right(b"correct horse battery", None)
    assert passwd("", "--none") == ""
    assert read_users(USERS.absolute()).passwords == {}


def test_a_certificate_is_remembered_by_its_key(tmp_path: Path) -> None:
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(1)).sign(
        key, hashes.SHA256()
    )
    Path("ct1.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    run(*FIRST)
    run("users", "add", "ct1", "--role", "modality", "--ae-title", "CT1", "--certificate", "ct1.pem")
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    user = read_users(USERS.absolute()).directory.named("ct1")
    assert user is not None
    assert user.certificates == {digest.finalize().hex()}
    assert (
        "is no certificate in a PEM file" in run("users", "change", "ct1", "--certificate", "x.pem", code=None).stderr
    )


def test_explain_says_what_the_decision_says() -> None:
    run(*FIRST)
    run("users", "add", "ct1", "--role", "modality", "--ae-title", "CT1", "--modality", "CT")
    run("users", "add", "ward", "--role", "pacs", "--ae-title", "WARD")

    def explain(name: str, action: str, *more: str) -> dict[str, object]:
        done = run("access", "explain", "--as", name, "--action", action, "--json", *more, code=None)
        import json

        found = json.loads(done.stdout)
        assert done.exit_code == (found["decision"] == "deny")
        return {key: found.get(key) for key in ("decision", "rule")} | {"limits": found.get("modalities")}

    assert explain("ct1", "store") == {"decision": "permit", "rule": "role modality", "limits": None}
    assert explain("ct1", "find") == {"decision": "permit", "rule": "role modality", "limits": "CT"}
    assert explain("ct1", "retrieve") == {"decision": "deny", "rule": "role", "limits": None}
    assert explain("ward", "retrieve") == {"decision": "deny", "rule": "consent", "limits": None}
    assert explain("ward", "move", "--destination", "CT1") == {
        "decision": "deny", "rule": "destination-role", "limits": None,
    }  # fmt: skip
    assert explain("anna", "rotate") == {"decision": "deny", "rule": "role", "limits": None}
    assert "there is no user ghost" in run("access", "explain", "--as", "ghost", "--action", "find", code=None).stderr
