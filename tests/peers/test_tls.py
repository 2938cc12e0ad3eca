"""TLS with the programs that hospitals have: DCMTK, OpenSSL and Orthanc, in both directions."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coffer.server.config.settings import Config, Peer
from coffer.server.main.demo import sample_study
from coffer.server.main.service import Server
from tests.conftest import absent
from tests.peers.coffer_process import free_port, run_tool, tool
from tests.peers.orthanc_process import OrthancProcess
from tests.server.filled import study_files
from tests.server.tls_site import Pki, config_of, serving

pytestmark = pytest.mark.usefixtures("dcmtk")
STUDY = str(sample_study()[0].StudyInstanceUID)


class Site:
    """A running server, its authority, and where destinations listen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pki = folder, Pki(folder / "pki")
        self.pki.own()
        self.stolen = self.pki.authority.issue("stolen")
        self.pki.revoke(self.stolen)
        self.pair = self.pki.peer()
        self.ports = {name: free_port() for name in ("GOOD", "WRONG", "PINNED", "PLAIN")}
        pinned = self.pki.authority.issue("nameless")
        self.pki.write("nameless", pinned)
        from coffer.server.tls.peer_certificate import spki_sha256

        peers = (
            Peer(ae_title="GOOD", host="localhost", port=self.ports["GOOD"], tls=True),
            Peer(ae_title="WRONG", host="127.0.0.1", port=self.ports["GOOD"], tls=True, tls_name="elsewhere.example"),
            Peer(
                ae_title="PINNED", host="localhost", port=self.ports["PINNED"], tls=True,
                tls_spki_sha256=spki_sha256(pinned.certificate),
            ),
            Peer(ae_title="MISPINNED", host="localhost", port=self.ports["GOOD"], tls=True, tls_spki_sha256="0" * 64),
            Peer(ae_title="PLAIN", host="localhost", port=self.ports["PLAIN"], tls=True),
        )  # fmt: skip
        self.config: Config = config_of(self.pki, folder, peers)
        self.server: Server | None = None

    def scu(self, name: str, *args: str, pair: tuple[Path, Path] | None = None) -> subprocess.CompletedProcess[str]:
        """A program of DCMTK with TLS."""
        certificate, key = pair or self.pair
        trust = ["+tls", str(key), str(certificate), "+cf", str(self.pki.ca)]
        first, *files = args or ("",)
        options = [first] if first else []
        port = str(self.config.dimse.tls_port)
        return run_tool(name, *trust, "-aec", "COFFER", *options, "localhost", port, *files)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with serving(made.config) as made.server:
        files = study_files(made.folder / "study")
        done = made.scu("storescu", "-v", *map(str, files))
        assert done.returncode == 0, done.stderr
        yield made


def test_echo_and_store(site: Site) -> None:
    assert site.scu("echoscu").returncode == 0
    assert site.server is not None
    assert site.server.services.archive.stats().objects == len(sample_study())


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_every_current_profile_of_dcmtk_is_spoken(site: Site, profile: str) -> None:
    assert site.scu("echoscu", profile).returncode == 0


def test_who_is_not_let_in(site: Site, tmp_path: Path) -> None:
    namesake = Pki(tmp_path / "other")
    bad = {
        "of another authority": namesake.peer(),
        "expired": site.pki.peer("old", days=-1),
        "revoked": site.pki.write("stolen", site.stolen),
    }
    for what, pair in bad.items():
        assert site.scu("echoscu", pair=pair).returncode != 0, what
    port, trust = str(site.config.dimse.tls_port), ("+cf", str(site.pki.ca))
    assert run_tool("echoscu", "+tla", *trust, "localhost", port).returncode != 0  # no certificate
    assert run_tool("echoscu", "localhost", port).returncode != 0  # no TLS
    assert site.scu("echoscu").returncode == 0


def _client(site: Site, *args: str) -> str:
    if shutil.which("openssl") is None:
        absent("openssl is not installed: apt install openssl")
    certificate, key = site.pair
    address = f"localhost:{site.config.dimse.tls_port}"
    identity = ["-cert", str(certificate), "-key", str(key), "-CAfile", str(site.pki.ca)]
    done = subprocess.run(
        ["openssl", "s_client", "-connect", address, *identity, *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_openssl_agrees_on_the_newest_version_and_nothing_older_or_downgraded(site: Site) -> None:
    assert "New, TLSv1.3" in _client(site)
    assert "New, TLSv1.2" in _client(site, "-tls1_2")
    for old in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in _client(site, old, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert "inappropriate fallback" in _client(site, "-tls1_2", "-fallback_scsv")


def test_no_session_is_resumed_and_nothing_is_renegotiated(site: Site, tmp_path: Path) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        kept = str(tmp_path / version)
        _client(site, version, "-sess_out", kept)
        if Path(kept).exists():
            assert "Reused" not in _client(site, version, "-sess_in", kept)
    assert "Secure Renegotiation IS supported" in _client(site, "-tls1_2")  # the extension, against the attack


@contextmanager
def destination(site: Site, name: str, folder: Path, pair: tuple[Path, Path] | None) -> Iterator[None]:
    """storescp, with TLS where it has a certificate."""
    folder.mkdir()
    identity = [] if pair is None else ["+tls", str(pair[1]), str(pair[0]), "+cf", str(site.pki.ca)]
    program, port = tool("storescp"), str(site.ports[name])
    process = subprocess.Popen([str(program), *identity, "-aet", name, "-od", str(folder), port])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def _move(site: Site, name: str) -> subprocess.CompletedProcess[str]:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    port = str(site.config.dimse.port)
    return run_tool("movescu", "-S", "-aec", "COFFER", "-aem", name, *keys, "localhost", port)


def test_objects_move_to_a_destination_over_tls(site: Site, tmp_path: Path) -> None:
    with destination(site, "GOOD", tmp_path / "in", site.pki.peer("good")):
        assert _move(site, "GOOD").returncode == 0
    assert len(list((tmp_path / "in").iterdir())) == len(sample_study())


def test_a_destination_that_is_somebody_else_gets_nothing(site: Site, tmp_path: Path) -> None:
    with destination(site, "GOOD", tmp_path / "in", site.pki.peer("good")):
        assert _move(site, "WRONG").returncode != 0
        assert _move(site, "MISPINNED").returncode != 0
    assert not list((tmp_path / "in").iterdir())


def test_a_destination_can_be_known_by_its_key(site: Site, tmp_path: Path) -> None:
    pair = site.pki.folder / "nameless.pem", site.pki.folder / "nameless.key"
    with destination(site, "PINNED", tmp_path / "in", pair):
        assert _move(site, "PINNED").returncode == 0
    assert len(list((tmp_path / "in").iterdir())) == len(sample_study())


def test_a_destination_without_tls_gets_nothing_in_the_clear(site: Site, tmp_path: Path) -> None:
    with destination(site, "PLAIN", tmp_path / "in", None):
        assert _move(site, "PLAIN").returncode != 0
    assert not list((tmp_path / "in").iterdir())


def test_orthanc_sends_and_retrieves_over_tls(tmp_path: Path) -> None:
    if OrthancProcess.program() is None:
        absent("Orthanc is not installed: apt install orthanc")
    pki, port = Pki(tmp_path / "pki"), free_port()
    pki.own()
    peers = (Peer(ae_title="ORTHANC", host="127.0.0.1", port=port, tls=True),)
    config = config_of(pki, tmp_path, peers)
    folder = tmp_path / "orthanc"
    folder.mkdir()
    orthanc = OrthancProcess(folder, port, free_port(), config.dimse.tls_port, (*pki.peer("orthanc"), pki.ca))
    with serving(config) as server:
        orthanc.start()
        try:
            ids = [orthanc.upload(path) for path in study_files(tmp_path / "study")]
            orthanc.post("/modalities/coffer/echo", {})
            orthanc.post("/modalities/coffer/store", {"Resources": ids, "Synchronous": True})
            assert server.services.archive.stats().objects == len(ids)
            orthanc.delete_everything()
            answer = orthanc.post("/modalities/coffer/query", {"Level": "Study", "Query": {"StudyInstanceUID": STUDY}})
            orthanc.post(f"/queries/{answer['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
            assert len(orthanc.get("/instances")) == len(ids)  # type: ignore[arg-type]
        finally:
            orthanc.stop()
