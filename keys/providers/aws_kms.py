"""Epoch secrets in AWS Key Management Service: one customer managed key for each epoch.

Rule: each epoch has a KMS key of its own, found by the alias `alias/coffer/<archive id>/<epoch>`: one key for all
epochs would for ever open a destroyed epoch from a backup. Every request names the key and carries an encryption
context bound to archive and epoch. FORMAT.md defines the wrapped form. KMS is called once per epoch at start and for
health checks, never per study.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from coffer.keys.crypto.hedge import first_key
from coffer.keys.errors import ConfigError, FormatError, KeyUnavailableError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.aws_kms_errors import MissingError, StateError, kms_call
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo, only

__all__ = ["KmsProvider", "connect"]

KIND: Final = "aws-kms"
VERSION: Final = 1
HEAD: Final = struct.Struct(">BIH")  # version epoch key_arn_length
_LONGEST_ARN: Final = 2048
_ATTEMPTS: Final = 3


def connect(region: str, endpoint: str, timeout_seconds: float) -> Any:
    """Return a boto3 KMS client. Credentials, and an empty region or endpoint, resolve as in AWS's tools. Sends
    nothing."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigError(
            "the aws-kms provider needs the package boto3", hint=f"{sys.executable} -m pip install 'coffer-dicom[aws]'"
        ) from error
    with kms_call("be set up"):
        return boto3.Session().client(
            "kms",
            region_name=region or None,
            endpoint_url=endpoint or None,
            config=Config(
                connect_timeout=timeout_seconds,
                read_timeout=timeout_seconds,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            ),
        )


class KmsProvider:
    """A KekProvider over one account and region. Thread-safe. `client` is what `connect` returns."""

    __slots__ = ("_archive", "_client", "_days", "_known", "_random")

    def __init__(
        self,
        archive_id: bytes,
        client: Any,
        deletion_days: int = 30,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._archive = archive_id.hex()
        self._client = client
        self._days = deletion_days
        self._random = random
        self._known: dict[int, str] = {}  # epoch -> ARN of a key opened or made here

    @property
    def kind(self) -> str:
        """See KekProvider: `aws-kms`."""
        return KIND

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider."""
        return only(self, kind)

    def describe(self) -> ProviderInfo:
        """See KekProvider. Lists the account's aliases (kms:ListAliases) and describes this archive's keys."""
        prefix = self._alias("")
        epochs: list[int] = []
        with kms_call("list aliases"):
            for page in self._client.get_paginator("list_aliases").paginate():
                names = [alias["AliasName"] for alias in page["Aliases"] if alias["AliasName"].startswith(prefix)]
                epochs += [int(name[len(prefix) :]) for name in names if name[len(prefix) :].isdecimal()]
            usable = tuple(epoch for epoch in sorted(epochs) if not self._is_ending(epoch))
        destruction = f"the epoch's key is deleted {self._days} days after the request, and can be restored until then"
        return ProviderInfo(KIND, usable, True, destruction)

    def health(self) -> None:
        """See KekProvider: every key used here so far is enabled (kms:DescribeKey)."""
        for epoch, arn in dict(self._known).items():
            self._describe(epoch, arn)

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """See KekProvider."""
        kek = first_key(self._random, context)
        return kek, self.adopt_epoch(epoch, kek, context)

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """See KekProvider. CreateKey and CreateAlias unless the alias exists, then Encrypt."""
        if not 1 <= epoch < 2**32:
            raise ConfigError("an epoch is a number of at least 1")
        arn = self._arn(epoch) or self._make(epoch)
        with kms_call(f"wrap epoch {epoch}"):
            answer = self._client.encrypt(
                KeyId=arn, Plaintext=kek.reveal(), EncryptionContext=self._context(epoch, context)
            )
            wrapped: bytes = HEAD.pack(VERSION, epoch, len(arn)) + arn.encode() + answer["CiphertextBlob"]
        self._known[epoch] = arn
        return wrapped

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """See KekProvider. Decrypt with the key that the wrapped form names, and no other."""
        epoch, arn, blob = _split(wrapped)
        try:
            with kms_call(f"open epoch {epoch}"):
                answer = self._client.decrypt(
                    KeyId=arn, CiphertextBlob=blob, EncryptionContext=self._context(epoch, context)
                )
                used, kek = answer["KeyId"], Secret(answer["Plaintext"])
        except StateError:
            self._describe(epoch, arn)  # raises the error for the key's state
            raise
        if used != arn or len(kek) != 32:
            raise KeyUnavailableError(f"AWS KMS opened epoch {epoch} with another key than {arn}")
        self._known[epoch] = arn
        return kek

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """See KekProvider: by the alias, or by the ARN in `name`, also while the key is pending deletion."""
        arn = self._known.get(epoch) or self._arn(epoch)
        if name and arn != name:
            arn = self._described(epoch, name) or arn
        if arn is None:
            return None
        self._known[epoch] = arn
        return Holding(sha256(arn.encode()).digest()[:16], arn)

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider. ScheduleKeyDeletion; a key that is pending deletion or gone gives a receipt again."""
        arn = self._known.get(epoch) or self._arn(epoch)
        if arn is None:
            caveat = f"no alias {self._alias(epoch)} was found: if it was removed, the key itself may still exist"
            return DestroyReceipt(KIND, epoch, caveat)
        caveat = f"until then kms:CancelKeyDeletion restores {arn}; destroy imported or replicated key material"
        try:
            with kms_call(f"destroy epoch {epoch}"):
                metadata = self._client.describe_key(KeyId=arn)["KeyMetadata"]
                if metadata["KeyState"] != "PendingDeletion":
                    metadata = self._client.schedule_key_deletion(
                        KeyId=metadata["KeyId"], PendingWindowInDays=self._days
                    )
                effective_ms = int(metadata["DeletionDate"].timestamp()) * 1000
        except MissingError:
            return DestroyReceipt(KIND, epoch, "AWS KMS no longer has the key")
        self._known.pop(epoch, None)
        return DestroyReceipt(KIND, epoch, caveat, effective_ms)

    def _is_ending(self, epoch: int) -> bool:
        state: str = self._client.describe_key(KeyId=self._alias(epoch))["KeyMetadata"]["KeyState"]
        return state == "PendingDeletion"

    def _alias(self, epoch: object) -> str:
        return f"alias/coffer/{self._archive}/{epoch}"

    def _context(self, epoch: int, context: bytes) -> dict[str, str]:
        """KMS authenticates these pairs and logs them in CloudTrail: ids and numbers, nothing secret."""
        return {"coffer-archive": self._archive, "coffer-epoch": str(epoch), "coffer-context": context.hex()}

    def _arn(self, epoch: int) -> str | None:
        return self._described(epoch, self._alias(epoch))

    def _described(self, epoch: int, key: str) -> str | None:
        try:
            with kms_call(f"find the key of epoch {epoch}"):
                arn: str = self._client.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
        except MissingError:
            return None
        return arn

    def _make(self, epoch: int) -> str:
        tags = {"coffer-archive": self._archive, "coffer-epoch": str(epoch)}
        with kms_call(f"make the key of epoch {epoch}"):
            made = self._client.create_key(
                Description=f"Coffer archive {self._archive}, key epoch {epoch}",
                KeyUsage="ENCRYPT_DECRYPT",
                KeySpec="SYMMETRIC_DEFAULT",
                Tags=[{"TagKey": name, "TagValue": value} for name, value in tags.items()],
            )
            arn: str = made["KeyMetadata"]["Arn"]
            self._client.create_alias(AliasName=self._alias(epoch), TargetKeyId=made["KeyMetadata"]["KeyId"])
        return arn

    def _describe(self, epoch: int, arn: str) -> None:
        with kms_call(f"describe the key of epoch {epoch}"):
            state = self._client.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"]
        if state == "PendingDeletion":
            raise KeyUnavailableError(
                f"the AWS KMS key of epoch {epoch} waits for its deletion: {arn}",
                hint="unless that was intended, run at once: aws kms cancel-key-deletion, then aws kms enable-key",
            )
        if state == "Unavailable":
            raise UnavailableError(f"the AWS KMS key of epoch {epoch} is unavailable now: {arn}")
        if state != "Enabled":
            raise ConfigError(
                f"the AWS KMS key of epoch {epoch} is {state.lower()}: {arn}", hint="aws kms enable-key --key-id ARN"
            )


def _split(wrapped: bytes) -> tuple[int, str, bytes]:
    """Return epoch, key ARN and ciphertext of a wrapped KEK. Raises FormatError."""
    wrong = FormatError("the wrapped KEK is not in the format of an AWS KMS provider")
    if len(wrapped) < HEAD.size or wrapped[0] != VERSION:
        raise wrong
    _, epoch, length = HEAD.unpack_from(wrapped)
    arn, blob = wrapped[HEAD.size : HEAD.size + length], wrapped[HEAD.size + length :]
    if not (0 < length <= _LONGEST_ARN and arn.isascii() and blob):
        raise wrong
    return epoch, arn.decode("ascii"), blob
