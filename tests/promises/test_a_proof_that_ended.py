"""Promise: an association does not outlive what let it in: a token, a password, a role, a certificate, a title, a user.

For each change an association that was open before is ended by an A-ABORT, counted and logged, and one that the change
does not concern goes on.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from joserfc import jwt

from coffer.index.dicom.identifier import encode_identifier
from coffer.server.access.roles import Role
from coffer.server.access.users_file import StoredUsers, encode, read_users
from coffer.server.dimse.protocol import associate, negotiation, pdu
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.associate import ContextItem, Notices
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.identity.claim import UserIdentity
from coffer.server.identity.passwords import hashed
from coffer.server.workers import supervisor
from tests.captured_logs import capture_logs
from tests.promises.test_who_is_there_over_tls import KEY, PASSWORD, Site
from tests.server.dimse.raw_peer import MAX_PDU, SECONDS, Association, Broken
from tests.server.tls_site import cleared, client_context, connect, serving, until

BOUND_SECONDS: Final = 60.0
FIND = max(negotiation.FIND)
OFFERS = [Offer(1, negotiation.VERIFICATION, (EXPLICIT_LE,)), Offer(3, FIND, (EXPLICIT_LE,))]
KEYS = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: ()}, (), implicit=False)
PROVIDER_ABORT = b"\0\0\2\0"  # PS3.8 Table 9-26: source 2, reason 0


class Peer(Association):
    """An association over TLS, with user identity or a certificate."""

    def __init__(
        self, site: Site, title: str, identity: UserIdentity | None = None, pair: tuple[Path, Path] | None = None
    ) -> None:
        sock = cleared(connect(site.config, client_context(site.pki, pair)))
        connection = Connection(sock, max_pdu=MAX_PDU, gap_seconds=SECONDS)
        items = [ContextItem(each.context_id, each.transfer_syntaxes, each.abstract_syntax) for each in OFFERS]
        notices = Notices(16384, "1.2", "TEST", {}, identity)
        connection.send([associate.encode(pdu.ASSOCIATE_RQ, associate.titles(title, "COFFER"), items, notices)])
        kind, body = connection.read_pdu(SECONDS)
        assert kind == pdu.ASSOCIATE_AC
        super().__init__(connection, *negotiation.parse_accept(bytes(body), OFFERS))

    def echo(self) -> int:
        command = {dimse.AFFECTED_CLASS: negotiation.VERIFICATION, dimse.FIELD: dimse.C_ECHO, dimse.MESSAGE_ID: 1}
        self.send(self.contexts[1], command)
        return self.receive().status

    def begin_query(self) -> None:
        """The first message of a query, without its identifier: an operation is under way."""
        command = {dimse.AFFECTED_CLASS: FIND, dimse.FIELD: dimse.C_FIND, dimse.MESSAGE_ID: 1, dimse.PRIORITY: 0}
        self.connection.send(self._channel.frames(self.contexts[3], {dimse.DATA_SET_TYPE: 0, **command}))

    def end_query(self) -> int:
        """Its identifier; returns how it ends."""
        self.connection.send(self._channel._fragments(self.contexts[3], memoryview(KEYS), is_command=False))
        return self.receive().status

    def require_aborted(self) -> None:
        """Wait for the A-ABORT, within the bound."""
        kind, body = self.connection.read_pdu(BOUND_SECONDS)
        assert (kind, bytes(body)) == (pdu.ABORT, PROVIDER_ABORT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with serving(made.config) as made.server:
        yield made


@contextlib.contextmanager
def changed(site: Site, change: Callable[[StoredUsers], StoredUsers]) -> Iterator[None]:
    """The users changed and read again by the server; afterwards they are as before."""
    path = site.config.access.users
    before = path.read_bytes()
    path.write_bytes(encode(change(read_users(path))))
    try:
        site.server._reload()
        yield
    finally:
        path.write_bytes(before)
        site.server._reload()


def ended(site: Site) -> float:
    counted = site.server._metrics.registry.get_sample_value("coffer_aborts_total", {"reason": "withdrawn"})
    assert counted is not None
    return counted


def by_password(site: Site) -> Peer:
    return Peer(site, "ANNA", UserIdentity(2, b"anna", PASSWORD.encode()))


def by_certificate(site: Site) -> Peer:
    return Peer(site, "CT1", pair=site.ct1)


def _with(name: str, **values: object) -> Callable[[StoredUsers], StoredUsers]:
    def change(stored: StoredUsers) -> StoredUsers:
        users = tuple(replace(each, **values) if each.name == name else each for each in stored.directory.users)  # type: ignore[arg-type]
        return replace(stored, directory=replace(stored.directory, users=users))

    return change


def _without(name: str) -> Callable[[StoredUsers], StoredUsers]:
    def change(stored: StoredUsers) -> StoredUsers:
        users = tuple(each for each in stored.directory.users if each.name != name)
        passwords = {each: phc for each, phc in stored.passwords.items() if each != name}
        return replace(stored, directory=replace(stored.directory, users=users), passwords=passwords)

    return change


def _password(phc: str | None) -> Callable[[StoredUsers], StoredUsers]:
    return lambda stored: replace(stored, passwords={"anna": phc} if phc else {})


ROWS = {
    "a password changed": (by_password, by_certificate, _password(hashed("another one than before"))),
    "the same password, set again": (by_password, by_certificate, _password(hashed(PASSWORD))),
    "a password taken away": (by_password, by_certificate, _password(None)),
    "a role changed": (by_password, by_certificate, _with("anna", roles=frozenset({Role.CLERK}))),
    "a role added": (by_password, by_certificate, _with("anna", roles=frozenset({Role.PACS, Role.CLERK}))),
    "a limit set": (by_password, by_certificate, _with("anna", days=1)),
    "a user removed who had a password": (by_password, by_certificate, _without("anna")),
    "a user removed who had a certificate": (by_certificate, by_password, _without("ct1")),
    "a certificate taken away": (by_certificate, by_password, _with("ct1", certificates=frozenset())),
    "a certificate replaced": (by_certificate, by_password, _with("ct1", certificates=frozenset({"ab" * 32}))),
    "a title taken away": (by_certificate, by_password, _with("ct1", ae_titles=frozenset({"CT2"}))),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_change_ends_the_associations_that_it_concerns(site: Site, row: str) -> None:
    concerned, other, change = ROWS[row]
    ends, stays = concerned(site), other(site)
    assert (ends.echo(), stays.echo()) == (0, 0)
    before = ended(site)
    with capture_logs() as lines, changed(site, change):
        ends.require_aborted()
        assert stays.echo() == 0
    told = [each for each in lines if each["name"] == "identity.withdrawn"]
    assert [each["reason"] for each in told] == ["no-user" if "removed" in row else "user-changed"]
    until(lambda: ended(site) == before + 1)
    stays.connection.cut()


def test_a_token_ends_the_association_when_it_expires(site: Site) -> None:
    """Nobody reads anything again for it: the clock does it."""
    expires = int(time.time()) + 3
    claims = {"iss": "id", "aud": "COFFER", "sub": "s", "exp": expires}
    token = jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY).encode()
    stays, before = by_password(site), ended(site)
    with capture_logs() as lines:
        ends = Peer(site, "ANNA", UserIdentity(5, token))
        assert ends.echo() == 0
        ends.require_aborted()
    assert expires <= time.time() < expires + BOUND_SECONDS
    assert [each["reason"] for each in lines if each["name"] == "identity.withdrawn"] == ["token-expired"]
    until(lambda: ended(site) == before + 1)  # the worker counts it once the peer has it
    assert stays.echo() == 0
    stays.connection.cut()


def test_a_list_that_says_the_same_ends_nothing(site: Site) -> None:
    """Neither does a change of somebody else."""
    peers = by_password(site), by_certificate(site)
    with changed(site, _with("ward", days=7)):
        time.sleep(3)  # a look and a pulse
        assert [each.echo() for each in peers] == [0, 0]
    for each in peers:
        each.connection.cut()


def test_an_operation_under_way_may_end_first(site: Site) -> None:
    peer = by_certificate(site)
    peer.begin_query()
    with changed(site, _with("ct1", days=1)):
        time.sleep(3)  # a look and a pulse
        assert peer.end_query() == 0
        peer.require_aborted()


def test_an_operation_that_does_not_end_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WITHDRAWAL_SECONDS", 1.0)
    peer, before = by_certificate(site), ended(site)
    peer.begin_query()
    with changed(site, _with("ct1", days=1)), pytest.raises(Broken) as how:
        peer.receive()
    assert how.value.kind == 0  # no PDU: one of ours might have been half sent
    until(lambda: ended(site) == before + 1)
