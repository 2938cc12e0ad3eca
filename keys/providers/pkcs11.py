"""Epoch secrets in a hardware security module, over PKCS#11 v2.40: AES-256 keys that never leave the token.

Rule: each epoch has a key of its own in the token, labelled `coffer-<archive id>` with the epoch as its CKA_ID, and
destroying the epoch destroys that key. A refused PIN is not tried again: tokens lock after a few attempts.
FORMAT.md defines the wrapped form. It does not create tokens, set PINs or back up keys: the HSM's own tools do.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from coffer.keys.crypto.derive import HEDGE, NONCE, derive
from coffer.keys.crypto.hedge import first_key, hedged
from coffer.keys.errors import ConfigError, FormatError, KeyUnavailableError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo, only
from coffer.keys.providers.pkcs11_token import ObjectMissing, Token

if TYPE_CHECKING:
    from pkcs11 import SecretKey, Session

__all__ = ["HsmProvider"]

KIND: Final = "pkcs11"
AES_GCM: Final = 1
HEAD: Final = struct.Struct(">BI12s")  # mechanism epoch nonce
WRAPPED: Final = HEAD.size + 32 + 16
_TAG_BITS: Final = 128
_ID_CONTEXT: Final = b"coffer/hsm-key-id/v1"


class HsmProvider:
    """A KekProvider over one token. Thread-safe; calls are serialised per process, as PKCS#11 modules require.

    `archive_id` has 16 bytes; `token` holds module, label and PIN.
    """

    __slots__ = ("_label", "_random", "_token", "_used")

    def __init__(self, archive_id: bytes, token: Token, random: Callable[[int], bytes] = os.urandom) -> None:
        self._label = f"coffer-{archive_id.hex()}"
        self._token = token
        self._random = random
        self._used: set[int] = set()  # epochs made or opened here

    @property
    def kind(self) -> str:
        """See KekProvider: `pkcs11`."""
        return KIND

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider."""
        return only(self, kind)

    def describe(self) -> ProviderInfo:
        """See KekProvider. Searches the token."""
        try:
            epochs = set(self._token.run(lambda session: [_epoch_of(key) for key in self._require_some(session)]))
        except ObjectMissing:
            epochs = set()
        destruction = "the epoch's key is destroyed in the token; destroy backups of the token yourself"
        return ProviderInfo(KIND, tuple(sorted(epochs)), True, destruction)

    def health(self) -> None:
        """See KekProvider: the token is reached and logged in, and holds the keys used here so far."""
        used = sorted(self._used)

        def look(session: Session) -> None:
            for epoch in used:
                self._get(session, epoch)
            if not used:
                self._require_some(session)

        try:
            self._token.run(look)
        except ObjectMissing:
            if used:
                raise self._missing(used[-1]) from None

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """See KekProvider."""
        kek = first_key(self._random, context)
        return kek, self.adopt_epoch(epoch, kek, context)

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """See KekProvider. Makes the epoch's key in the token (C_GenerateKey, CKA_TOKEN) unless it exists."""
        if not 1 <= epoch < 2**32:
            raise ConfigError("an epoch is a number of at least 1")
        hedge = derive(kek, HEDGE)  # the token's own key cannot be asked
        head = HEAD.pack(AES_GCM, epoch, hedged(hedge, NONCE, self._random, 12, context))
        try:
            self._token.run(lambda session: self._require_kept(self._get(session, epoch)))
        except ObjectMissing:
            self._token.run(lambda session: self._make(session, epoch))
        wrapped = head + self._token.run(
            lambda session: _encrypt(self._get(session, epoch), head, context, kek.reveal())
        )
        self._used.add(epoch)
        return wrapped

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """See KekProvider."""
        if len(wrapped) != WRAPPED or wrapped[0] != AES_GCM:
            raise FormatError("the wrapped KEK is not in the format of an HSM provider")
        head, sealed = wrapped[: HEAD.size], wrapped[HEAD.size :]
        _, epoch, _ = HEAD.unpack(head)
        try:
            kek = Secret(self._token.run(lambda session: _decrypt(self._get(session, epoch), head, context, sealed)))
        except UnavailableError as error:
            # PKCS#11 has no single error for a wrong tag, so blame the wrapped KEK only if the key works otherwise.
            if not self._key_works(epoch):
                raise
            raise KeyUnavailableError(
                f"{self._token} does not open epoch {epoch} of this archive",
                hint="the keyring was altered, or the key in the token was replaced: restore the keyring or the token",
            ) from error
        except ObjectMissing as error:
            raise self._missing(epoch) from error
        self._used.add(epoch)
        return kek

    def holding(self, epoch: int, name: str = "") -> Holding | None:  # noqa: ARG002  found by its epoch
        """See KekProvider. The id is a hash of a fixed message encrypted under the all-zero nonce, which is used for
        nothing else."""
        head = HEAD.pack(AES_GCM, epoch, bytes(12))
        try:
            made = self._token.run(lambda session: _encrypt(self._get(session, epoch), head, _ID_CONTEXT, bytes(16)))
        except ObjectMissing:
            return None
        return Holding(sha256(made).digest()[:16], f"{self._token}, label {self._label}, id {epoch:08x}")

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider: C_DestroyObject, then a search that must not find the key."""

        def destroy(session: Session) -> None:
            for key in self._require_some(session, epoch):
                key.destroy()
            if self._keys(session, epoch):
                raise UnavailableError(f"{self._token} still shows the key of epoch {epoch} after destroying it")

        key = f"the key with label {self._label}, id {epoch:08x}"
        caveat = f"destroy every backup of {self._token} that holds {key}"
        try:
            self._token.run(destroy)
        except ObjectMissing:  # an earlier call destroyed it, or this is another token with that label
            caveat = f"{self._token} held no such key when it was asked: {caveat}, and every other token that does"
        self._used.discard(epoch)
        return DestroyReceipt(KIND, epoch, caveat)

    def _keys(self, session: Session, epoch: int | None = None) -> list[SecretKey]:
        from pkcs11 import Attribute, ObjectClass

        wanted: dict[Any, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self._label}
        if epoch is not None:
            wanted[Attribute.ID] = epoch.to_bytes(4, "big")
        found: list[Any] = list(session.get_objects(wanted))
        return found

    def _require_some(self, session: Session, epoch: int | None = None) -> list[SecretKey]:
        """As `_keys`, but raises ObjectMissing for none: an unplugged token looks empty until it is opened again."""
        found = self._keys(session, epoch)
        if not found:
            raise ObjectMissing
        return found

    def _find(self, session: Session, epoch: int) -> SecretKey | None:
        keys = self._keys(session, epoch)
        if len(keys) > 1:
            raise ConfigError(
                f"{self._token} holds {len(keys)} keys with label {self._label} and id {epoch:08x}",
                hint="keep the one the archive was made with and destroy the others with the HSM's own tool",
            )
        return keys[0] if keys else None

    def _get(self, session: Session, epoch: int) -> SecretKey:
        key = self._find(session, epoch)
        if key is None:
            raise ObjectMissing
        return key

    def _missing(self, epoch: int) -> KeyUnavailableError:
        return KeyUnavailableError(
            f"{self._token} holds no key for epoch {epoch} of this archive (label {self._label})",
            hint="check that this is the token the archive was made with, or restore the token from its backup; "
            "with key shares: coffer keys recover --share FILE for each",
        )

    def _make(self, session: Session, epoch: int) -> SecretKey:
        from pkcs11 import Attribute, KeyType

        uses = (Attribute.WRAP, Attribute.UNWRAP, Attribute.SIGN, Attribute.VERIFY, Attribute.DERIVE)
        template: dict[Any, Any] = {
            **dict.fromkeys(uses, False),
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.MODIFIABLE: False,
        }
        key = session.generate_key(
            KeyType.AES, 256, label=self._label, id=epoch.to_bytes(4, "big"), store=True, template=template
        )
        try:
            self._require_kept(key)
        except ConfigError:
            key.destroy()
            raise
        return key

    def _require_kept(self, key: SecretKey) -> None:
        """Refuse to wrap under a key that was imported into the token or may have been extracted. Raises
        ConfigError."""
        from pkcs11 import Attribute

        if not (key[Attribute.LOCAL] and key[Attribute.ALWAYS_SENSITIVE] and key[Attribute.NEVER_EXTRACTABLE]):
            raise ConfigError(
                f"the key with label {self._label} in {self._token} was not generated there, or can be extracted",
                hint="change the token's policy, or destroy that key with the HSM's own tool",
            )

    def _key_works(self, epoch: int) -> bool:
        """Whether the epoch's key encrypts and decrypts a test message."""
        head = HEAD.pack(AES_GCM, epoch, self._random(12))

        def round_trip(session: Session) -> bool:
            key = self._get(session, epoch)
            return _decrypt(key, head, b"", _encrypt(key, head, b"", head)) == head

        try:
            return self._token.run(round_trip)
        except (UnavailableError, ObjectMissing):
            return False


def _epoch_of(key: SecretKey) -> int:
    from pkcs11 import Attribute

    return int.from_bytes(key[Attribute.ID], "big")


def _gcm(head: bytes, context: bytes) -> dict[str, Any]:
    """CKM_AES_GCM (PKCS#11 2.40, 2.11.2): the nonce is from the head; head and context are associated data."""
    from pkcs11 import GCMParams, Mechanism

    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(head[-12:], head + context, _TAG_BITS)}


def _encrypt(key: Any, head: bytes, context: bytes, plain: bytes) -> bytes:
    sealed: bytes = key.encrypt(plain, **_gcm(head, context))
    return sealed


def _decrypt(key: Any, head: bytes, context: bytes, sealed: bytes) -> bytes:
    plain: bytes = key.decrypt(sealed, **_gcm(head, context))
    return plain
