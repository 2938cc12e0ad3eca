"""An archive whose server speaks TLS, with the authority that its peers have their certificates from."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from coffer.server.config.settings import Config, Dimse, Http, Keys, Peer
from coffer.server.config.tls import Tls
from coffer.server.engine.create import create_archive
from coffer.server.main.service import Server
from coffer.server.tls.authority import Authority, Issued
from coffer.server.tls.relay import Relay
from tests.server.filled import free_port

SECONDS = 30


class Pki:
    """A folder with an authority's files, and those of whom it issues certificates for."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        self.folder, self.authority = folder, Authority(name)
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.itself.certificate_pem)
        self.crl = folder / "crl.pem"

    def write(self, name: str, issued: Issued) -> tuple[Path, Path]:
        """The certificate's and the key's file."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(issued.certificate_pem)
        key.unlink(missing_ok=True)
        key.touch(0o600)
        key.write_bytes(issued.key_pem)
        return certificate, key

    def peer(self, name: str = "ct1", *, days: float = 30) -> tuple[Path, Path]:
        """A new certificate for a peer."""
        return self.write(name, self.authority.issue(name, ["localhost", "127.0.0.1"], days=days))

    def revoke(self, *issued: Issued, days: float = 30) -> None:
        """Write the revocation list."""
        self.crl.write_bytes(self.authority.revoke(*(each.certificate for each in issued), days=days))

    @property
    def tls(self) -> Tls:
        """Settings over Coffer's own files, which are written with `own`."""
        crl = self.crl if self.crl.exists() else None
        return Tls(
            certificate_file=self.folder / "coffer.pem",
            key_file=self.folder / "coffer.key",
            ca_file=self.ca,
            crl_file=crl,
        )

    def own(self, *, days: float = 365) -> Issued:
        """Coffer's certificate, new in its place."""
        issued = self.authority.issue("coffer", ["localhost", "127.0.0.1"], days=days)
        self.write("coffer", issued)
        return issued


def config_of(pki: Pki, folder: Path, peers: tuple[Peer, ...] = (), **more: Any) -> Config:
    """A configuration with TLS on both doors, and DICOM without TLS as well."""
    return Config(
        archive=folder / "archive",
        keys=Keys(key_file=folder / "key"),
        dimse=Dimse(port=free_port(), tls_port=free_port(), processes=1),
        http=Http(port=free_port(), tls_port=free_port()),
        tls=msgspec.structs.replace(pki.tls, **more),
        peers=peers,
    )


@contextlib.contextmanager
def serving(config: Config) -> Iterator[Server]:
    """A server of a new archive."""
    create_archive(config)
    with Server(config) as server:
        yield server


def client_context(pki: Pki, pair: tuple[Path, Path] | None) -> ssl.SSLContext:
    """What a peer with this certificate, or none, connects with."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    if pair is not None:
        context.load_cert_chain(*map(str, pair))
    return context


def connect(config: Config, context: ssl.SSLContext, port: int | None = None) -> ssl.SSLSocket:
    """A connection whose handshake is done on this side; the caller closes it."""
    sock = socket.create_connection(("127.0.0.1", port or config.dimse.tls_port), SECONDS)
    try:
        return context.wrap_socket(sock, server_hostname="localhost")
    except BaseException:
        sock.close()
        raise


def cleared(tls: ssl.SSLSocket) -> socket.socket:
    """A socket for the clear bytes of a TLS connection: `Connection` writes to descriptors. Closing it ends both."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=Relay(tls, theirs).run, daemon=True).start()
    return ours


def is_ended(sock: socket.socket, seconds: float = SECONDS) -> bool:
    """Whether the other side ends a connection, within so many seconds."""
    sock.settimeout(seconds)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def until(is_so: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for something; fails where it does not come."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
