"""The key file: one random 32-byte secret per epoch, optionally strengthened by a passphrase. Layout: FORMAT.md.

Rule: the wrapping key always includes the file's secret, never a passphrase alone: with the salt from an old backup,
that passphrase would open a destroyed epoch again. Limits are checked before any memory-hard work begins.
One key file serves one archive. It does not protect the file beyond refusing one that others can read.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_changes
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from coffer.keys.crypto import aead, selftest
from coffer.keys.crypto.derive import KEYFILE_ID, KEYFILE_WRAP, derive
from coffer.keys.crypto.hedge import first_key
from coffer.keys.disk import durable
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.permissions import require_secret
from coffer.keys.disk.reading import read_up_to
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import (
    ConfigError,
    FormatError,
    IntegrityError,
    KeyUnavailableError,
    UnavailableError,
    UnreadableError,
)
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo, only

__all__ = ["CHEAPEST_FOR_TESTS", "DEFAULT_COST", "Argon2Cost", "KeyFileProvider", "generate_keyfile"]

MAGIC: Final = b"CofferKF"
VERSION: Final = 1
KIND: Final = "keyfile"
WITH_PASSPHRASE: Final = 1
HEAD: Final = struct.Struct(">8sHHIII16sHH")  # magic version flags t p m_kib salt slots reserved
SLOT: Final = struct.Struct(">I32s")  # epoch secret
CHECKSUM: Final = 32
MOST_SLOTS: Final = 1024
MOST_M_KIB: Final = 1024 * 1024  # 1 GiB
MOST_T: Final = 16
MOST_M_KIB_PASSES: Final = 2 * MOST_M_KIB  # about 2 s: a forged header must not demand more work
MOST_P: Final = 16
WRAPPED_EPOCH: Final = struct.Struct(">I")
_RESTORE: Final = "put its newest copy back, made at coffer init or after the last rotation, or correct [keys] key_file"
_LONGEST: Final = HEAD.size + MOST_SLOTS * SLOT.size + CHECKSUM


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """Argon2id parameters (RFC 9106): passes, lanes, memory in KiB."""

    t: int
    p: int
    m_kib: int

    def check(self) -> None:
        """Raise FormatError when outside t 1..16, p 1..16, m 8p KiB..1 GiB, t * m up to 2 GiB; allocates nothing."""
        bounds = 1 <= self.t <= MOST_T and 1 <= self.p <= MOST_P and 8 * self.p <= self.m_kib <= MOST_M_KIB
        if not bounds or self.t * self.m_kib > MOST_M_KIB_PASSES:
            raise FormatError("the key file demands Argon2id parameters outside the allowed bounds")


DEFAULT_COST: Final = Argon2Cost(t=3, p=4, m_kib=256 * 1024)  # about 0.7 s
CHEAPEST_FOR_TESTS: Final = Argon2Cost(t=1, p=1, m_kib=8)  # protects nothing


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _KeyFile:
    """The file's content. `cost` is None when no passphrase is used; slots ascend by epoch."""

    cost: Argon2Cost | None
    salt: bytes
    slots: tuple[tuple[int, Secret], ...]

    def encode(self) -> bytes:
        cost = self.cost or Argon2Cost(0, 0, 0)
        flags = WITH_PASSPHRASE if self.cost else 0
        head = HEAD.pack(MAGIC, VERSION, flags, cost.t, cost.p, cost.m_kib, self.salt, len(self.slots), 0)
        body = head + b"".join(SLOT.pack(epoch, secret.reveal()) for epoch, secret in self.slots)
        return body + sha256(body).digest()

    def secret(self, epoch: int) -> Secret | None:
        return dict(self.slots).get(epoch)


def _decode(data: bytes) -> _KeyFile:
    """Return the content. Raises FormatError for whatever FORMAT.md says a reader must reject."""
    if len(data) < HEAD.size + CHECKSUM or data[:8] != MAGIC:
        raise FormatError("it is empty, cut or not a Coffer key file")
    _, version, flags, t, p, m_kib, salt, count, reserved = HEAD.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"key file version {version} is not supported", hint="use the Coffer release that wrote it")
    if flags & ~WITH_PASSPHRASE or reserved or count > MOST_SLOTS:
        raise FormatError("the key file's header has values that this version never writes")
    if len(data) != HEAD.size + count * SLOT.size + CHECKSUM or sha256(data[:-CHECKSUM]).digest() != data[-CHECKSUM:]:
        raise FormatError("it is damaged: its length or its checksum is wrong")
    cost = Argon2Cost(t, p, m_kib)
    if flags & WITH_PASSPHRASE:
        cost.check()
    elif (t, p, m_kib, salt) != (0, 0, 0, bytes(16)):
        raise FormatError("the key file's header has values that this version never writes")
    slots = [SLOT.unpack_from(data, HEAD.size + at * SLOT.size) for at in range(count)]
    epochs = [epoch for epoch, _ in slots]
    if epochs != sorted(set(epochs)) or 0 in epochs:
        raise FormatError("the key file's epochs do not ascend")
    return _KeyFile(cost if flags else None, salt, tuple((epoch, Secret(secret)) for epoch, secret in slots))


def _read(path: Path) -> _KeyFile:
    """Read and check the file: open, fstat, read at most its maximum length. Raises KeyUnavailableError where it is
    missing or damaged, ConfigError for unsafe modes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyUnavailableError(f"there is no key file {path}", hint=_RESTORE) from None
    except OSError as error:
        raise KeyUnavailableError(
            f"cannot open key file {path}: {error.strerror}",
            hint="let the account that runs Coffer read it, and the folders above it",
        ) from error
    try:
        require_secret(path, os.fstat(fd), "key file")
        return _decode(read_up_to(fd, 0, _LONGEST + 1))
    except UnreadableError as error:
        raise UnavailableError(f"key file {path} {error}", hint=error.hint()) from error
    except FormatError as error:
        raise KeyUnavailableError(f"key file {path} cannot be used: {error}", hint=error.hint() or _RESTORE) from error
    finally:
        os.close(fd)


def generate_keyfile(
    path: Path,
    passphrase: Secret | None = None,
    random: Callable[[int], bytes] = os.urandom,
    cost: Argon2Cost = DEFAULT_COST,
    epoch: int = 1,
    *,
    calls: Syscalls = SYSTEM,
) -> None:
    """Write a new key file with the secret of one epoch, mode 0600, atomically; durable on return.

    Never overwrites. With a `passphrase` the file records only that one is needed, its salt and `cost`. Raises
    UnavailableError when the file exists or cannot be written, ConfigError for an empty passphrase.
    """
    if passphrase is not None and not len(passphrase):
        raise ConfigError("the passphrase is empty")
    cost.check()
    selftest.require()
    salt = random(16) if passphrase is not None else bytes(16)
    content = _KeyFile(cost if passphrase is not None else None, salt, ((epoch, first_key(random, _slot(epoch))),))
    durable.write_new(path, content.encode(), 0o600, calls=calls)


def _slot(epoch: int) -> bytes:
    """What tells a slot's secret from everything else that is drawn."""
    return b"slot" + WRAPPED_EPOCH.pack(epoch)


class KeyFileProvider:
    """A KekProvider over one key file. `passphrase` is called once, if the file says that one is needed.

    Thread-safe. Reads the file at every call, so a replaced or removed file is noticed.
    """

    __slots__ = ("_calls", "_lock", "_passphrase", "_path", "_random", "_stretched")

    def __init__(
        self,
        path: Path,
        passphrase: Callable[[], Secret] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        calls: Syscalls = SYSTEM,
    ) -> None:
        self._path = path
        self._calls = calls
        self._passphrase = passphrase
        self._random = random
        self._lock = threading.Lock()
        self._stretched: tuple[Argon2Cost, bytes, Secret] | None = None

    @property
    def kind(self) -> str:
        """See KekProvider: `keyfile`."""
        return KIND

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider."""
        return only(self, kind)

    def describe(self) -> ProviderInfo:
        """Return the kind `keyfile` and the epochs whose secrets the file holds."""
        content = _read(self._path)
        destruction = "the secret is overwritten and the file replaced; destroy copies and flash remnants yourself"
        return ProviderInfo(KIND, tuple(e for e, _ in content.slots), content.cost is None, destruction)

    def health(self) -> None:
        """Return if the file can be read and is well formed, otherwise raise. Derives nothing."""
        _read(self._path)

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """See KekProvider."""
        kek = first_key(self._random, context)
        return kek, self.adopt_epoch(epoch, kek, context)

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """See KekProvider. Adds the epoch's secret by `durable.replace`, or resyncs one that a crash left there."""
        with self._lock:
            content = _read(self._path)
            secret = content.secret(epoch)
            if secret is None:
                if not 1 <= epoch < 2**32 or len(content.slots) >= MOST_SLOTS:
                    raise ConfigError("the key file cannot take another epoch", hint="destroy retired epochs first")
                secret = first_key(self._random, _slot(epoch))
                slots = tuple(sorted((*content.slots, (epoch, secret)), key=lambda slot: slot[0]))
                durable.replace(self._path, with_changes(content, slots=slots).encode(), 0o600, calls=self._calls)
            else:
                durable.resync(self._path, calls=self._calls)  # else a power cut could lose the secret, and so the KEK
            place = WRAPPED_EPOCH.pack(epoch)
            wrap_key = self._wrap_key(content, secret)
            return place + kek.use(lambda plain: aead.seal(wrap_key, place + context, plain, self._random))

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """See KekProvider."""
        if len(wrapped) != WRAPPED_EPOCH.size + aead.sealed_length(32):
            raise FormatError("the wrapped KEK has the wrong length for a key file")
        place = wrapped[: WRAPPED_EPOCH.size]
        (epoch,) = WRAPPED_EPOCH.unpack(place)
        with self._lock:
            content = _read(self._path)
            secret = content.secret(epoch)
            if secret is None:
                raise KeyUnavailableError(
                    f"key file {self._path} holds no secret for epoch {epoch}",
                    hint="use the newest version of the key file that belongs to this archive",
                )
            wrap_key = self._wrap_key(content, secret)
        try:
            return aead.open_secret(wrap_key, place + context, wrapped[WRAPPED_EPOCH.size :])
        except IntegrityError as error:
            raise KeyUnavailableError(
                f"key file {self._path} does not open epoch {epoch} of this archive",
                hint="check that key file and passphrase belong to this archive",
            ) from error

    def holding(self, epoch: int, name: str = "") -> Holding | None:  # noqa: ARG002  found by its epoch
        """See KekProvider: the slot's secret, whatever the passphrase; without the secret nothing opens."""
        secret = _read(self._path).secret(epoch)
        if secret is None:
            return None
        own = derive(secret, KEYFILE_ID).reveal()[:16]
        return Holding(own, f"secret {own[:4].hex()}")

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider: `durable.replace` without the secret, then zeros over the old file's bytes, fdatasync.

        Where a crash came after the secret had left the file, the file is resynced.
        """
        with self._lock:
            content = _read(self._path)
            kept = tuple(slot for slot in content.slots if slot[0] != epoch)
            if len(kept) != len(content.slots):
                old = AppendFile(self._path, calls=self._calls)
                try:
                    durable.replace(self._path, with_changes(content, slots=kept).encode(), 0o600, calls=self._calls)
                    old.write_at(0, bytes(old.size))  # its name is gone already: a crash leaves the new file intact
                    old.sync()
                finally:
                    old.close()
            else:
                durable.resync(self._path, calls=self._calls)
        return DestroyReceipt(KIND, epoch, "destroy every other copy of the key file that holds this epoch")

    def _wrap_key(self, content: _KeyFile, secret: Secret) -> Secret:
        if content.cost is None:
            return derive(secret, KEYFILE_WRAP)
        return derive(Secret(secret.reveal() + self._stretch(content.cost, content.salt).reveal()), KEYFILE_WRAP)

    def _stretch(self, cost: Argon2Cost, salt: bytes) -> Secret:
        """Return Argon2id(passphrase), 32 bytes, cached for this file's salt and cost."""
        if self._stretched is not None and self._stretched[:2] == (cost, salt):
            return self._stretched[2]
        passphrase = self._passphrase() if self._passphrase is not None else None
        if passphrase is None or not len(passphrase):
            raise KeyUnavailableError(f"key file {self._path} needs a passphrase", hint="configure its source")
        cost.check()
        kdf = Argon2id(salt=salt, length=32, iterations=cost.t, lanes=cost.p, memory_cost=cost.m_kib)
        stretched = Secret(kdf.derive(passphrase.reveal()))
        self._stretched = (cost, salt, stretched)
        return stretched
