"""C2SP chunked-encryption v1 with AES-256-GCM and HKDF-Expand-SHA-512, exactly as specified: our only cipher.

    key(32) || base_nonce(12) || commitment(32) = HKDF-Expand-SHA-512(prk = input key,
        info = "c2sp.org/chunked-encryption@v1+" || "AEAD_AES_256_GCM" || 0x00 || salt(24) || context)
    sealed = salt(24) || commitment(32) || chunk_0 || chunk_1 ...     nonce_k = base_nonce XOR be(k), empty AAD

A plaintext chunk is 16 384 bytes; the last is always shorter (maybe empty); each gains a 16-byte tag.
Rule: a fresh random salt for every message gives a fresh AES key, so there is no nonce state anywhere; the commitment
is checked before anything is decrypted, and no plaintext is released before its chunk's tag is verified.
A salt depends on what is sealed as well as on the injected randomness (`keys.crypto.hedge`), so two messages never
share one. It knows nothing of what it seals.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from coffer.keys.buffer import Buffer
from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import Random, hedged
from coffer.keys.errors import FormatError, InputError, IntegrityError
from coffer.keys.memory.secret import Secret

__all__ = [
    "CHUNK",
    "HEADER",
    "OVERHEAD",
    "SALT",
    "TAG",
    "Opener",
    "Sealer",
    "fresh_salt",
    "open_sealed",
    "open_secret",
    "plain_length",
    "seal",
    "sealed_length",
]

CHUNK: Final = 16384
TAG: Final = 16
SALT: Final = 24
HEADER: Final = 56
OVERHEAD: Final = HEADER  # the fixed cost; every chunk adds TAG on top
_SEALED_CHUNK: Final = CHUNK + TAG
_MOST_CHUNKS: Final = 2**38  # the specification's limit: 4 PiB under one derived key
_LABEL: Final = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
_RUN: Final = 64 * CHUNK
_WINDOW: Final = 65 * _SEALED_CHUNK  # a message of exactly 1 MiB has 64 whole chunks and an empty one
_EMPTY: Final = b""
_THREAD: Final = threading.local()


def _scratch() -> memoryview:
    """Return this thread's reused buffer. Page faults of a new buffer per call cost four times as much as the
    cipher."""
    try:
        return cast(memoryview, _THREAD.scratch)
    except AttributeError:
        _THREAD.scratch = memoryview(bytearray(HEADER + _WINDOW))
        return _scratch()


def sealed_length(plain: int) -> int:
    """Return the sealed length of `plain` bytes. Raises InputError below 0 or above the 4 PiB limit."""
    chunks = plain // CHUNK + 1
    if plain < 0 or chunks > _MOST_CHUNKS:
        raise InputError("a sealed message holds 0 bytes to 4 PiB")
    return HEADER + plain + chunks * TAG


def plain_length(sealed: int) -> int:
    """Return the plaintext length of `sealed` bytes. Raises FormatError where no plaintext seals to that length."""
    full, rest = divmod(sealed - HEADER, _SEALED_CHUNK)
    if sealed < HEADER or rest < TAG or full >= _MOST_CHUNKS:
        raise FormatError("sealed data has an impossible length")
    return full * CHUNK + rest - TAG


def _schedule(key: Secret, context: bytes, salt: bytes) -> tuple[AESGCM, int, bytes]:
    """Return the message's cipher, its base nonce as a big-endian integer, and its 32-byte commitment."""
    if len(key) != 32 or len(salt) != SALT:
        raise InputError("sealing needs a 32-byte key and a 24-byte salt")
    expand, okm = HKDFExpand(algorithm=SHA512(), length=76, info=_LABEL + salt + context), bytearray(76)
    key.use(lambda bytes_: expand.derive_into(bytes_, okm))
    cipher = AESGCM(memoryview(okm)[:32])
    okm[:32] = bytes(32)  # the cipher has its own copy, which OpenSSL overwrites when it is freed
    return cipher, int.from_bytes(okm[32:44], "big"), bytes(okm[44:])


class Sealer:
    """Seals one message as a stream. Takes the 32-byte key, the context and a 24-byte salt of `fresh_salt`.

    Write `header`, then the result of every `update()`, then that of `finish()`; or let `into()` write it all. Not
    thread-safe. A salt must never be used twice under one key and context.
    """

    __slots__ = ("_base", "_cipher", "_done", "_index", "_pending", "header")

    def __init__(self, key: Secret, context: bytes, salt: bytes) -> None:
        self._cipher, self._base, commitment = _schedule(key, context, salt)
        self.header: bytes = salt + commitment
        self._index = 0
        self._pending = bytearray()
        self._done = False

    def update(self, data: Buffer) -> bytes:
        """Return the ciphertext of every chunk that `data` completes; keeps back less than one chunk."""
        pieces = [self._run(stretch) for stretch in self._stretches(data)]
        return pieces[0] if len(pieces) == 1 else _EMPTY.join(pieces)

    def _stretches(self, data: Buffer) -> Iterator[Buffer]:
        """Yield the chunks that `data` completes, in runs of whole chunks of at most 1 MiB; the rest stays pending."""
        view = memoryview(data).cast("B")
        if self._done:
            raise InputError("this message is finished")
        start = 0
        if self._pending:
            start = min(CHUNK - len(self._pending), len(view))
            self._pending += view[:start]
            if len(self._pending) < CHUNK:
                return
            yield self._pending
            self._pending = bytearray()
        stop = len(view) - (len(view) - start) % CHUNK
        for at in range(start, stop, _RUN):
            yield view[at : min(at + _RUN, stop)]
        self._pending += view[stop:]

    def finish(self) -> bytes:
        """Return the last chunk, shorter than 16 384 bytes of plaintext. Ends the message. Raises InputError if
        repeated."""
        if self._done:
            raise InputError("this message is finished")
        self._done = True
        return self._run(self._pending, last=True)

    def whole(self, plaintext: Buffer) -> bytes:
        """Return the whole sealed message, header included. Must be the only call."""
        view = memoryview(plaintext).cast("B")
        if self._done or self._index or self._pending:
            raise InputError("this message was begun as a stream")
        if len(view) > _RUN:
            return _EMPTY.join((self.header, self.update(view), self.finish()))
        self._done = True
        out = _scratch()
        out[:HEADER] = self.header
        return bytes(out[: self._run_into(view, out, HEADER, last=True)])

    def into(self, pieces: Iterable[Buffer], out: memoryview) -> None:
        """Seal the whole message, given in pieces of any size, into `out`. Must be the only call.

        `out` must have the message's `sealed_length`; otherwise InputError is raised and `out` holds no message.
        """
        if self._done or self._index or self._pending:
            raise InputError("this message was begun as a stream")
        if len(out) < HEADER:
            raise InputError("the output buffer is too short for a sealed message")
        out[:HEADER] = self.header
        end = HEADER
        for piece in pieces:
            for stretch in self._stretches(piece):
                end = self._run_into(stretch, out, end)
        self._done = True
        if self._run_into(self._pending, out, end, last=True) != len(out):
            raise InputError("the output buffer is longer than the sealed message")

    def _run(self, plain: Buffer, *, last: bool = False) -> bytes:
        """Seal at most 1 MiB of whole chunks, and the short one if `last`, by way of this thread's scratch buffer."""
        out = _scratch()
        return bytes(out[: self._run_into(plain, out, 0, last=last)])

    def _run_into(self, plain: Buffer, out: memoryview, end: int, *, last: bool = False) -> int:
        """Seal whole chunks, and the short one if `last`, into `out` at offset `end`. Returns the offset behind
        them."""
        view = memoryview(plain)
        count = len(view) // CHUNK + last
        if self._index + count > _MOST_CHUNKS or end + len(view) + count * TAG > len(out):
            raise InputError("a sealed message exceeds the 4 PiB limit or its output buffer")
        for number in range(count):
            piece = view[number * CHUNK : (number + 1) * CHUNK]
            start, end = end, end + len(piece) + TAG
            self._cipher.encrypt_into((self._base ^ self._index).to_bytes(12, "big"), piece, None, out[start:end])
            self._index += 1
        return end


class Opener:
    """Opens one sealed message chunk by chunk, in any order. Safe to share between threads.

    Takes the key, the context, the message's first 56 bytes and its `total` length in bytes, header included.
    Raises FormatError for an impossible length and IntegrityError when the commitment does not match: another key,
    another context or an altered header. Nothing was decrypted then.
    """

    __slots__ = ("_base", "_cipher", "length", "total")

    def __init__(self, key: Secret, context: bytes, header: bytes, total: int) -> None:
        self.length: int = plain_length(total)
        self.total: int = total
        if len(header) != HEADER:
            raise FormatError("a sealed message starts with 56 bytes")
        self._cipher, self._base, commitment = _schedule(key, context, bytes(header[:SALT]))
        if not hmac.compare_digest(commitment, header[SALT:]):
            raise IntegrityError("sealed data does not belong to this key and context: commitment mismatch")

    @property
    def last_chunk(self) -> int:
        """Index of the last chunk, the short one."""
        return self.length // CHUNK

    def chunk(self, index: int, data: Buffer) -> bytes:
        """Return the verified plaintext of chunk `index`, whose sealed bytes (tag included) are `data`.

        Raises IntegrityError when the tag does not verify, FormatError when `data` has the wrong length for its index.
        """
        last = self.last_chunk
        size = (self.length - last * CHUNK if index == last else CHUNK) + TAG
        if not 0 <= index <= last or len(data) != size:
            raise FormatError(f"sealed chunk {index} has the wrong length")
        try:
            return self._cipher.decrypt((self._base ^ index).to_bytes(12, "big"), data, None)
        except InvalidTag:
            raise IntegrityError(f"sealed chunk {index} was altered: its tag does not verify") from None

    def into(self, data: memoryview, out: memoryview) -> None:
        """Open the whole message, whose sealed bytes without the header are `data`, into `out`. Raises
        IntegrityError."""
        self._run(0, data, out)

    def chunk_span(self, start: int, stop: int) -> tuple[int, int, int, int]:
        """Return (first chunk, last chunk, byte offset, byte length): the sealed bytes of plaintext [start, stop).

        Both chunks are inclusive; the offset counts from the header's first byte. A range that reaches the end includes
        the last chunk even if that is empty, so a truncated message cannot pass. Raises InputError out of range.
        """
        if not 0 <= start <= stop <= self.length:
            raise InputError("range lies outside the message")
        first = start // CHUNK
        last = self.last_chunk if stop == self.length else max(first, (stop - 1) // CHUNK)
        offset = HEADER + first * _SEALED_CHUNK
        return first, last, offset, min(self.total, HEADER + (last + 1) * _SEALED_CHUNK) - offset

    def open_range(self, read: Callable[[int, int], Buffer], start: int, stop: int) -> memoryview:
        """Return plaintext [start, stop). `read(offset, length)` returns sealed bytes; each call asks for about 1 MiB.

        Raises IntegrityError for altered or missing bytes; then none of the range is returned.
        """
        first, last, offset, length = self.chunk_span(start, stop)
        plain = memoryview(bytearray(length - (last - first + 1) * TAG))
        for at in range(0, length, _WINDOW):
            size = min(_WINDOW, length - at)
            window = memoryview(read(offset + at, size))
            if len(window) != size:
                raise IntegrityError("sealed data ends early")
            done = at // _SEALED_CHUNK
            self._run(first + done, window, plain[done * CHUNK :])
        low = start - first * CHUNK
        return plain[low : low + stop - start]

    def _run(self, index: int, window: memoryview, out: memoryview) -> None:
        """Open consecutive sealed chunks into the start of `out`."""
        end = 0
        for low in range(0, len(window), _SEALED_CHUNK):
            piece = window[low : low + _SEALED_CHUNK]
            start, end = end, end + len(piece) - TAG
            try:
                self._cipher.decrypt_into((self._base ^ index).to_bytes(12, "big"), piece, None, out[start:end])
            except InvalidTag:
                raise IntegrityError(f"sealed chunk {index} was altered: its tag does not verify") from None
            index += 1


def fresh_salt(key: Secret, context: bytes, content: Buffer, random: Random) -> bytes:
    """Return the 24-byte salt for a message that `content`, the plaintext or its hash, tells from others under this
    key and context."""
    return hedged(key, derive.SALT, random, SALT, context, content)


def seal(key: Secret, context: bytes, plaintext: Buffer, random: Random) -> bytes:
    """Seal a whole message in memory: header and chunks, with a fresh salt."""
    return Sealer(key, context, fresh_salt(key, context, plaintext, random)).whole(plaintext)


def open_secret(key: Secret, context: bytes, sealed: Buffer) -> Secret:
    """Open a sealed key of less than 16 384 bytes into the memory of secrets. Raises as `open_sealed`."""
    view = memoryview(sealed).cast("B")
    opener = Opener(key, context, bytes(view[:HEADER]), len(view))
    return Secret.filled(opener.length, lambda out: opener.into(view[HEADER:], out))


def open_sealed(key: Secret, context: bytes, sealed: Buffer) -> bytes:
    """Open a whole sealed message. Raises FormatError or IntegrityError; returns nothing unverified."""
    view = memoryview(sealed).cast("B")
    opener = Opener(key, context, bytes(view[:HEADER]), len(view))
    if not opener.last_chunk:  # a key or an index row: the general path costs more than the decryption
        return opener.chunk(0, view[HEADER:])
    return bytes(opener.open_range(lambda offset, length: view[offset : offset + length], 0, opener.length))
