"""The PKCS#11 provider against a real SoftHSM2: PINs, absence, lost sessions, keys that cannot be read, destruction."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coffer.keys.errors import ConfigError, KeyUnavailableError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.pkcs11_token import Token
from tests.keys import softhsm
from tests.keys.softhsm import ARCHIVE_ID, LABEL, PIN, SoftHsm

CONTEXT = b"archive and epoch"


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    return softhsm.make(tmp_path / "hsm")


def test_the_key_cannot_be_read_out_of_the_token(hsm: SoftHsm) -> None:
    import pkcs11
    from pkcs11 import Attribute

    provider = hsm.provider()
    provider.create_epoch(3, CONTEXT)
    key = hsm.token().run(lambda session: next(iter(session.get_objects({Attribute.ID: b"\0\0\0\3"}))))
    assert key[Attribute.LABEL] == f"coffer-{ARCHIVE_ID.hex()}"
    assert (key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE], key[Attribute.WRAP]) == (True, False, False)
    with pytest.raises(pkcs11.AttributeSensitive):
        key[Attribute.VALUE]


def test_a_wrong_pin_is_told_and_not_tried_twice(hsm: SoftHsm) -> None:
    pins = iter([b"1111", b"1111", *[PIN.encode()] * 9])
    provider = softhsm.HsmProvider(ARCHIVE_ID, Token(hsm.module, LABEL, lambda: Secret(next(pins))))
    for _ in range(2):
        with pytest.raises(ConfigError, match="refuses the PIN") as caught:
            provider.health()
        assert "not tried twice" in caught.value.hint()
        assert "1111" not in str(caught.value) + caught.value.hint()
    provider.health()  # the PIN's source was corrected


def test_another_module_or_label(hsm: SoftHsm, tmp_path: Path) -> None:
    not_one = tmp_path / "module.so"
    not_one.write_bytes(b"not a library")
    for module in (not_one, tmp_path / "none.so", Path("/usr/lib/x86_64-linux-gnu/libc.so.6")):
        with pytest.raises(ConfigError, match="not a PKCS#11 module") as caught:
            Token(module, LABEL, lambda: Secret(b"1")).run(lambda session: None)
        assert "[keys.pkcs11] module" in caught.value.hint()
    with pytest.raises(UnavailableError, match='no token "other"') as missing:
        hsm.provider(label="other").health()
    assert "pkcs11-tool -L" in missing.value.hint()


def test_two_tokens_or_two_keys_of_one_name_are_refused(hsm: SoftHsm) -> None:
    from pkcs11 import KeyType

    provider = hsm.provider()
    _, wrapped = provider.create_epoch(1, CONTEXT)
    label = f"coffer-{ARCHIVE_ID.hex()}"
    hsm.token().run(lambda session: session.generate_key(KeyType.AES, 256, label=label, id=b"\0\0\0\1", store=True))
    with pytest.raises(ConfigError, match="holds 2 keys"):
        provider.unwrap(wrapped, CONTEXT)
    hsm.make_token()
    with pytest.raises(ConfigError, match="2 tokens"):
        hsm.provider().health()


def test_a_token_that_is_away_is_away_and_not_empty(hsm: SoftHsm) -> None:
    provider = hsm.provider()
    kek, wrapped = provider.create_epoch(1, CONTEXT)
    for _ in range(2):
        with hsm.away():
            for attempt in (provider.health, lambda: provider.unwrap(wrapped, CONTEXT), provider.describe):
                with pytest.raises(UnavailableError):
                    attempt()
            for attempt in (provider.destroy_epoch, hsm.provider().destroy_epoch):
                with pytest.raises(UnavailableError):
                    attempt(1)  # no receipt for what only looked empty
        assert provider.unwrap(wrapped, CONTEXT).matches(kek)
        provider.health()


def test_the_receipt_of_a_token_without_the_key_says_so(hsm: SoftHsm) -> None:
    hsm.provider().create_epoch(1, CONTEXT)
    with hsm.away():
        (hsm.folder / "tokens").mkdir()
        hsm.make_token()  # another one, of the same label
        assert "held no such key" in hsm.provider().destroy_epoch(1).caveat
        shutil.rmtree(hsm.folder / "tokens")
    assert "held no such key" not in hsm.provider().destroy_epoch(1).caveat


# A search that dies with its session cannot be ended in the library's destructor either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sessions_are_lost_and_regained_under_load(hsm: SoftHsm) -> None:
    provider, other = hsm.provider(), hsm.provider(archive_id=bytes(16))
    kek, wrapped = provider.create_epoch(1, CONTEXT)
    kek2, wrapped2 = other.create_epoch(1, CONTEXT)
    stop, lost = threading.Event(), 0

    def work(number: int) -> int:
        done = 0
        while not stop.is_set():
            assert provider.unwrap(wrapped, CONTEXT).matches(kek)
            assert other.unwrap(wrapped2, CONTEXT).matches(kek2)
            if done % 10 == number:
                provider.create_epoch(2 + number, CONTEXT)
            done += 2
        return done

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, number) for number in range(4)]
        try:
            while lost < 40 and not any(worker.done() for worker in workers):
                hsm.drop_sessions()
                lost += 1
        finally:
            stop.set()
        assert all(worker.result() > 0 for worker in workers)
    assert lost == 40


def test_a_key_that_was_replaced_in_the_token_opens_nothing(hsm: SoftHsm) -> None:
    provider = hsm.provider()
    _, wrapped = provider.create_epoch(1, CONTEXT)
    provider.destroy_epoch(1)
    with pytest.raises(KeyUnavailableError, match="holds no key for epoch 1"):
        provider.unwrap(wrapped, CONTEXT)
    provider.create_epoch(1, CONTEXT)
    with pytest.raises(KeyUnavailableError, match="does not open epoch 1"):
        provider.unwrap(wrapped, CONTEXT)


def put_key(hsm: SoftHsm, value: bytes, epoch: int) -> None:
    """Put a known key where the provider looks for an epoch's."""
    from pkcs11 import Attribute, KeyType, ObjectClass

    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.TOKEN: True,
        Attribute.LABEL: f"coffer-{ARCHIVE_ID.hex()}",
        Attribute.ID: epoch.to_bytes(4, "big"),
        Attribute.VALUE: value,
        Attribute.ENCRYPT: True,
        Attribute.DECRYPT: True,
    }
    hsm.token().run(lambda session: session.create_object(template))


def test_a_key_that_was_put_into_the_token_is_not_used(hsm: SoftHsm) -> None:
    put_key(hsm, bytes(32), 1)
    with pytest.raises(ConfigError, match="was not generated there"):
        hsm.provider().create_epoch(1, CONTEXT)


def test_the_wrapped_form_is_what_the_format_says(hsm: SoftHsm) -> None:
    """FORMAT.md, KEKs wrapped by an HSM: opened by the token as written down here with another library."""
    secret, kek, nonce = bytes(range(32)), bytes(range(50, 82)), bytes(range(12))
    put_key(hsm, secret, 9)
    head = b"\x01" + (9).to_bytes(4, "big") + nonce
    wrapped = head + AESGCM(secret).encrypt(nonce, kek, head + CONTEXT)
    assert len(wrapped) == 65
    assert hsm.provider().unwrap(wrapped, CONTEXT).matches(kek)


def test_archives_that_share_a_token_do_not_touch_each_other(hsm: SoftHsm, tmp_path: Path) -> None:
    mine, yours = hsm.provider(), hsm.provider(archive_id=bytes(16))
    ring = Keyring.create(tmp_path / "keyring", mine, ARCHIVE_ID)
    key = ring.new_study()
    ring.close()
    yours.create_epoch(1, CONTEXT)
    yours.destroy_epoch(1)
    assert yours.describe().epochs == ()
    ring = Keyring.open(tmp_path / "keyring", hsm.provider())
    assert ring.study(key.key_id).kcv == key.kcv
    assert [epoch.provider for epoch in ring.epochs()] == ["pkcs11"]
    ring.close()
