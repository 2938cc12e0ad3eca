"""Who is let in: by certificate, password, token, or AE title from a known address; and never by a name alone."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal, PrincipalKind, Proof
from coffer.server.access.roles import Role
from coffer.server.access.rules import AccessRules
from coffer.server.access.users import NOBODY, Directory, User
from coffer.server.access.users_file import StoredUsers
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.claim import AssociationClaim, Refusal, UserIdentity
from coffer.server.identity.passwords import hashed, is_right
from coffer.server.identity.throttle import Throttle
from tests.captured_logs import capture_logs

CT1 = User(
    name="ct1",
    roles=frozenset({Role.MODALITY}),
    ae_titles=frozenset({"CT1"}),
    certificates=frozenset({"ab" * 32}),
)
WARD = User(name="ward", roles=frozenset({Role.PACS}), ae_titles=frozenset({"WARD"}), addresses=frozenset({"10.0.0.7"}))
ANNA = User(name="Anna", roles=frozenset({Role.ADMIN}), ae_titles=frozenset({"CT1", "ANNA"}), accounts=frozenset({"a"}))
KEY = User(
    name="key", roles=frozenset({Role.KEY_OFFICER}), ae_titles=frozenset({"KEY"}), addresses=frozenset({"10.0.0.7"})
)
USERS = Directory((CT1, WARD, ANNA, KEY))
PASSWORD = b"correct horse battery"
PROVED = PeerCertificate("CN=CT1", "CN=ca", (), "ab" * 32, "1", 0, "ef" * 32)
STRANGE = replace(PROVED, spki_sha256="cd" * 32)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def stored() -> StoredUsers:
    return StoredUsers(USERS, MappingProxyType({"Anna": hashed(PASSWORD.decode())}))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(stored: StoredUsers, clock: Clock) -> Admission:
    policy = Policy(AccessRules({"WARD"}, False, 1, stored.directory))
    return Admission(stored, policy, throttle=Throttle(clock))


def named(found: Principal | Refusal) -> str:
    return found.value if isinstance(found, Refusal) else found.user


def claim(title: str, identity: UserIdentity | None = None) -> AssociationClaim:
    return AssociationClaim(title, "COFFER", identity)


def login(name: str, password: bytes = PASSWORD) -> UserIdentity:
    return UserIdentity(2, name.encode(), password)


PLAIN, TLS = Connected("10.0.0.9"), Connected("10.0.0.9", None, True)


@pytest.mark.parametrize(
    ("title", "identity", "by", "expected"),
    [
        ("CT1", None, Connected("10.0.0.1", PROVED, True), "ct1"),
        ("CT2", None, Connected("10.0.0.1", PROVED, True), "calling-ae"),
        ("WARD", None, Connected("10.0.0.7", PROVED, True), "calling-ae"),  # a certificate is somebody else's
        ("WARD", None, Connected("10.0.0.7", STRANGE, True), "user-identity"),  # known to an authority, not here
        ("WARD", None, Connected("10.0.0.7"), "ward"),
        ("WARD", None, Connected("10.0.0.8"), "user-identity"),
        ("CT1", None, PLAIN, "user-identity"),  # the title alone proves nothing
        ("KEY", None, Connected("10.0.0.7"), "calling-ae"),  # a key officer may not associate
        ("ANNA", login("Anna"), TLS, "Anna"),
        ("ANNA", login("anna"), TLS, "Anna"),
        ("WARD", login("anna"), TLS, "calling-ae"),
        ("ANNA", login("anna", b"wrong horse battery"), TLS, "user-identity"),
        ("ANNA", login("ward", b""), TLS, "user-identity"),  # has no password
        ("ANNA", login("nobody"), TLS, "user-identity"),
        ("ANNA", login("Anna"), PLAIN, "user-identity"),  # in the clear: not even looked at
        ("CT1", login("Anna"), Connected("10.0.0.1", PROVED, True), "user-identity"),  # not whose certificate it is
        ("ANNA", login("Anna"), Connected("10.0.0.1", STRANGE, True), "Anna"),
        ("WARD", login("Anna", b"wrong"), Connected("10.0.0.7", None, True), "user-identity"),  # not made good
        ("ANNA", UserIdentity(1, b"Anna"), TLS, "user-identity"),
        ("WARD", UserIdentity(1, b"Anna"), Connected("10.0.0.7"), "ward"),  # a name is only a label
        ("ANNA", UserIdentity(3, b"Anna"), TLS, "user-identity"),
        ("ANNA", UserIdentity(5, b"no token"), TLS, "user-identity"),
    ],
)
def test_what_proves_a_caller(
    admission: Admission, title: str, identity: UserIdentity | None, by: Connected, expected: str
) -> None:
    assert named(admission.associate(claim(title, identity), by)) == expected


def test_without_users_everybody_is_let_in_as_before() -> None:
    admission = Admission(StoredUsers(), Policy(AccessRules(set(), False, 1, NOBODY)))
    found = admission.associate(claim("ANY", login("x")), PLAIN)
    assert isinstance(found, Principal)
    assert (found.ae_title, found.user, found.host) == ("ANY", "", "10.0.0.9")
    known_only = Admission(StoredUsers(), Policy(AccessRules({"WARD"}, True, 1, NOBODY)))
    assert known_only.associate(claim("ANY"), PLAIN) is Refusal.CALLING_AE
    assert isinstance(known_only.associate(claim("WARD"), PLAIN), Principal)


def test_who_guesses_waits_and_so_does_the_address(admission: Admission, clock: Clock) -> None:
    wrong, right = claim("ANNA", login("Anna", b"no such password")), claim("ANNA", login("Anna"))
    for _ in range(5):
        assert named(admission.associate(wrong, TLS)) == "user-identity"
    assert named(admission.associate(right, TLS)) == "user-identity"  # not even the right one is looked at
    assert named(admission.associate(right, Connected("10.0.0.2", None, True))) == "user-identity"
    clock.now += 1.5
    assert named(admission.associate(right, Connected("10.0.0.2", None, True))) == "Anna"
    clock.now += 60
    assert named(admission.associate(right, TLS)) == "Anna"


def test_a_wait_grows_and_ends(clock: Clock) -> None:
    throttle, waits = Throttle(clock), []
    for _ in range(20):
        throttle.failed(["x"])
        start = clock.now
        while throttle.waits(["x"]):
            clock.now += 0.5
        waits.append(clock.now - start)
    assert waits[:4] == [0.0] * 4
    assert waits[4:] == sorted(waits[4:])
    assert waits[4] == 1.0
    assert waits[-1] == 60.0
    clock.now += 1000
    throttle.failed(["x"])
    assert not throttle.waits(["x"])  # long ago
    for number in range(5000):
        throttle.failed([str(number)])
    assert len(throttle._failed) == 4096


def test_a_request_over_http(admission: Admission) -> None:
    found = admission.request("", Connected("10.0.0.1", PROVED, True))
    assert (found.kind, found.user) == (PrincipalKind.CLIENT, "ct1")
    for header in ("", "Bearer", "Bearer x", "Basic YTpi"):
        assert admission.request(header, TLS).user == ""


def test_no_secret_is_shown(admission: Admission) -> None:
    stated = login("Anna", b"no such password")
    assert "such" not in repr(claim("ANNA", stated))
    with capture_logs() as lines:
        admission.associate(claim("ANNA", stated), TLS)
    assert [each["name"] for each in lines] == ["identity.refused"]
    assert "such" not in str(lines)
    assert "Anna" not in str(lines)


def test_what_proved_a_user_must_still_be_theirs(admission: Admission) -> None:
    """The list may change while an association goes on: a certificate, an address or a title was taken away."""
    by_certificate = admission.associate(claim("CT1"), Connected("10.0.0.1", PROVED, True))
    by_address = admission.associate(claim("WARD"), Connected("10.0.0.7"))
    by_password = admission.associate(claim("ANNA", login("Anna")), TLS)
    assert isinstance(by_certificate, Principal)
    assert isinstance(by_address, Principal)
    assert isinstance(by_password, Principal)
    by_token = replace(by_password, proof=Proof.TOKEN, subject="s")

    def is_known(who: Principal, **now: object) -> bool:
        users = (replace(each, **now) if each.name == who.user else each for each in USERS.users)
        return Directory(tuple(users)).of(who) is not None

    for who, taken in (
        (by_certificate, {"certificates": frozenset({"cd" * 32})}),
        (by_certificate, {"ae_titles": frozenset({"CT2"})}),
        (by_address, {"addresses": frozenset({"10.0.0.8"})}),
        (by_password, {"ae_titles": frozenset({"CT1"})}),
        (by_token, {"subjects": frozenset({"t"})}),
    ):
        kept = {"subjects": frozenset({"s"})} if who is by_token else {}
        assert is_known(who, **kept)
        assert not is_known(who, **taken)


def test_a_password_is_compared_whole() -> None:
    longest = "\u00e9" * 1024
    assert is_right(longest.encode(), hashed(longest))
    assert not is_right(longest.encode() + b"x", hashed(longest))
    assert not is_right(b"x" * 5000, hashed(longest))


def test_failures_from_many_addresses_of_one_network_are_those_of_one_guesser(admission: Admission) -> None:
    for at in range(5):
        by = Connected(f"2001:db8::{at:x}", None, True)
        assert admission.associate(claim("ANNA", login(f"nobody{at}", b"x")), by) is Refusal.IDENTITY
    assert (
        named(admission.associate(claim("ANNA", login("Anna")), Connected("2001:db8::99%eth0", None, True)))
        == "user-identity"
    )
    assert named(admission.associate(claim("ANNA", login("Anna")), Connected("2001:db8:0:1::1", None, True))) == "Anna"
