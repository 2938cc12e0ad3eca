"""The first bytes of a plain body: what it holds, how long its parts are, and how its data set is checked.

Rule: pure. Integers are big endian; the layout is that of FORMAT-BODY.md.
"""

import struct
from typing import Final, NamedTuple, Self

from coffer.archive.codec.frames import CODEC_FRAMES
from coffer.keys.buffer import Buffer
from coffer.keys.errors import FormatError

__all__ = ["FRAME", "HEAD", "MAX_FRAMES", "MAX_META_BYTES", "NO_DIGEST", "VERSION", "XXH3_64", "Head"]

VERSION: Final = 2
HEAD: Final = struct.Struct(">BHQ32sB8sII")  # version, codec, then the fields of Head in their order
FRAME: Final = struct.Struct(">II")  # coded length, plain length
MAX_META_BYTES: Final = 1 << 20
MAX_FRAMES: Final = 1 << 26
NO_DIGEST, XXH3_64 = 0, 1
_NO_DIGEST: Final = bytes(8)


class Head(NamedTuple):
    """A body's head: bytes of the data set, its SHA-256, a fast digest of it, bytes of the meta, number of frames."""

    length: int
    sha256: bytes
    digest_kind: int
    digest: bytes
    meta_length: int
    frames: int

    @classmethod
    def of(cls, length: int, sha256: bytes, xxh3: bytes, meta_length: int, frames: int) -> Self:
        """The head of a new body; `xxh3` is the XXH3-64 of the data set, big endian."""
        return cls(length, sha256, XXH3_64, xxh3, meta_length, frames)

    def pack(self) -> bytes:
        """The head's bytes, as the current version."""
        return HEAD.pack(VERSION, CODEC_FRAMES, *self)

    @classmethod
    def parse(cls, plain: Buffer) -> Self:
        """The head at the start of `plain`. Raises FormatError."""
        if plain and plain[0] != VERSION:  # before anything that another version may have in another place
            raise FormatError(
                "the object was written by another version of Coffer", hint="open it with the version that wrote it"
            )
        if len(plain) < HEAD.size:
            raise FormatError("a body is too short")
        _, codec, *fields = HEAD.unpack_from(plain)
        head = cls(*fields)
        if codec != CODEC_FRAMES or head.digest_kind not in {NO_DIGEST, XXH3_64}:
            raise FormatError("the codec or the digest of a body is unknown", hint="open it with a newer Coffer")
        if head.digest_kind == NO_DIGEST and head.digest != _NO_DIGEST:
            raise FormatError("a body without a digest has one")
        if head.meta_length > MAX_META_BYTES or head.frames > MAX_FRAMES:
            raise FormatError("a body has impossible lengths")
        return head

    @property
    def table_at(self) -> int:
        """The offset of the seek table, behind the meta."""
        return HEAD.size + self.meta_length

    @property
    def frames_at(self) -> int:
        """The offset of the first coded frame, behind the seek table."""
        return self.table_at + self.frames * FRAME.size
