"""The sealed body of an object: the received data set, coded in frames, and the meta recorded with it, encrypted.

Rule: the cipher is C2SP chunked encryption under one key derived for this body; its context binds archive, study key,
content id, kind and length, so a body opens in one place only. Lengths inside are authenticated and checked anyway.
The length outside is a padded one (`archive.body.padding`).
"""

import hashlib
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import TracebackType
from typing import Final, Self, TypeAlias

import xxhash

from coffer.archive.body.frame_encoder import FrameEncoder
from coffer.archive.body.head import FRAME, HEAD, XXH3_64, Head
from coffer.archive.body.padding import padded_length, padding
from coffer.archive.body.spool import Spool, sealed_file
from coffer.archive.codec import frames
from coffer.archive.format.entry import SealedFile
from coffer.archive.store.free_space import FreeSpace
from coffer.keys.buffer import Buffer
from coffer.keys.crypto import aead
from coffer.keys.crypto.hedge import Random
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.memory.secret import Secret

CONTEXT: Final = struct.Struct(">15s16s16s32sHQ")
_CONTEXT_LABEL: Final = b"coffer/blob/v1\0"
_CACHED_FRAMES: Final = 4

Memory: TypeAlias = Callable[[int], memoryview]  # allocates this many writable bytes


def own_memory(length: int) -> memoryview:
    """Fresh memory of this process."""
    return memoryview(bytearray(length))


@dataclass(frozen=True, slots=True)
class BodyContext:
    """Where a body belongs: ids of archive and study key (16 bytes each), content id (32), the record's kind."""

    archive_id: bytes
    study_key_id: bytes
    content_id: bytes
    kind: int

    def bind(self, plain_bytes: int) -> bytes:
        """The cipher's context for a body of `plain_bytes`, padding included."""
        return CONTEXT.pack(_CONTEXT_LABEL, self.archive_id, self.study_key_id, self.content_id, self.kind, plain_bytes)


def seal_body(  # noqa: PLR0917  # the parts of a body in their order
    key: Secret,
    context: BodyContext,
    meta: bytes,
    encoded: FrameEncoder,
    random: Random,
    space: FreeSpace,
    memory: Memory,
    may_go_on: Callable[[], None] = lambda: None,
) -> memoryview | SealedFile:
    """Seal the frames of a finished encoder. `may_go_on` is called before each use of the key, and raises to end it.

    Frames in memory are sealed into what `memory` allocates, which is returned. Frames in a file are sealed into a new
    file in the folder of `space`, a few at a time; the caller must delete that file. Raises UnavailableError.
    """
    head = Head.of(encoded.size, encoded.sha256(), encoded.xxh3(), len(meta), len(encoded.frames)).pack()
    head += meta + b"".join(FRAME.pack(coded, plain) for coded, plain in encoded.frames)
    if not encoded.coded.is_in_memory:
        return _seal_to_file(key, context, head, encoded.coded, random, space, may_go_on)
    used = len(head) + encoded.coded.size
    plain = padded_length(used)
    sealed = memory(aead.sealed_length(plain))
    sealer = sealer_of(key, context.bind(plain), head, random)
    sealer.into(_asking(may_go_on, (head, *encoded.coded.parts(), *padding(used))), sealed)
    return sealed


def _asking(may_go_on: Callable[[], None], pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    for piece in pieces:
        may_go_on()
        yield piece


def _seal_to_file(  # noqa: PLR0917
    key: Secret,
    context: BodyContext,
    head: bytes,
    coded: Spool,
    random: Random,
    space: FreeSpace,
    may_go_on: Callable[[], None],
) -> SealedFile:
    plain = padded_length(len(head) + coded.size)
    space.require(2 * aead.sealed_length(plain))  # the copy in the log takes as much again
    sealer = sealer_of(key, context.bind(plain), head, random)
    digest, length = hashlib.sha256(), 0
    with sealed_file(space) as (path, out):
        for part in _parts(sealer, _asking(may_go_on, _plain(head, coded))):
            space.require(len(part))  # others write too
            digest.update(part)
            length += out.write(part)
    return SealedFile(path, length, digest.digest())


def _plain(head: bytes, coded: Spool) -> Iterator[Buffer]:
    yield head
    for start in range(0, coded.size, frames.FRAME_BYTES):
        yield coded.read(start, start + frames.FRAME_BYTES)
    yield from padding(len(head) + coded.size)


def _parts(sealer: aead.Sealer, plain: Iterable[Buffer]) -> Iterator[bytes]:
    yield sealer.header
    yield from map(sealer.update, plain)
    yield sealer.finish()


def sealer_of(key: Secret, context: bytes, head: bytes, random: Random) -> aead.Sealer:
    """Return the sealer of a body. Its salt depends on `head`, the plain bytes before the frames: on the SHA-256 of the
    data set, the meta, and how long every coded frame is. What is in the frames follows from the data set."""
    return aead.Sealer(key, context, aead.fresh_salt(key, context, head, random))


class BodyReader:
    """An open body; reads and decrypts on demand.

    `read_sealed(offset, length)` returns bytes of the sealed body, `total` is its length. Use as a context manager.
    Every method raises IntegrityError for bytes that are not what was sealed; nothing unverified is returned.
    """

    def __init__(
        self, key: Secret, context: BodyContext, read_sealed: Callable[[int, int], Buffer], total: int
    ) -> None:
        self._read_sealed = read_sealed
        self.plain_length = plain = aead.plain_length(total)
        self._opener = aead.Opener(key, context.bind(plain), bytes(read_sealed(0, aead.HEADER)), total)
        first = self._open(0, min(plain, aead.CHUNK))
        self._head = head = Head.parse(first)
        self.length, self.sha256 = head.length, head.sha256
        if head.frames_at > plain:
            raise FormatError("a body has impossible lengths")
        begin = first if head.frames_at <= len(first) else self._open(0, head.frames_at)
        self.meta = bytes(begin[HEAD.size : head.table_at])
        rows = list(FRAME.iter_unpack(begin[head.table_at : head.frames_at]))
        self._plain_at = [0, *accumulate(length for _, length in rows)]
        self._coded_at: list[int] = list(accumulate((n for n, _ in rows), initial=head.frames_at))
        if self._plain_at[-1] != self.length or padded_length(self.used) != plain:
            raise FormatError("the frames of a body do not add up")
        if any(length > frames.FRAME_BYTES or coded > 2 * frames.FRAME_BYTES for coded, length in rows):
            raise FormatError("a frame of a body is too long")
        self._cached: OrderedDict[int, bytes] = OrderedDict()

    @property
    def used(self) -> int:
        """The bytes of the plain body without its padding."""
        return self._coded_at[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._cached.clear()

    def chunks(self, *, fast: bool = False) -> Iterator[bytes]:
        """The data set frame by frame. Its digests and the padding are checked before the last frame is returned.

        `fast` leaves the SHA-256 out where the head has an XXH3-64: what was sealed is authenticated either way, and a
        fault in decoding it is found by either (docs/adr/0045-fast-digest.md).
        """
        has_xxh3 = self._head.digest_kind == XXH3_64
        sha256 = None if fast and has_xxh3 else hashlib.sha256()
        xxh3 = xxhash.xxh3_64() if has_xxh3 else None
        last = len(self._plain_at) - 2
        for index, coded in enumerate(self._coded()):
            frame = self._decoded(index, coded)
            if sha256 is not None:
                sha256.update(frame)
            if xxh3 is not None:
                xxh3.update(frame)
            if index == last:
                self._require(sha256, xxh3)
            yield frame
        if last < 0:
            self._require(sha256, xxh3)

    def _require(self, sha256: "hashlib._Hash | None", xxh3: "xxhash.xxh3_64 | None") -> None:
        """Raise IntegrityError unless the digests that were computed are those in the head."""
        if sha256 is not None and sha256.digest() != self.sha256:
            raise IntegrityError("the data set does not match its SHA-256", hint="run coffer verify --level decrypt")
        if xxh3 is not None and xxh3.digest() != self._head.digest:
            raise IntegrityError("the data set does not match its XXH3-64", hint="run coffer verify --level decrypt")

    def _coded(self) -> Iterator[memoryview]:
        """Every coded frame. Small frames are opened together: a chunk that holds several is decrypted once."""
        index, at = 0, self._coded_at
        while index < len(at) - 1:
            beyond = max(bisect_right(at, at[index] + frames.FRAME_BYTES) - 1, index + 1)
            base = at[index]
            opened = self._open(base, at[beyond]) if beyond < len(at) - 1 else self._opened_to_end(base)
            yield from (opened[start - base : stop - base] for start, stop in pairwise(at[index : beyond + 1]))
            index = beyond
        if len(at) == 1:
            self._opened_to_end(at[0])

    def _opened_to_end(self, start: int) -> memoryview:
        """The plain body from `start` on, at least to the end of the last frame. Raises FormatError if anything but
        zeros follows that. The first piece of padding is opened with it, because most often it is in the same chunk.
        """
        stop = min(self.used + frames.FRAME_BYTES, self.plain_length)
        opened = self._open(start, stop)
        _require_zeros(opened[self.used - start :])
        for at in range(stop, self.plain_length, frames.FRAME_BYTES):
            _require_zeros(self._open(at, min(at + frames.FRAME_BYTES, self.plain_length)))
        return opened

    def plain(self, meta: bytes) -> Iterator[Buffer]:
        """The plaintext of the whole body in pieces, with `meta` in place of its own: the input for sealing it again.
        It has `plain_length_with(meta)` bytes."""
        yield self.plain_head(meta)
        for start in range(self._head.frames_at, self.used, frames.FRAME_BYTES):
            yield self._open(start, min(start + frames.FRAME_BYTES, self.used))
        yield from padding(self._used_with(meta))

    def plain_head(self, meta: bytes) -> bytes:
        """The plaintext before the frames, with `meta` in place of its own."""
        table = self._open(self._head.table_at, self._head.frames_at)
        return self._head._replace(meta_length=len(meta)).pack() + meta + bytes(table)

    def plain_length_with(self, meta: bytes) -> int:
        """The number of bytes that `plain` returns, padding included."""
        return padded_length(self._used_with(meta))

    def _used_with(self, meta: bytes) -> int:
        return self.used - len(self.meta) + len(meta)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the data set, fewer at the end."""
        stop = min(stop, self.length)
        out = []
        while start < stop:
            index = self._index_of(start)
            frame = self._cached.get(index)
            if frame is None:
                frame = self._cached[index] = self._frame(index)
                if len(self._cached) > _CACHED_FRAMES:
                    self._cached.popitem(last=False)
            base = self._plain_at[index]
            part = frame[start - base : stop - base]
            out.append(part)
            start += len(part)
        return b"".join(out)

    def _index_of(self, at: int) -> int:
        return bisect_right(self._plain_at, at) - 1

    def _frame(self, index: int) -> bytes:
        return self._decoded(index, self._open(self._coded_at[index], self._coded_at[index + 1]))

    def _decoded(self, index: int, coded: memoryview) -> bytes:
        return frames.decode(coded, self._plain_at[index + 1] - self._plain_at[index])

    def _open(self, start: int, stop: int) -> memoryview:
        return self._opener.open_range(self._read_sealed, start, stop)


def _require_zeros(rest: memoryview) -> None:
    if bytes(rest) != bytes(len(rest)):
        raise FormatError("the padding of a body is not zeros")
