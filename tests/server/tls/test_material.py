"""The files of TLS are taken together or not at all, and a refusal names the file and the remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from coffer.keys.errors import ConfigError
from coffer.server.tls.contexts import contexts_of
from coffer.server.tls.loaded import LoadedSets, load_set
from coffer.server.tls.material import load_material
from tests.server.tls_site import Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made.own()
    made.revoke()
    return made


def test_a_set_that_fits_together_is_loaded(pki: Pki) -> None:
    revoked = pki.authority.issue("stolen")
    pki.revoke(revoked)
    material = load_material(pki.tls)
    assert material.revokes(revoked.certificate)
    assert not material.revokes(material.chain[0])
    contexts_of(material, require_certificate=True)


def test_another_authority_s_list_does_not_revoke_our_numbers(pki: Pki, tmp_path: Path) -> None:
    other, stolen = Pki(tmp_path / "other", "Another"), pki.authority.issue("ct1")
    other.revoke(stolen)
    pki.ca.write_bytes(pki.ca.read_bytes() + other.ca.read_bytes())
    pki.crl.write_bytes(other.crl.read_bytes())
    assert not load_material(pki.tls).revokes(stolen.certificate)


def _open_key(pki: Pki) -> None:
    (pki.folder / "coffer.key").chmod(0o640)


def _other_key(pki: Pki) -> None:
    pki.peer("other")
    (pki.folder / "coffer.key").write_bytes((pki.folder / "other.key").read_bytes())


def _passphrase(pki: Pki) -> None:
    key = pki.own().key
    how = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (pki.folder / "coffer.key").write_bytes(pem)


def _foreign_list(pki: Pki) -> None:
    other = Pki(pki.folder / "other", "Another")
    other.revoke()
    pki.crl.write_bytes(other.crl.read_bytes())


def _namesake_list(pki: Pki) -> None:
    other = Pki(pki.folder / "other")  # the same name, another key
    other.revoke()
    pki.crl.write_bytes(other.crl.read_bytes())


BAD: dict[str, tuple[Callable[[Pki], object], str, str]] = {
    "key that others can read": (_open_key, "is open to others", "chmod 600"),
    "key of another certificate": (_other_key, "does not belong", "comes first"),
    "key with a passphrase": (_passphrase, "has a passphrase", "openssl pkey"),
    "no key": (lambda pki: (pki.folder / "coffer.key").write_text("x"), "no private key", "key_file"),
    "missing key": (lambda pki: (pki.folder / "coffer.key").unlink(), "cannot be read", "path"),
    "no certificate": (lambda pki: (pki.folder / "coffer.pem").write_text("x"), "no certificate", "openssl x509"),
    "missing authorities": (lambda pki: pki.ca.unlink(), "cannot be read", "[tls]"),
    "authorities that are a folder": (lambda pki: (pki.ca.unlink(), pki.ca.mkdir()), "not a regular file", "PEM"),
    "no list": (lambda pki: pki.crl.write_text("x"), "no revocation list", "openssl crl"),
    "half a list": (lambda pki: pki.crl.write_bytes(pki.crl.read_bytes()[:200]), "no revocation list", "openssl crl"),
    "list of nobody's": (_foreign_list, "of no authority", "no others"),
    "list that a namesake signed": (_namesake_list, "of no authority", "no others"),
}


@pytest.mark.parametrize("spoil", BAD)
def test_a_set_that_does_not_fit_is_refused_and_the_old_one_stays(pki: Pki, spoil: str) -> None:
    change, cause, remedy = BAD[spoil]
    sets = LoadedSets(pki.tls)
    old = sets.current
    settings = pki.tls
    change(pki)
    with pytest.raises(ConfigError) as caught:
        load_set(settings)
    assert cause in str(caught.value)
    assert remedy in caught.value.hint()
    with pytest.raises(ConfigError):
        sets.reload()
    assert (sets.current, sets.failures, sets.reloads) == (old, 1, 0)
    assert cause in sets.trouble


def test_an_expired_certificate_does_not_replace_a_good_one(pki: Pki) -> None:
    sets = LoadedSets(pki.tls)
    old = sets.current
    pki.own(days=-1)
    with pytest.raises(ConfigError, match="has expired"):
        sets.reload()
    assert sets.current is old


def test_changed_files_are_used_once_they_have_come_to_rest(pki: Pki) -> None:
    sets = LoadedSets(pki.tls)
    assert not sets.look()
    new = pki.own()
    assert not sets.look()  # perhaps the next file is being replaced
    assert sets.look()
    assert sets.current.material.chain[0] == new.certificate
    assert not sets.look()


def test_changed_files_that_do_not_fit_are_tried_once(pki: Pki) -> None:
    sets = LoadedSets(pki.tls)
    (pki.folder / "coffer.key").write_text("x")
    assert [sets.look() for _ in range(4)] == [False] * 4
    assert sets.failures == 1
    pki.own()
    assert [sets.look() for _ in range(2)] == [False, True]
    assert sets.trouble == ""
