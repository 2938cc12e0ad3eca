"""Every role at every door, for real, against the table of docs/security/roles.md: DICOM, HTTP and the command line.

A server with one user for each role is asked for every service under each of them; every command of the program is run
as each of them. What a cell does not open is denied; what it opens is done.
"""

import datetime as dt
import json
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from joserfc import jwt
from joserfc.jwk import ECKey

from coffer.index.dicom.identifier import encode_identifier
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.identity import account
from coffer.server.main.demo import encoded, sample_study
from tests.promises.test_every_way_passes_the_decision import COMMANDS
from tests.role_table import CELLS, OPEN, ROLES
from tests.server.dimse.raw_peer import Broken, Message, RawRequestor
from tests.server.filled import free_port, run
from tests.server.served import serving

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name
CT, SR, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.1.2.1"
FIND, GET, MOVE = map(max, (negotiation.FIND, negotiation.GET, negotiation.MOVE))  # Study Root
OFFERS = [
    Offer(2 * i + 1, each, (EXPLICIT_LE,)) for i, each in enumerate((negotiation.VERIFICATION, CT, SR, FIND, MOVE))
]
LEVEL, STUDY, NAME, COMMENTS = 0x00080052, 0x0020000D, 0x00100010, 0x00104000
OWN, OTHERS, OLD = "1.2.3.1", "1.2.3.2", "1.2.3.3"  # of the modality, of a PACS, of the modality long ago
NOT_AUTHORIZED, UNKNOWN_DESTINATION = 0x0124, 0xA801
KEY = ECKey.generate_key("P-256", {"kid": "k"}, private=True)


def ae(role: str) -> str:
    return role.upper()[:16]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server with a user for each role, known by AE title and address, token and account."""
    base = tmp_path_factory.mktemp("site")
    before = Path.cwd()
    os.chdir(base)
    (base / "in").mkdir()
    (base / "copy").mkdir()
    (base / "jwks.json").write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    Path("coffer.toml").write_text(
        f'archive = "data"\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {free_port()}\nprocesses = 1\n'
        f'[http]\nport = {free_port()}\n[access]\njwks = "jwks.json"\ntoken_issuer = "id"\n'
        f'[[peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {free_port()}\n'
    )
    run("init")
    add = ("users", "add")
    run(*add, "chief", "--role", "admin", "--account", ACCOUNT)
    for role in ROLES:
        proofs = ("--ae-title", ae(role), "--address", "127.0.0.1", "--account", role, "--subject", role)
        run(*add, role, "--role", role, *proofs)
    config = load_config(Path("coffer.toml"))
    with serving():
        today = dt.date.today()  # noqa: DTZ011  # as the server takes it
        store(config, "modality", OWN, today)
        store(config, "pacs", OTHERS, today)
        store(config, "modality", OLD, today - dt.timedelta(7))
        yield config
    os.chdir(before)


@contextmanager
def association(config: Config, role: str) -> Iterator[RawRequestor]:
    with RawRequestor(config.dimse.port, OFFERS, calling=ae(role)) as peer:
        yield peer


def stored(config: Config, role: str, sop_class: str, study: str, date: dt.date) -> int:
    """How the C-STORE of an object ends."""
    ds = sample_study()[0]
    del ds.PixelData
    ds.SOPClassUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = sop_class, study, f"{study}.1"
    ds.SOPInstanceUID, ds.StudyDate = f"{study}.1.{role}".replace(role, str(ROLES.index(role) + 1)), f"{date:%Y%m%d}"
    with association(config, role) as peer:
        peer.request(peer.context(sop_class), dimse.C_STORE, encoded(ds), AFFECTED_INSTANCE=ds.SOPInstanceUID)
        return peer.final().status


def store(config: Config, role: str, study: str, date: dt.date) -> None:
    assert stored(config, role, CT, study, date) == 0


def asked(config: Config, role: str, syntax: str, field: int, **more: str) -> list[Message]:
    """The responses to a query or retrieval of all studies."""
    keys = {LEVEL: ("STUDY",), STUDY: (OWN, OTHERS, OLD), NAME: (), COMMENTS: ()}
    with association(config, role) as peer:
        data = None if field == dimse.C_ECHO else encode_identifier(keys, (), implicit=False)
        peer.request(peer.context(syntax), field, data, **more)
        return list(peer.responses())


def cell(action: str, role: str) -> str:
    return CELLS[action, role]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_at_the_dicom_door(site: Config, role: str) -> None:
    if cell("associate", role) not in OPEN:
        with pytest.raises(Broken) as refused:
            RawRequestor(site.dimse.port, OFFERS, calling=ae(role))
        assert (refused.value.kind, refused.value.body[1:]) == (3, bytes((1, 1, 3)))
        return
    assert (asked(site, role, negotiation.VERIFICATION, dimse.C_ECHO)[-1].status == 0) == (cell("echo", role) == "yes")
    for sop_class, opens in ((CT, {"yes"}), (SR, {"yes", "reports"})):
        expected = 0 if cell("store", role) in opens else NOT_AUTHORIZED
        assert stored(site, role, sop_class, f"1.2.9.{len(sop_class)}", dt.date(2001, 1, 1)) == expected
    found = asked(site, role, FIND, dimse.C_FIND)
    assert found[-1].status == (0 if cell("find", role) in OPEN else NOT_AUTHORIZED)
    rows = [each.data or b"" for each in found[:-1]]
    seen = {uid for uid in (OWN, OTHERS, OLD) if any(f"{uid}\0".encode() in row for row in rows)}
    assert seen == {"own, 24 h": {OWN}, "listing": {OWN, OTHERS, OLD}}.get(cell("find", role), set())
    assert cell("retrieve", role) not in OPEN
    assert asked(site, role, MOVE, dimse.C_MOVE, DESTINATION="PACS")[-1].status == NOT_AUTHORIZED
    assert asked(site, role, MOVE, dimse.C_MOVE, DESTINATION="NOWHERE")[-1].status == UNKNOWN_DESTINATION


def test_get_is_denied_as_move_is(site: Config) -> None:
    offers = [Offer(1, GET, (EXPLICIT_LE,))]
    for role in ROLES:
        if cell("associate", role) in OPEN:
            with RawRequestor(site.dimse.port, offers, calling=ae(role)) as peer:
                keys = encode_identifier({LEVEL: ("STUDY",), STUDY: (OWN,)}, (), implicit=False)
                peer.request(peer.context(GET), dimse.C_GET, keys)
                assert peer.final().status == NOT_AUTHORIZED


def test_nobody_calls_itself_what_it_is_not(site: Config) -> None:
    for calling, source in (("STRANGER", ""), ("MODALITY", "127.0.0.2")):
        with pytest.raises(Broken) as refused:
            RawRequestor(site.dimse.port, OFFERS, calling=calling, source=source)
        assert (refused.value.kind, refused.value.body[1:]) == (3, bytes((1, 1, 1)))


def bearer(role: str) -> dict[str, str]:
    claims = {"iss": "id", "aud": "COFFER", "sub": role, "exp": int(time.time()) + 300}
    return {"authorization": f"Bearer {jwt.encode({'alg': 'ES256', 'kid': 'k'}, claims, KEY)}"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_at_the_http_door(site: Config, role: str) -> None:
    headers = bearer(role)
    base = f"http://127.0.0.1:{site.http.port}"
    may = cell("monitor", role) in OPEN
    assert httpx.get(f"{base}/metrics", headers=headers, timeout=30).status_code == (200 if may else 403)
    assert ("reasons" in httpx.get(f"{base}/readyz", headers=headers, timeout=30).json()) == may
    assert httpx.get(f"{base}/healthz", timeout=30).json() == {"alive": True}
    assert httpx.get(f"{base}/metrics", timeout=30).status_code == 401


DENIALS = ("does not permit", "cannot do this yet", "consent only", "de-identified view only")
BLOCKING = ("serve", "demo")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_at_the_command_line(site: Config, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the running server. A command that a cell opens may fail for other reasons, and never for the role."""
    monkeypatch.setattr(account, "login_account", lambda: role)  # the kernel's word cannot be changed by a test
    tried = set[str]()
    for line, action in COMMANDS:
        opens = cell(action, role) in OPEN
        if opens and (action in tried or line.startswith(BLOCKING)):
            continue  # one command of each action that is open: what it does has its own tests
        tried.add(action)
        done = CliRunner().invoke(main, line.split(), env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}, input="")
        is_denied = done.exit_code == 10 and any(each in done.stderr for each in DENIALS)
        assert is_denied == (not opens), (line, done.output)


def test_an_erasure_takes_two_people_of_two_roles(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_role(role: str, *args: str, code: int) -> Result:
        monkeypatch.setattr(account, "login_account", lambda: role)
        return run("shred", *args, code=code)

    asked_for = json.loads(as_role("admin", "request", OLD, "--reason", "r", "--json", code=0).stdout)
    request = str(asked_for["request"])
    assert "does not permit approve" in as_role("admin", "approve", request, code=10).stderr
    assert "2 officers must agree" in as_role("key-officer", "study", OLD, "--reason", "r", "--yes", code=10).stderr
    as_role("key-officer", "approve", request, code=0)
    assert {row["StudyInstanceUID"] for row in clerks_view(monkeypatch)} == {OWN, OTHERS}


def clerks_view(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a clerk finds on the command line, of the three studies."""
    monkeypatch.setattr(account, "login_account", lambda: "clerk")
    found = json.loads(run("find", "--json", "--return", "StudyInstanceUID").stdout)
    return [row for row in found if row["StudyInstanceUID"] in {OWN, OTHERS, OLD}]


@pytest.fixture
def declared(site: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The same server while the site declares that treatment needs no consent; the referring doctor has one patient."""
    monkeypatch.setattr(account, "login_account", lambda: "")
    users, before = Path("users.toml"), Path("users.toml").read_text()
    users.write_text(before.replace("treatment_without_consent = false", "treatment_without_consent = true"))
    run("reload")
    yield site
    users.write_text(before)
    run("reload")


@pytest.mark.parametrize("role", ROLES)
def test_what_a_declared_legal_basis_opens_and_what_it_does_not(declared: Config, role: str) -> None:
    if cell("associate", role) not in OPEN:
        return
    may = cell("retrieve", role) == "consent"
    gets = [Offer(1, GET, (EXPLICIT_LE,)), Offer(3, CT, (EXPLICIT_LE,), scu=False, scp=True)]
    with RawRequestor(declared.dimse.port, gets, calling=ae(role)) as peer:
        keys = encode_identifier({LEVEL: ("STUDY",), STUDY: (OWN,)}, (), implicit=False)
        peer.request(peer.context(GET), dimse.C_GET, keys)
        sent: list[Message] = []
        peer.final(lambda each: sent.append(each) or 0)  # type: ignore[func-returns-value]
    assert bool(sent) == may
    status = asked(declared, role, MOVE, dimse.C_MOVE, DESTINATION="PACS")[-1].status
    # Nobody listens at the destination: what is permitted fails there (A702), or finds no patient of the user's own.
    assert status == (0xA702 if may else 0 if cell("move", role) == "own + consent" else NOT_AUTHORIZED)
    degraded = httpx.get(f"http://127.0.0.1:{declared.http.port}/readyz", headers=bearer("monitoring"), timeout=30)
    assert any("treatment_without_consent" in each for each in degraded.json()["degraded"])


def test_whoever_is_no_user_runs_nothing(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "login_account", lambda: "stranger")
    for line, _ in COMMANDS:
        done = CliRunner().invoke(main, line.split(), env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}, input="")
        assert done.exit_code == 10, (line, done.output)
        assert "no user of this archive was proved to be there" in done.stderr
