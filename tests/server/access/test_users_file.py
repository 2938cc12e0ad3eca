"""`users.toml`: every value returns, nothing unsound is read or written, and only a file of this account counts."""

import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from coffer.keys.errors import AccessDeniedError, CofferError, ConfigError
from coffer.server.access.roles import Role
from coffer.server.access.users import Directory, User
from coffer.server.access.users_file import StoredUsers, changed_users, decode, encode, read_users

HASH = "$argon2id$v=19$m=65536,t=3,p=1$DZc8axvNkA6oVoVGUq/RjA$YsDLRHhHXt5xvpb/lUBSdSMAqfa3DvSr/eg0Ys4FbD4"
ANNA = User(name="Anna Ö", roles=frozenset({Role.ADMIN}), accounts=frozenset({"anna"}))
FULL = User(
    name="ct1",
    roles=frozenset({Role.MODALITY, Role.PACS}),
    ae_titles=frozenset({"CT1", "CT 2"}),
    certificates=frozenset({"ab" * 32, "CN=ca,O=Clinic | DNS:ct1.example"}),
    addresses=frozenset({"10.0.0.1"}),
    accounts=frozenset({"ct"}),
    subjects=frozenset({"sub"}),
    modalities=frozenset(),
    patients=frozenset({'a"\\b'}),
    days=0,
    destinations=frozenset({"WARD"}),
    attributes=frozenset({0x00100020}),
)
TWO = StoredUsers(Directory((ANNA, FULL)), MappingProxyType({"ct1": HASH}))


def test_every_value_returns() -> None:
    found = decode(encode(TWO))
    assert found.directory.users == TWO.directory.users
    assert found.passwords == {"ct1": HASH}
    assert not found.directory.single_officer
    for declared in ("single_officer", "treatment_without_consent"):
        loosened = decode(encode(StoredUsers(replace(TWO.directory, **{declared: True})))).directory
        assert getattr(loosened, declared)
        assert [each.startswith(f"{declared} = true") for each in loosened.concerns()] == [True]
    assert (
        len(
            {
                decode(encode(each)).directory.sha256
                for each in (TWO, StoredUsers(replace(TWO.directory, single_officer=True)))
            }
        )
        == 2
    )
    assert HASH not in repr(found)


def test_no_file_means_nobody(tmp_path: Path) -> None:
    for path in (Path(), tmp_path / "users.toml"):
        assert read_users(path).directory.is_open


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version = 2", "version 2"),
        ("single_officer = true", "missing required field"),
        ("version = 1\nx = 1", "unknown field"),
        ("version = ", "not usable"),
        ('version = 1\n[[users]]\nname = "a"\nroles = []', "length"),
        ('version = 1\n[[users]]\nname = "a"\nroles = ["boss"]', "boss"),
        ('version = 1\n[[users]]\nname = " a"\nroles = ["pacs"]', "regex"),
        ('version = 1\n[[users]]\nname = "a"\nroles = ["pacs"]\ncertificates = ["CN=x"]', "regex"),
        ('version = 1\n[[users]]\nname = "a"\nroles = ["pacs"]\npassword = "secret"', "regex"),
        ('version = 1\n[[users]]\nname = "a"\nroles = ["pacs"]\nattributes = ["PatientsId"]', "PatientsId"),
    ],
)
def test_what_is_no_file_of_users(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        decode(text.encode())


def test_only_a_closed_file_of_this_account_is_read(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_bytes(encode(TWO))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="is open to others"):
        read_users(path)
    path.chmod(0o600)
    assert read_users(path).directory.users == (ANNA, FULL)
    assert read_users(path).directory.owner
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        with pytest.raises(ConfigError, match="belongs to another account"):
            read_users(path)


def test_a_change_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    made = changed_users(path, lambda _: TWO)
    assert made.directory.users == (ANNA, FULL)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()

    def nobody_left(stored: StoredUsers) -> StoredUsers:
        return replace(stored, directory=replace(stored.directory, users=(FULL,)))

    with pytest.raises(AccessDeniedError, match="nobody could change roles"):
        changed_users(path, nobody_left)

    def meanwhile(stored: StoredUsers) -> StoredUsers:
        with pytest.raises(CofferError, match="is being changed by"):
            changed_users(path, lambda each: each)
        return stored

    changed_users(path, meanwhile)
    assert path.read_bytes() == before
