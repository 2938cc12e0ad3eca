"""Who runs a command: the account that the kernel knows, the user it belongs to, and nobody who is only named."""

import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from coffer.keys.errors import AccessDeniedError, UnavailableError
from coffer.server.access.roles import Role
from coffer.server.access.users import NOBODY, Directory, User
from coffer.server.identity.account import login_account, operator, require_open_to_account

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name
ANNA = User(name="Anna", roles=frozenset({Role.ADMIN}), accounts=frozenset({"anna"}))
HERE = User(name="Here", roles=frozenset({Role.AUDITOR}), accounts=frozenset({ACCOUNT}))


def test_without_users_a_name_is_believed_and_kept_beside_the_account() -> None:
    found = operator(NOBODY, "Meyer", "COFFER", login="anna")
    assert (found.name, found.account, found.user) == ("Meyer", ACCOUNT, "")


def test_with_users_the_account_says_who_it_is() -> None:
    users = Directory((ANNA, HERE), owner="coffer")
    found = operator(users, None, "COFFER", login="anna")  # a login counts under the owner's account only
    assert (found.name, found.account, found.user) == ("Here", ACCOUNT, "Here")
    assert operator(users, "here", "COFFER").user == "Here"
    with pytest.raises(AccessDeniedError, match="belongs to Here, not to Anna"):
        operator(users, "Anna", "COFFER")


def test_under_the_owners_account_it_is_the_one_who_logged_in() -> None:
    users = Directory((ANNA, HERE), owner=ACCOUNT)
    assert operator(users, None, "", login="anna").user == "Anna"
    assert operator(users, None, "", login="").user == "Here"
    stranger = operator(users, None, "", login="stranger")
    assert (stranger.user, stranger.account) == ("", "stranger")
    assert replace(users).of(stranger) is None


def test_the_kernel_says_who_logged_in(tmp_path: Path) -> None:
    source = tmp_path / "loginuid"
    for text, account in ((str(os.geteuid()), ACCOUNT), ("4294967295", ""), ("4242424", ""), ("x", "")):
        source.write_text(text)
        assert login_account(source) == account
    assert login_account(tmp_path / "none") == ""


def test_a_folder_that_the_account_may_not_look_into_does_not_seem_empty(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir(mode=0)
    nobody = 65534
    me = os.geteuid()
    if me == 0:
        tmp_path.chmod(0o711)
        os.seteuid(nobody)
    try:
        with pytest.raises(UnavailableError, match="may not look into") as refused:
            require_open_to_account(folder)
    finally:
        os.seteuid(me)
    assert "under the archive's account" in refused.value.hint()
    folder.chmod(0o700)
    require_open_to_account(folder)
    require_open_to_account(tmp_path / "nowhere")
