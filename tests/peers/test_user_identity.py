"""User identity negotiation with DCMTK's storescu: a user name with passcode is let in over TLS, and only there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coffer.server.access.roles import Role
from coffer.server.access.users import Directory, User
from coffer.server.access.users_file import StoredUsers, encode
from coffer.server.config.access import Access
from coffer.server.config.settings import Config
from coffer.server.identity.passwords import hashed
from tests.peers.coffer_process import run_tool
from tests.server.filled import study_files
from tests.server.tls_site import Pki, config_of, serving

pytestmark = pytest.mark.usefixtures("dcmtk")
PASSWORD = "correct horse battery"


class Site:
    """A server that asks callers for no certificate, its one peer that has a password, and a study to send."""

    def __init__(self, folder: Path) -> None:
        self.pki = Pki(folder / "pki")
        self.pki.own()
        anna = User(name="anna", roles=frozenset({Role.PACS}), ae_titles=frozenset({"ANNA"}))
        chief = User(name="chief", roles=frozenset({Role.ADMIN}), accounts=frozenset({"chief"}))
        users = folder / "users.toml"
        users.write_bytes(encode(StoredUsers(Directory((anna, chief)), {"anna": hashed(PASSWORD)})))
        users.chmod(0o600)
        made = config_of(self.pki, folder, require_certificate=False)
        self.config: Config = msgspec.structs.replace(made, access=Access(users=users))
        self.files = [str(each) for each in study_files(folder / "study")]

    def send(self, *login: str, title: str = "ANNA", tls: bool = True) -> subprocess.CompletedProcess[str]:
        trust = ["+tla", "+cf", str(self.pki.ca)] if tls else []
        port = self.config.dimse.tls_port if tls else self.config.dimse.port
        return run_tool(
            "storescu", "-v", *trust, *login, "-aet", title, "-aec", "COFFER", "localhost", str(port), *self.files
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with serving(made.config):
        yield made


def test_a_password_lets_in_over_tls(site: Site) -> None:
    done = site.send("-usr", "anna", "-pwd", PASSWORD, "-rsp")
    assert done.returncode == 0, done.stderr


def test_nothing_less_does(site: Site) -> None:
    right = ("-usr", "anna", "-pwd", PASSWORD)
    assert site.send(*right).returncode == 0
    assert site.send(*right, tls=False).returncode != 0
    assert site.send(*right, title="OTHER").returncode != 0
    assert site.send("-usr", "anna", "-pwd", "wrong horse battery").returncode != 0
    assert site.send("-usr", "anna").returncode != 0
    assert site.send().returncode != 0
