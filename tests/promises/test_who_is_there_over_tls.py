"""Who is there over TLS: by certificate, by password, by token, at both doors; and no secret counts in the clear."""

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography import x509
from joserfc import jwt
from joserfc.jwk import ECKey

from coffer.index.dicom.identifier import encode_identifier
from coffer.server.access.roles import Role
from coffer.server.access.users import Directory, User
from coffer.server.access.users_file import StoredUsers, encode
from coffer.server.config.access import Access
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol import associate, negotiation, pdu
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.associate import ContextItem, Notices
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.identity.claim import UserIdentity
from coffer.server.identity.passwords import hashed
from coffer.server.main.service import Server
from coffer.server.tls.peer_certificate import spki_sha256
from tests.server.dimse.raw_peer import Broken, RawRequestor
from tests.server.tls_site import Pki, cleared, client_context, config_of, connect, serving

KEY = ECKey.generate_key("P-256", {"kid": "k"}, private=True)
PASSWORD = "correct horse battery"
ACCEPTED, UNPROVED, CALLING_AE = "accepted", (1, 1, 1), (1, 1, 3)
ANSWER = b"\x59\x00\x00\x02\x00\x00"  # PS3.7 Table D.3-15


class Site:
    """A server that takes callers with and without certificates, and its users: ct1, anna, chief, ward."""

    server: Server

    def __init__(self, folder: Path) -> None:
        self.pki = Pki(folder / "pki")
        self.pki.own()
        self.ct1, self.chief, self.strange = (self.pki.peer(name) for name in ("ct1", "chief", "strange"))
        (folder / "jwks.json").write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
        users = folder / "users.toml"
        users.write_bytes(encode(StoredUsers(Directory(self._users()), {"anna": hashed(PASSWORD)})))
        users.chmod(0o600)
        access = Access(users=users, jwks=folder / "jwks.json", token_issuer="id")
        made = config_of(self.pki, folder, require_certificate=False)
        self.config: Config = msgspec.structs.replace(made, access=access)

    def _users(self) -> tuple[User, ...]:
        ct1, chief = (frozenset({_key_of(pair[0])}) for pair in (self.ct1, self.chief))
        ward = frozenset({"CN=Test authority | DNS:ward.example"})
        return (
            User(name="ward", roles=frozenset({Role.MODALITY}), ae_titles=frozenset({"WARD"}), certificates=ward),
            User(name="ct1", roles=frozenset({Role.MODALITY}), ae_titles=frozenset({"CT1"}), certificates=ct1),
            User(name="anna", roles=frozenset({Role.PACS}), ae_titles=frozenset({"ANNA"}), subjects=frozenset({"s"})),
            User(name="chief", roles=frozenset({Role.ADMIN}), accounts=frozenset({"chief"}), certificates=chief),
        )

    def call(
        self,
        title: str,
        identity: UserIdentity | None = None,
        pair: tuple[Path, Path] | None = None,
        *,
        tls: bool = True,
    ) -> tuple[object, bytes]:
        """How an association request ends, and the body of the PDU that says so."""
        context = client_context(self.pki, pair)
        if tls:
            sock = cleared(connect(self.config, context))
        else:
            sock = socket.create_connection(("127.0.0.1", self.config.dimse.port), 30)
        connection = Connection(sock, max_pdu=1 << 17, gap_seconds=30)
        with contextlib.closing(sock):
            item = [ContextItem(1, (negotiation.EXPLICIT_LE,), negotiation.VERIFICATION)]
            notices = Notices(16384, "1.2", "TEST", {}, identity)
            connection.send([associate.encode(pdu.ASSOCIATE_RQ, associate.titles(title, "COFFER"), item, notices)])
            kind, body = connection.read_pdu(30)
            found = bytes(body)
        return (ACCEPTED if kind == pdu.ASSOCIATE_AC else tuple(found[1:])), found


def _key_of(certificate: Path) -> str:
    """The SHA-256 of a certificate's public key."""
    return spki_sha256(x509.load_pem_x509_certificate(certificate.read_bytes()))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with serving(made.config) as made.server:
        yield made


def login(password: str = PASSWORD, *, wants_response: bool = False) -> UserIdentity:
    return UserIdentity(2, b"anna", password.encode(), wants_response)


def token(subject: str, audience: str = "COFFER") -> bytes:
    claims = {"iss": "id", "aud": audience, "sub": subject, "exp": int(time.time()) + 300}
    return jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY).encode()


def test_a_certificate_is_one_user_under_its_own_titles(site: Site) -> None:
    assert site.call("CT1", pair=site.ct1)[0] == ACCEPTED
    assert site.call("ANNA", pair=site.ct1)[0] == CALLING_AE
    assert site.call("CT1", pair=site.strange)[0] == UNPROVED  # of the same authority, and nobody's
    assert site.call("CT1", pair=site.chief)[0] == CALLING_AE
    assert site.call("CT1")[0] == UNPROVED


@pytest.mark.parametrize("name", ["ward.example\0.evil.example", "WARD.EXAMPLE", "*.example", "x | DNS:ward.example"])
def test_a_certificate_of_nearly_the_name_is_nobodys(site: Site, name: str) -> None:
    """From the right authority, which did not mean that."""
    good, bad = (
        site.pki.write(f"named{at}", site.pki.authority.issue("w", names))
        for at, names in enumerate((["other.example", "ward.example", "ward.example"], [name]))
    )
    assert site.call("WARD", pair=good)[0] == ACCEPTED
    assert site.call("WARD", pair=bad)[0] == UNPROVED


def test_a_title_is_compared_as_it_stands(site: Site) -> None:
    for title in ("ct1", "CT1\\ANNA", "COFFER", ""):
        assert site.call(title, pair=site.ct1)[0] == CALLING_AE
    assert site.call(" CT1\0", pair=site.ct1)[0] == ACCEPTED  # padding (PS3.5 6.2)


def test_a_certificate_that_is_taken_away_gets_nothing_more(site: Site) -> None:
    """Over an association that it opened before: whoever stole it is out when the list is read again."""
    users = site.config.access.users
    before = users.read_bytes()
    offers = [Offer(1, max(negotiation.FIND), (negotiation.EXPLICIT_LE,))]
    keys = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: ()}, (), implicit=False)
    with contextlib.closing(cleared(connect(site.config, client_context(site.pki, site.ct1)))) as sock:
        peer = RawRequestor(0, offers, calling="CT1", sock=sock)

        def status() -> int:
            peer.request(peer.contexts[1], dimse.C_FIND, keys)
            return peer.final().status

        assert status() == 0
        users.write_bytes(before.replace(_key_of(site.ct1[0]).encode(), b"ab" * 32))
        try:
            site.server._reload()
            with contextlib.suppress(Broken):  # test_a_proof_that_ended.py has the end of the association
                assert status() == 0x0124
        finally:
            users.write_bytes(before)
            site.server._reload()


@pytest.mark.parametrize(
    "request_line",
    [
        "GET //metrics HTTP/1.1",
        "GET /%6detrics HTTP/1.1", "GET /healthz/../metrics HTTP/1.1", "get /metrics HTTP/1.1",
        "GET http://127.0.0.1/metrics HTTP/1.1", "HEAD /metrics HTTP/1.1", "CONNECT 127.0.0.1:22 HTTP/1.1",
        "GET /metrics HTTP/1.1\r\nX-SSL-Client-S-DN: CN=chief\r\nX-Forwarded-For: 127.0.0.1",
        "GET /metrics HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade",
        "GET /healthz HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1",
        "GET /healthz HTTP/1.1\r\nContent-Length:5\r\nTransfer-Encoding:chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1",
        "GET /healthz HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 40",
    ],
)  # fmt: skip
def test_no_spelling_of_a_request_shows_metrics_to_a_stranger(site: Site, request_line: str) -> None:
    with connect(site.config, client_context(site.pki, None), site.config.http.tls_port) as tls:
        tls.sendall(f"{request_line}\r\nHost: x\r\n\r\n".encode())
        answer = b""
        with contextlib.suppress(OSError):
            while got := tls.recv(1 << 16):
                answer += got
    assert answer.startswith(b"HTTP/1.1 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"coffer_" not in answer


def test_a_password_proves_over_tls_and_not_in_the_clear(site: Site) -> None:
    assert site.call("ANNA", login())[0] == ACCEPTED
    assert site.call("ANNA", login("wrong horse battery"))[0] == UNPROVED
    assert site.call("ANNA", login(), tls=False)[0] == UNPROVED
    assert site.call("ANNA", UserIdentity(1, b"anna"))[0] == UNPROVED
    assert site.call("ANNA", login(), site.ct1)[0] == UNPROVED  # not whose certificate it is


def test_an_answer_comes_if_it_is_wanted(site: Site) -> None:
    assert ANSWER in site.call("ANNA", login(wants_response=True))[1]
    assert ANSWER not in site.call("ANNA", login())[1]


def test_a_token_proves_its_subject(site: Site) -> None:
    assert site.call("ANNA", UserIdentity(5, token("s")))[0] == ACCEPTED
    assert site.call("ANNA", UserIdentity(5, token("s", "OTHER")))[0] == UNPROVED
    assert site.call("ANNA", UserIdentity(5, token("anna")))[0] == UNPROVED
    assert site.call("ANNA", UserIdentity(5, token("s")), tls=False)[0] == UNPROVED


def test_metrics_are_shown_to_the_certificate_of_an_admin(site: Site) -> None:
    url = f"https://localhost:{site.config.http.tls_port}/metrics"

    def status(context: ssl.SSLContext, **headers: str) -> int:
        return httpx.get(url, verify=context, headers=headers, timeout=30).status_code

    assert status(client_context(site.pki, site.chief)) == 200
    assert status(client_context(site.pki, site.ct1)) == 403
    assert status(client_context(site.pki, site.strange)) == 401
    assert status(client_context(site.pki, None)) == 401
    assert status(client_context(site.pki, None), authorization=f"Bearer {token('s').decode()}") == 403
