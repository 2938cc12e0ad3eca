"""What the keyring may expect of every provider of epoch secrets: the same tests for a file, an HSM and AWS KMS."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.keys.crypto import derive
from coffer.keys.errors import ConfigError, FormatError, KeyUnavailableError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import epoch_context
from coffer.keys.memory.secret import Secret
from coffer.keys.providers import pkcs11_token
from coffer.keys.providers.aws_kms import KmsProvider, connect
from coffer.keys.providers.base import KekProvider
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, KeyFileProvider, generate_keyfile
from coffer.keys.providers.routing import ProviderSet, RetryingProvider, RetryPolicy
from tests.keys import softhsm
from tests.keys.kms_server import KmsServer, kms_server

ARCHIVE_ID = bytes(range(16))
KINDS = ("keyfile", "keyfile with passphrase", "pkcs11", "aws-kms")
Maker = Callable[[], KekProvider]


def context(epoch: int, kek_id: bytes = bytes(16)) -> bytes:
    return epoch_context(ARCHIVE_ID, kek_id, epoch)


@pytest.fixture(scope="module")
def kms() -> Iterator[KmsServer]:
    with kms_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, kms: KmsServer) -> Iterator[Maker]:
    """Makes providers over the same secrets, each as a fresh process would."""
    if request.param == "pkcs11":
        yield softhsm.make(tmp_path / "hsm").provider
    elif request.param == "aws-kms":
        kms.reset()
        yield lambda: KmsProvider(ARCHIVE_ID, connect("eu-central-1", kms.url, 5.0))
    else:
        phrase = Secret(b"phrase") if "passphrase" in request.param else None
        generate_keyfile(tmp_path / "key", phrase, cost=CHEAPEST_FOR_TESTS)
        yield lambda: KeyFileProvider(tmp_path / "key", lambda: Secret(b"phrase"))


def test_what_one_wraps_another_of_the_same_kind_opens(make: Maker) -> None:
    kek, wrapped = make().create_epoch(1, context(1))
    assert len(kek) == 32
    assert kek.reveal() not in wrapped
    assert make().unwrap(wrapped, context(1)).matches(kek)
    make().health()


def test_a_kek_that_exists_is_adopted(make: Maker) -> None:
    kek = Secret(os.urandom(32))
    wrapped = make().adopt_epoch(4, kek, context(4))
    assert make().unwrap(wrapped, context(4)).matches(kek)


def test_creating_an_epoch_again_makes_another_kek_under_the_same_secret(make: Maker) -> None:
    provider = make()
    first, wrapped_first = provider.create_epoch(2, context(2))
    second, wrapped_second = provider.create_epoch(2, context(2))
    assert not first.matches(second)
    assert make().unwrap(wrapped_first, context(2)).matches(first)
    assert make().unwrap(wrapped_second, context(2)).matches(second)
    assert make().describe().epochs.count(2) == 1


def test_another_context_opens_nothing(make: Maker) -> None:
    provider = make()
    _, wrapped = provider.create_epoch(1, context(1))
    for other in (context(2), context(1, b"k" * 16), epoch_context(bytes(16), bytes(16), 1), b""):
        with pytest.raises(KeyUnavailableError):
            provider.unwrap(wrapped, other)


def test_every_altered_byte_and_every_cut_is_refused(make: Maker) -> None:
    provider = make()
    kek, wrapped = provider.create_epoch(1, context(1))
    for at in range(0, len(wrapped), max(1, len(wrapped) // 16)):
        for broken in (wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :], wrapped[:at]):
            with pytest.raises((KeyUnavailableError, FormatError, ConfigError)):
                provider.unwrap(broken, context(1))
    assert provider.unwrap(wrapped, context(1)).matches(kek)


def test_epochs_are_told_and_destroyed_each_for_itself(make: Maker) -> None:
    provider = make()
    made = {epoch: provider.create_epoch(epoch, context(epoch)) for epoch in (1, 2, 3)}
    info = make().describe()
    assert set(info.epochs) == {1, 2, 3}
    assert info.kind == provider.kind
    assert info.destruction
    receipt = provider.destroy_epoch(2)
    assert (receipt.kind, receipt.epoch) == (provider.kind, 2)
    assert receipt.caveat
    assert set(make().describe().epochs) == {1, 3}
    assert receipt.effective_ms is None or receipt.effective_ms > 0
    for one in (provider, make()):
        with pytest.raises(KeyUnavailableError) as caught:
            one.unwrap(made[2][1], context(2))
        assert caught.value.hint()
        for epoch in (1, 3):
            assert one.unwrap(made[epoch][1], context(epoch)).matches(made[epoch][0])
        one.health()
    again = make().destroy_epoch(2)
    assert (again.kind, again.epoch, again.effective_ms) == (provider.kind, 2, receipt.effective_ms)


def test_an_epoch_that_never_was_gives_a_receipt(make: Maker) -> None:
    assert make().destroy_epoch(77).epoch == 77


@pytest.mark.parametrize("epoch", [0, -1, 2**32])
def test_an_epoch_out_of_range_is_refused(make: Maker, epoch: int) -> None:
    with pytest.raises(ConfigError):
        make().create_epoch(epoch, b"")


def test_a_whole_keyring(make: Maker, tmp_path: Path) -> None:
    ring = Keyring.create(tmp_path / "ring", make(), ARCHIVE_ID)
    kcvs = {key.key_id: key.kcv for key in ring.new_studies(20)}
    token = ring.archive_key(derive.INDEX_TOKEN)
    ring.close()
    ring = Keyring.open(tmp_path / "ring", make())
    assert {key_id: ring.study(key_id).kcv for key_id in kcvs} == kcvs
    assert ring.archive_key(derive.INDEX_TOKEN).matches(token)
    assert ring.epochs()[0].provider == make().kind
    ring.close()


def test_a_kind_that_is_not_there_is_named(make: Maker, tmp_path: Path) -> None:
    provider = make()
    assert provider.of_kind(provider.kind) is provider
    with pytest.raises(ConfigError, match=r"tape.*") as caught:
        provider.of_kind("tape")
    assert "docs/keys.md" in caught.value.hint()
    with pytest.raises(ConfigError, match="does not support"):
        ProviderSet(provider.kind, {provider.kind: make}).of_kind("tape")


def test_a_set_asks_the_one_that_the_row_names(make: Maker, tmp_path: Path) -> None:
    """An archive whose key moves to another provider: both are open, each opens its own epoch."""
    generate_keyfile(tmp_path / "other")
    old = make().kind
    ring = Keyring.create(tmp_path / "ring", make(), ARCHIVE_ID)
    ring.close()
    makers = {"keyfile": lambda: KeyFileProvider(tmp_path / "other"), old: make}
    both = ProviderSet("keyfile", makers)
    ring = Keyring.open(tmp_path / "ring", both)
    assert ring.epochs()[0].provider == old
    ring.close()
    kek, wrapped = both.create_epoch(2, context(2))
    assert makers["keyfile"]().unwrap(wrapped, context(2)).matches(kek)
    both.health()


@given(st.lists(st.sampled_from(["away", "denied", "open"]), max_size=12), st.integers(0, 20))
def test_patience_waits_for_what_may_come_back_and_for_nothing_else(answers: list[str], seconds: int) -> None:
    now, left_over, script = 0.0, [], [*answers]

    class Scripted:
        kind = "scripted"

        def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
            answer = script.pop(0) if script else "away"
            if answer == "away":
                raise UnavailableError("away")
            if answer == "denied":
                raise KeyUnavailableError("denied")
            return Secret(b"kek")

        def of_kind(self, kind: str) -> Scripted:
            return self

    def sleep(pause: float) -> None:
        nonlocal now
        now += pause

    provider: Any = Scripted()
    patient = RetryingProvider(
        provider, RetryPolicy(seconds, lambda _, left: left_over.append(left), lambda: now, sleep)
    )
    tries = -(-seconds // 2) + 1  # one every two seconds, and one at the very end
    outcome = next((answer for answer in answers[:tries] if answer != "away"), "away")
    if outcome == "open":
        assert patient.of_kind("scripted").unwrap(b"", b"").matches(b"kek")
    else:
        with pytest.raises(KeyUnavailableError if outcome == "denied" else UnavailableError):
            patient.of_kind("scripted").unwrap(b"", b"")
    assert now <= seconds
    assert all(left > 0 for left in left_over)


def test_a_secret_has_an_id_of_its_own_wherever_it_lies(make: Maker) -> None:
    provider = make()
    for epoch in (1, 2):
        provider.create_epoch(epoch, context(epoch))
    first, second = make().holding(1), make().holding(2)
    assert first is not None
    assert second is not None
    assert (len(first.id), len(second.id)) == (16, 16)
    assert first.id != second.id
    assert first.name
    provider.adopt_epoch(1, Secret(os.urandom(32)), context(1))  # it wraps another key: it is the same secret
    assert make().holding(1, first.name) == provider.holding(1) == first
    assert make().holding(77) is None
    provider.destroy_epoch(1)
    later = make().holding(1)
    assert later is None or (later == first and provider.destroy_epoch(1).effective_ms)  # or it can be taken back


@pytest.mark.parametrize(("library", "extra"), [("pkcs11", "pkcs11"), ("boto3", "aws")])
def test_a_library_that_is_missing_is_installed_where_coffer_runs(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match="needs the package") as refused:
        pkcs11_token._library() if library == "pkcs11" else connect("", "", 1.0)
    assert refused.value.hint() == f"{sys.executable} -m pip install 'coffer-dicom[{extra}]'"
