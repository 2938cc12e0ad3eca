"""The doors with TLS: who is let in, what is agreed on, and what ends a connection that was let in."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from coffer.keys.errors import ConfigError, UnavailableError
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, VERIFICATION, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.engine.create import create_archive
from coffer.server.host.control import _address, give_order
from coffer.server.main.service import Server
from coffer.server.tls.contexts import TLS12_SUITES
from tests.conftest import absent
from tests.server.served import COFFER
from tests.server.tls_site import Pki, cleared, client_context, config_of, connect, is_ended, serving, until


class Site:
    """A server whose DICOM and HTTP doors speak TLS, and its authority."""

    def __init__(self, folder: Path) -> None:
        self.pki = Pki(folder / "pki")
        self.pki.own()
        self.pki.revoke()
        self.config: Config = config_of(self.pki, folder, handshake_seconds=1.0)
        self.pair = self.pki.peer()
        self.server: Server | None = None

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        return connect(self.config, context or client_context(self.pki, self.pair))

    def associate(self, context: ssl.SSLContext | None = None) -> Requestor:
        """An association over TLS."""
        offers = [Offer(1, VERIFICATION, (EXPLICIT_LE,))]
        port = self.config.dimse.tls_port
        return Requestor("127.0.0.1", port, "CT1", "COFFER", offers, 30, lambda: cleared(self.connect(context)))

    def is_served(self) -> bool:
        """Whether an honest peer is served."""
        with self.associate():
            return True

    def counted(self, what: str) -> int:
        assert self.server is not None
        assert self.server._keeper is not None
        return self.server._keeper.counted()[what]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with serving(made.config) as made.server:
        yield made


def refused(site: Site, context: ssl.SSLContext) -> bool:
    """Whether a peer gets no association: in TLS 1.3 its own side of the handshake may be done before it is refused."""
    try:
        with site.associate(context):
            return False
    except (OSError, UnavailableError):
        return True


def test_a_peer_with_a_certificate_is_served(site: Site) -> None:
    assert site.is_served()


def test_a_peer_without_a_certificate_is_not(site: Site) -> None:
    assert refused(site, client_context(site.pki, None))
    until(lambda: site.counted("handshake no certificate") > 0)


def test_nor_one_of_another_authority_even_of_the_same_name(site: Site, tmp_path: Path) -> None:
    namesake = Pki(tmp_path / "other")
    assert refused(site, client_context(site.pki, namesake.peer()))
    until(lambda: site.counted("handshake refused by us") > 0)


def test_nor_one_whose_certificate_has_expired(site: Site) -> None:
    assert refused(site, client_context(site.pki, site.pki.peer("old", days=-1)))
    until(lambda: site.counted("handshake expired") > 0)


@pytest.mark.parametrize("suite", TLS12_SUITES)
def test_tls_1_2_has_forward_secrecy_and_aead(site: Site, suite: str) -> None:
    context = client_context(site.pki, site.pair)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    if "-RSA-" in suite:  # our certificate in this test is of an EC key
        assert refused(site, context)
        return
    with site.connect(context) as tls:
        assert (tls.version(), tls.cipher()[0]) == ("TLSv1.2", suite)


def test_no_other_suite_is_agreed_on(site: Site) -> None:
    context = client_context(site.pki, site.pair)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:@SECLEVEL=0")
    others = [each["name"] for each in context.get_ciphers() if each["name"] not in TLS12_SUITES]
    others = [name for name in others if not name.startswith("TLS_")]
    assert len(others) > 20
    context.set_ciphers(":".join(others) + ":@SECLEVEL=0")
    assert refused(site, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_older_version_is_agreed_on(site: Site, version: ssl.TLSVersion) -> None:
    context = client_context(site.pki, site.pair)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert refused(site, context)


def test_a_silent_caller_keeps_nobody_out_and_is_cut_in_time(site: Site) -> None:
    slow, many = site.counted("handshake too slow"), site.counted("handshake too many")
    silent = [socket.create_connection(("127.0.0.1", site.config.dimse.tls_port), 30) for _ in range(70)]
    try:
        assert site.is_served()
        assert all(is_ended(each) for each in silent)
    finally:
        for each in silent:
            each.close()
    assert site.is_served()
    until(lambda: site.counted("handshake too slow") - slow + site.counted("handshake too many") - many == 70)
    assert site.counted("handshake too slow") > slow
    assert site.counted("handshake too many") > many  # of one address


def test_what_is_no_tls_is_refused(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.config.dimse.tls_port), 30) as sock:
        sock.sendall(b"\x01\x00\x00\x00\x00\x04abcd" * 100)
        assert is_ended(sock)
    assert site.is_served()


def test_http_is_served_with_tls_to_whoever_asks(site: Site) -> None:
    url = f"https://localhost:{site.config.http.tls_port}"
    for pair in (None, site.pair):
        with httpx.Client(verify=client_context(site.pki, pair), timeout=30) as client:
            assert client.get(f"{url}/healthz").json() == {"alive": True}
            metrics = client.get(f"{url}/metrics").text
    for name in ("certificate_expiry_timestamp_seconds", "crl_expiry_timestamp_seconds", "reload_failed 0.0", "up 1.0"):
        assert f"coffer_tls_{name}" in metrics


def test_a_revoked_certificate_ends_its_open_associations(site: Site) -> None:
    issued = site.pki.authority.issue("stolen")
    context = client_context(site.pki, site.pki.write("stolen", issued))
    with site.associate() as honest, contextlib.closing(site.connect(context)) as stolen:
        assert not is_ended(stolen, 0.2)
        site.pki.revoke(issued)
        give_order(site.config.archive, "reload")
        assert is_ended(stolen)
        assert refused(site, context)
        assert not is_ended(honest._connection._socket, 0.2)
    until(lambda: site.counted("ended revoked") == 1)
    site.pki.revoke()
    give_order(site.config.archive, "reload")


def test_a_new_revocation_list_is_found_without_an_order(site: Site) -> None:
    issued = site.pki.authority.issue("unnoticed")
    before = site.counted("ended revoked")
    with site.connect(client_context(site.pki, site.pki.write("unnoticed", issued))) as tls:
        site.pki.revoke(issued)
        assert is_ended(tls, 60)
    until(lambda: site.counted("ended revoked") == before + 1)
    site.pki.revoke()
    give_order(site.config.archive, "reload")


def test_an_expired_certificate_ends_its_open_associations(site: Site) -> None:
    context = client_context(site.pki, site.pki.peer("short", days=4 / 86400))
    with site.connect(context) as tls:
        assert not is_ended(tls, 0.5)
        assert is_ended(tls)
    until(lambda: site.counted("ended expired") == 1)


def test_an_authority_that_is_taken_away_takes_its_associations_along(site: Site, tmp_path: Path) -> None:
    other, before = Pki(tmp_path / "other", "Another"), site.pki.ca.read_bytes()
    other.revoke()
    lists = site.pki.crl.read_bytes()
    site.pki.ca.write_bytes(before + other.ca.read_bytes())
    site.pki.crl.write_bytes(lists + other.crl.read_bytes())
    give_order(site.config.archive, "reload")
    context = client_context(site.pki, other.peer())
    with site.connect(context) as tls:
        assert not is_ended(tls, 0.2)
        site.pki.ca.write_bytes(before)
        site.pki.crl.write_bytes(lists)
        give_order(site.config.archive, "reload")
        assert is_ended(tls)
    until(lambda: site.counted("ended authority removed") == 1)
    assert refused(site, context)
    assert site.is_served()


def test_a_reload_is_all_or_nothing_and_says_so(site: Site) -> None:
    key = site.pki.folder / "coffer.key"
    good = key.read_bytes()
    key.write_bytes((site.pki.folder / "ct1.key").read_bytes())
    with pytest.raises(ConfigError, match="does not belong"):
        give_order(site.config.archive, "reload")
    assert site.is_served()
    assert site.server is not None
    until(lambda: any("TLS files" in each for each in site.server.concerns()))
    key.write_bytes(good)
    give_order(site.config.archive, "reload")
    new = site.pki.own()
    give_order(site.config.archive, "reload")
    with site.connect() as tls:
        assert ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"") == new.certificate_pem.decode()


def test_only_a_known_order_is_carried_out(site: Site) -> None:
    with pytest.raises(UnavailableError, match="no server"):
        give_order(site.pki.folder, "reload")
    with pytest.raises(Exception, match="no such order"):
        give_order(site.config.archive, "stop")


def test_no_other_account_gives_orders(site: Site) -> None:
    if os.geteuid() != 0:
        absent("another account needs root")
    address = _address(site.config.archive)
    script = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        "sock.settimeout(20)\n"
        "sock.connect('\\0' + sys.argv[1])\n"
        "try:\n"
        "    sock.sendall(b'reload')\n"
        "    print(sock.recv(100))\n"
        "except OSError:\n"
        "    print(b'')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script, address[1:]], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "b''"
    give_order(site.config.archive, "reload")  # ours is carried out


def test_the_process_that_ends_tls_is_started_again(site: Site) -> None:
    assert site.server is not None
    keeper = site.server._keeper
    assert keeper is not None
    assert keeper._process is not None
    dead = keeper._process.pid
    with site.connect() as tls:
        os.kill(dead, signal.SIGKILL)
        assert is_ended(tls)
    assert site.is_served()  # who calls meanwhile waits
    assert keeper.deaths == 1
    assert keeper._process.pid != dead


def test_the_key_is_in_no_process_that_parses_dicom(site: Site) -> None:
    """The process with the key has not even imported a parser, and the key is in the memory of no other process."""
    assert site.server is not None
    keeper = site.server._keeper
    assert keeper is not None
    assert keeper._process is not None
    maps = Path(f"/proc/{keeper._process.pid}/maps")
    if not os.access(maps, os.R_OK):
        absent("only root may look into the memory of a process that forbids it")
    secret = (site.pki.folder / "coffer.key").read_bytes().split(b"\n")[1]
    workers = [each.process.pid for each in site.server._workers._workers if each is not None]
    assert site.is_served()
    assert not any(_holds(pid, secret) for pid in workers)


def _holds(pid: int, secret: bytes) -> bool:
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            with contextlib.suppress(OSError, OverflowError, ValueError):
                memory.seek(start)
                if secret in memory.read(end - start):
                    return True
    return False


def test_the_process_ends_with_the_server_however_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = Pki(tmp_path / "pki")
    pki.own()
    config = config_of(pki, tmp_path)
    create_archive(config)
    folder = config.archive.parent
    (folder / "coffer.toml").write_text(
        f'archive = "{config.archive}"\n[keys]\nkey_file = "{config.keys.key_file}"\n[http]\nenabled = false\n'
        f"[dimse]\nport = 0\ntls_port = {config.dimse.tls_port}\nprocesses = 1\n[tls]\n"
        f'certificate_file = "{config.tls.certificate_file}"\nkey_file = "{config.tls.key_file}"\n'
        f'ca_file = "{config.tls.ca_file}"\n'
    )
    monkeypatch.chdir(folder)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([str(COFFER), "serve"], stderr=log)
        try:
            until(lambda: b"server.serving" in (folder / "log").read_bytes())
            tls = connect(config, client_context(pki, pki.peer()))
        finally:
            server.kill()
            server.wait()
    with tls:
        assert is_ended(tls, 8)  # the association would end after ten

    def is_free() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", config.dimse.tls_port)) != 0

    until(is_free)


def test_a_key_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "pki")
    pki.own()
    (pki.folder / "coffer.key").chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"), serving(config_of(pki, tmp_path)):
        pass


def test_plain_dicom_can_be_off(tmp_path: Path) -> None:
    import msgspec

    pki = Pki(tmp_path / "pki")
    pki.own()
    config = config_of(pki, tmp_path)
    plain = config.dimse.port
    off = msgspec.structs.replace(config.dimse, port=0)
    config = msgspec.structs.replace(config, dimse=off, http=msgspec.structs.replace(config.http, port=0))
    with serving(config) as server:
        with contextlib.closing(connect(config, client_context(pki, pki.peer()))) as tls:
            assert not is_ended(tls, 0.2)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", plain), 5)
        assert server.reasons() == []


def test_the_process_with_the_key_has_no_parser() -> None:
    script = (
        "import sys, coffer.server.tls.gate\n"
        "bad = [m for m in sys.modules if m.startswith(('pydicom', 'coffer.index', 'coffer.archive', "
        "'coffer.server.dimse.protocol', 'coffer.server.dimse.scp', 'coffer.server.services', 'numpy'))]\n"
        "print(bad)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_whoever_begins_too_many_handshakes_is_cut_and_counted(tmp_path: Path) -> None:
    site = Site(tmp_path)
    tls = msgspec.structs.replace(site.config.tls, handshakes_per_second=1.0)
    site.config = msgspec.structs.replace(site.config, tls=tls)
    with serving(site.config) as site.server:
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", site.config.dimse.tls_port), 30, ("127.0.0.9", 0)) as sock:
                sock.sendall(b"no TLS")
                is_ended(sock)
        until(lambda: site.counted("handshake too many") > 0)
        assert site.is_served()
