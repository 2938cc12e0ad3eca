"""JSON web tokens: one of the issuer for this archive proves its subject, and none of the known forgeries does."""

import base64
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from coffer.keys.errors import ConfigError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.config.access import Access
from coffer.server.config.settings import Config
from coffer.server.identity.tokens import Tokens, read_tokens

NOW = 1_800_000_000
KEY, OTHER = ECKey.generate_key("P-256", {"kid": "k1"}, private=True), ECKey.generate_key("P-256", private=True)
RSA = RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
ED = OKPKey.generate_key("Ed25519", {"kid": "e1"}, private=True)
CLAIMS = {"iss": "https://id.example", "aud": "COFFER", "sub": "anna", "exp": NOW + 600}


def written(path: Path, *keys: Any) -> Path:
    path.write_text(
        json.dumps({"keys": [key if isinstance(key, dict) else key.as_dict(private=False) for key in keys]})
    )
    return path


def configured(path: Path) -> Config:
    return Config(archive=Path("a"), access=Access(jwks=path, token_issuer="https://id.example"))


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    found = read_tokens(configured(written(tmp_path / "jwks.json", KEY, RSA, ED)))
    assert found is not None
    return found


def signed(key: Any = KEY, header: dict[str, Any] | None = None, **claims: Any) -> bytes:
    given = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    head = header or {"alg": "ES256", "kid": "k1"}
    return jwt.encode(head, given, key, algorithms=[head["alg"]]).encode()


def subject(tokens: Tokens, token: bytes, now: int, certificate: PeerCertificate | None = None) -> str | None:
    proved = tokens.proved(token, now, certificate)
    return None if proved is None else proved.subject


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def raw(header: dict[str, Any], signature: bytes = b"") -> bytes:
    parts = json.dumps(header).encode(), json.dumps(CLAIMS).encode(), signature
    return b".".join(map(encoded, parts))


def test_a_token_of_the_issuer_proves_its_subject(tokens: Tokens) -> None:
    assert subject(tokens, signed(), NOW) == "anna"
    assert subject(tokens, signed(aud=["OTHER", "COFFER"]), NOW) == "anna"
    assert subject(tokens, signed(RSA, {"alg": "PS256", "kid": "r1"}), NOW) == "anna"
    assert subject(tokens, signed(ED, {"alg": "EdDSA", "kid": "e1"}), NOW) == "anna"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"}, {"iss": None}, {"aud": "PACS"}, {"aud": None}, {"exp": NOW - 3600},
        {"exp": None}, {"exp": NOW + 7200}, {"sub": None}, {"sub": ""}, {"sub": 7}, {"nbf": NOW + 900}, {"exp": "soon"},
    ],
)  # fmt: skip
def test_a_token_for_others_or_of_another_time_proves_nothing(tokens: Tokens, claims: dict[str, Any]) -> None:
    assert subject(tokens, signed(**claims), NOW) is None


def test_a_token_lives_no_longer_than_the_configuration_says(tmp_path: Path) -> None:
    access = Access(jwks=written(tmp_path / "jwks.json", KEY), token_issuer="https://id.example", token_seconds=60)
    found = read_tokens(Config(archive=Path("a"), access=access))
    assert found is not None
    assert subject(found, signed(exp=NOW + 60), NOW) == "anna"
    assert subject(found, signed(exp=NOW + 61), NOW) is None
    assert subject(found, signed(exp=NOW + 30, iat=NOW - 30), NOW) == "anna"
    assert subject(found, signed(exp=NOW + 30, iat=NOW - 31), NOW) is None  # a long one near its end
    assert subject(found, signed(exp=NOW + 30, jti="a"), NOW) == "anna"
    assert subject(found, signed(exp=NOW + 30, jti="a"), NOW) == "anna"  # docs/adr/0046


def test_a_token_bound_to_a_certificate_proves_nothing_without_it(tokens: Tokens) -> None:
    own = PeerCertificate("CN=anna", "CN=ca", (), "ab" * 32, "1", 0, "ef" * 32)
    other = replace(own, sha256="01" * 32)
    thumbprint = encoded(bytes.fromhex(own.sha256)).decode()
    bound = signed(cnf={"x5t#S256": thumbprint})
    assert subject(tokens, bound, NOW, own) == "anna"
    assert subject(tokens, bound, NOW, other) is None
    assert subject(tokens, bound, NOW) is None
    for unknown in ({"jkt": "x"}, {"x5t#S256": thumbprint, "jwk": {}}, {}, "x", 7):
        assert subject(tokens, signed(cnf=unknown), NOW, own) is None
    assert subject(tokens, signed(), NOW, own) == "anna"


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt"])
def test_a_token_of_access_may_say_so(tokens: Tokens, typ: str) -> None:
    assert subject(tokens, signed(header={"alg": "ES256", "kid": "k1", "typ": typ}), NOW) == "anna"


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "id_token", ""])
def test_what_is_no_token_of_access_proves_nothing(tokens: Tokens, typ: str) -> None:
    """RFC 8725 3.11: the same issuer signs notices of a logout for the same audience."""
    assert subject(tokens, signed(header={"alg": "ES256", "kid": "k1", "typ": typ}), NOW) is None


def test_no_forgery_proves_anything(tokens: Tokens) -> None:
    public = KEY.as_pem(private=False)
    mac = raw({"alg": "HS256", "kid": "k1"}).rpartition(b".")[0]
    good = signed()
    head, body, signature = good.split(b".")
    forged = [
        raw({"alg": "none"}),
        raw({"alg": "None", "kid": "k1"}),
        mac + b"." + encoded(hmac.digest(public, mac, "sha256")),  # the public key as a secret
        signed(OTHER, {"alg": "ES256", "kid": "k1"}),
        signed(OTHER, {"alg": "ES256", "jwk": OTHER.as_dict(private=False)}),
        signed(KEY, {"alg": "ES256", "kid": "k1", "jku": "https://evil.example/jwks.json"}),
        signed(KEY, {"alg": "ES256", "kid": "k1", "x5u": "https://evil.example/x.pem"}),
        signed(KEY, {"alg": "ES256", "kid": "../../k1"}),
        raw({"alg": "ES256", "kid": "k1", "crit": ["exp"]}, b"x" * 64),
        b".".join((head, encoded(json.dumps({**CLAIMS, "sub": "root"}).encode()), signature)),
        b".".join((head, body, signature[:-4] + b"AAAA")),
        b".".join((head, body, b"")),
        b"", b".", b"..", b"a.b.c", b"\xff\xfe", good + b"." + b"x" * 20_000,
    ]  # fmt: skip
    for token in forged:
        assert subject(tokens, token, NOW) is None, token


def test_a_file_of_keys_holds_public_keys_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    assert read_tokens(Config(archive=Path("a"))) is None
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(configured(path))
    for text in ("", "{}", "[]", '{"keys": 3}', '{"keys": []}'):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_tokens(configured(path))
    for key in (KEY.as_dict(private=True), OctKey.generate_key(256).as_dict(private=True)):
        with pytest.raises(ConfigError, match="other than public keys"):
            read_tokens(configured(written(path, key)))
    written(path, KEY).chmod(0o666)
    with pytest.raises(ConfigError, match="others may write"):
        read_tokens(configured(path))
