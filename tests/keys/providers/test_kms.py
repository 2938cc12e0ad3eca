"""The AWS KMS provider against moto and a proxy that makes faults: what each is told as, and what is retried."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from coffer.keys.errors import CofferError, ConfigError, KeyUnavailableError, UnavailableError
from coffer.keys.providers.aws_kms import KmsProvider, connect
from tests.keys.kms_server import KmsServer, kms_server

ARCHIVE_ID = bytes(range(16))
CONTEXT = b"archive and epoch"


@pytest.fixture(scope="module")
def shared() -> Iterator[KmsServer]:
    with kms_server() as server:
        yield server


@pytest.fixture
def server(shared: KmsServer) -> KmsServer:
    shared.reset()
    return shared


@pytest.fixture
def archive_id() -> bytes:
    return os.urandom(16)


def client(server: KmsServer, timeout: float = 5.0) -> Any:
    return connect("eu-central-1", server.url, timeout)


def provider(server: KmsServer, archive_id: bytes, timeout: float = 5.0) -> KmsProvider:
    return KmsProvider(archive_id, client(server, timeout), 7)


def test_each_epoch_has_a_key_of_its_own_that_says_whose_it_is(server: KmsServer, archive_id: bytes) -> None:
    kms = provider(server, archive_id)
    kms.create_epoch(1, CONTEXT)
    kms.create_epoch(2, CONTEXT)
    kms.create_epoch(2, CONTEXT)  # as after a crash: no second key
    assert server.seen.count("CreateKey") == 2
    arns = set()
    for epoch in (1, 2):
        told = client(server).describe_key(KeyId=f"alias/coffer/{archive_id.hex()}/{epoch}")["KeyMetadata"]
        assert archive_id.hex() in told["Description"]
        arns.add(told["Arn"])
        tags = client(server).list_resource_tags(KeyId=told["KeyId"])["Tags"]
        assert {"TagKey": "coffer-epoch", "TagValue": str(epoch)} in tags
    assert len(arns) == 2


def test_opening_needs_one_request(server: KmsServer, archive_id: bytes) -> None:
    _, wrapped = provider(server, archive_id).create_epoch(1, CONTEXT)
    server.seen.clear()
    provider(server, archive_id).unwrap(wrapped, CONTEXT)
    assert server.seen == ["Decrypt"]


@pytest.mark.parametrize("fault", ["ThrottlingException", "KMSInternalException", "500", "cut", "garbage"])
def test_what_passes_is_tried_again_and_then_away(server: KmsServer, archive_id: bytes, fault: str) -> None:
    kms = provider(server, archive_id)
    kek, wrapped = kms.create_epoch(1, CONTEXT)
    if fault != "garbage":  # an answer that is well-formed HTTP is taken as it is
        server.faults[:] = [fault]
        assert kms.unwrap(wrapped, CONTEXT).matches(kek)
    server.always = fault
    with pytest.raises(UnavailableError, match="AWS KMS cannot open epoch 1") as caught:
        kms.unwrap(wrapped, CONTEXT)
    assert caught.value.hint()
    server.always = ""
    assert kms.unwrap(wrapped, CONTEXT).matches(kek)


def test_silence_ends(server: KmsServer, archive_id: bytes) -> None:
    _, wrapped = provider(server, archive_id).create_epoch(1, CONTEXT)
    server.always = "hang"
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="no answer"):
        provider(server, archive_id, 0.3).unwrap(wrapped, CONTEXT)
    assert time.monotonic() - began < 10


def test_nobody_listens(archive_id: bytes) -> None:
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "tester")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "tester")
    with pytest.raises(UnavailableError, match="no answer"):
        provider(KmsServer(9), archive_id, 1.0).create_epoch(1, CONTEXT)


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        ("AccessDeniedException", ConfigError, "docs/keys.md"),
        ("ExpiredTokenException", ConfigError, "credentials"),
        ("UnrecognizedClientException", ConfigError, "credentials"),
        ("DisabledException", ConfigError, "enable-key"),
        ("NotFoundException", KeyUnavailableError, "region"),
        ("InvalidCiphertextException", KeyUnavailableError, "altered"),
        ("IncorrectKeyException", KeyUnavailableError, "altered"),
        ("SomethingNewException", UnavailableError, "try again"),
    ],
)
def test_what_does_not_pass_is_told_at_once(
    server: KmsServer, archive_id: bytes, code: str, kind: type[CofferError], remedy: str
) -> None:
    kms = provider(server, archive_id)
    _, wrapped = kms.create_epoch(1, CONTEXT)
    server.seen.clear()
    server.always = code
    with pytest.raises(kind, match=code) as caught:
        kms.unwrap(wrapped, CONTEXT)
    assert remedy in caught.value.hint()
    assert server.seen == ["Decrypt"]


def test_a_key_that_is_disabled_opens_nothing_until_it_is_enabled(server: KmsServer, archive_id: bytes) -> None:
    kms = provider(server, archive_id)
    kek, wrapped = kms.create_epoch(1, CONTEXT)
    key = client(server).describe_key(KeyId=f"alias/coffer/{archive_id.hex()}/1")["KeyMetadata"]["KeyId"]
    client(server).disable_key(KeyId=key)
    for attempt in (lambda: kms.unwrap(wrapped, CONTEXT), kms.health):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "enable-key" in caught.value.hint()
    client(server).enable_key(KeyId=key)
    kms.health()
    assert kms.unwrap(wrapped, CONTEXT).matches(kek)


def test_destruction_waits_and_can_be_taken_back_until_its_day(server: KmsServer, archive_id: bytes) -> None:
    kms = provider(server, archive_id)
    kek, wrapped = kms.create_epoch(1, CONTEXT)
    receipt = kms.destroy_epoch(1)
    assert receipt.effective_ms is not None
    assert 6.9 < (receipt.effective_ms / 1000 - time.time()) / 86_400 < 7.1
    assert "CancelKeyDeletion" in receipt.caveat
    fresh = provider(server, archive_id)
    with pytest.raises(KeyUnavailableError, match="waits for its deletion") as caught:
        fresh.unwrap(wrapped, CONTEXT)
    assert "cancel-key-deletion" in caught.value.hint()
    assert fresh.destroy_epoch(1) == receipt
    key = client(server).describe_key(KeyId=f"alias/coffer/{archive_id.hex()}/1")["KeyMetadata"]["KeyId"]
    client(server).cancel_key_deletion(KeyId=key)
    client(server).enable_key(KeyId=key)
    assert fresh.unwrap(wrapped, CONTEXT).matches(kek)


def test_a_crash_between_key_and_alias_costs_an_unused_key_and_nothing_else(
    server: KmsServer, archive_id: bytes
) -> None:
    kms = provider(server, archive_id)
    server.faults[:] = ["", "", "AccessDeniedException"]  # DescribeKey, CreateKey, CreateAlias
    with pytest.raises(ConfigError, match="make the key of epoch 1"):
        kms.create_epoch(1, CONTEXT)
    kek, wrapped = kms.create_epoch(1, CONTEXT)
    assert provider(server, archive_id).unwrap(wrapped, CONTEXT).matches(kek)


def test_no_region_and_no_credentials_are_told(monkeypatch: pytest.MonkeyPatch, server: KmsServer) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="no AWS region"):
        connect("", "", 1.0)
    with pytest.raises(ConfigError, match="no AWS credentials"):
        KmsProvider(ARCHIVE_ID, connect("eu-central-1", server.url, 1.0)).create_epoch(1, CONTEXT)
