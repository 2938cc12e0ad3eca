"""Who sees what over HTTP: everybody that it lives and whether it is ready, the reasons and metrics who may monitor."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.decision import Policy
from coffer.server.access.roles import Role
from coffer.server.access.rules import AccessRules
from coffer.server.access.users import Directory, User
from coffer.server.access.users_file import StoredUsers
from coffer.server.config.settings import Http
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.tokens import Tokens
from coffer.server.observe.metrics import Metrics
from coffer.server.web import http
from tests.captured_logs import capture_logs
from tests.server.filled import free_port

KEY = ECKey.generate_key("P-256", {"kid": "k"}, private=True)
PROBE = User(name="probe", roles=frozenset({Role.MONITORING}), subjects=frozenset({"prometheus"}))
AUDITOR = User(name="auditor", roles=frozenset({Role.AUDITOR}), subjects=frozenset({"aud"}))
ADMIN = User(name="anna", roles=frozenset({Role.ADMIN}), certificates=frozenset({"ab" * 32}))


def admission(*users: User) -> Admission:
    directory = Directory(users)
    keys = KeySet.import_key_set({"keys": [KEY.as_dict(private=False)]})
    policy = Policy(AccessRules(set(), False, 1, directory))
    return Admission(StoredUsers(directory, MappingProxyType({})), policy, Tokens(keys, "id", "COFFER", 600))


def bearer(subject: str) -> dict[str, str]:
    claims = {"iss": "id", "aud": "COFFER", "sub": subject, "exp": int(time.time()) + 300}
    return {"authorization": f"Bearer {jwt.encode({'alg': 'ES256', 'kid': 'k'}, claims, KEY)}"}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    app = http.application(lambda: ["full"], Metrics().render, admission(PROBE, AUDITOR, ADMIN), lambda: ["worn"])
    server = http.HttpServer(Http(port=free_port()), app)
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.address[1]}", timeout=30) as one:
        yield one
    server.stop()


def test_a_stranger_learns_that_it_lives_and_whether_it_is_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"alive": True}
    for headers in ({}, bearer("nobody"), bearer("aud"), {"authorization": "Bearer x"}):
        answer = client.get("/readyz", headers=headers)
        assert (answer.status_code, answer.json()) == (503, {"ready": False})


def test_metrics_are_for_those_who_may_monitor(client: httpx.Client) -> None:
    for headers, status in (({}, 401), (bearer("nobody"), 401), (bearer("aud"), 403), (bearer("prometheus"), 200)):
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == status
        assert ("coffer_" in answer.text) == (status == 200)
        assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    told = client.get("/readyz", headers=bearer("prometheus")).json()
    assert told == {"ready": False, "reasons": ["full"], "degraded": ["worn"]}


def test_a_header_does_not_say_where_a_request_comes_from(client: httpx.Client) -> None:
    """Else a caller would have another address wait for its failures, and call a connection encrypted that is not."""
    forged = {"x-forwarded-for": "10.0.0.7", "x-forwarded-proto": "https", "forwarded": "for=10.0.0.7;proto=https"}
    with capture_logs() as lines:
        assert client.get("/metrics", headers={**bearer("aud"), **forged}).status_code == 403
    assert [each["host"] for each in lines if each["name"] == "access.denied"] == ["127.0.0.1"]


def test_a_certificate_proves_as_well_as_a_token() -> None:
    proved = PeerCertificate("CN=anna", "CN=ca", (), "ab" * 32, "1", 0, "ef" * 32)
    judged = admission(PROBE, ADMIN)
    assert judged.may_monitor("", Connected("10.0.0.1", proved, True))
    assert judged.may_monitor(bearer("prometheus")["authorization"], Connected("10.0.0.1", None, True))
    assert judged.may_monitor(bearer("prometheus")["authorization"], Connected("10.0.0.1")) is None  # in the clear
    assert admission().may_monitor("", Connected("127.0.0.1"))


def test_the_page_of_a_server_without_users_is_as_before(tmp_path: Path) -> None:
    app = http.application(list, Metrics().render, admission())
    server = http.HttpServer(Http(port=free_port()), app)
    server.start()
    try:
        answer = httpx.get(f"http://127.0.0.1:{server.address[1]}/readyz", timeout=30)
        assert json.loads(answer.text) == {"ready": True, "reasons": [], "degraded": []}
        assert httpx.get(f"http://127.0.0.1:{server.address[1]}/metrics", timeout=30).status_code == 200
    finally:
        server.stop()
