"""Seal a stored body again under another key: the same data set inside, another key, content id and salt outside.

Rule: nothing is coded again. The old body is opened and its data set checked against its SHA-256; the new body is
opened and compared before it is returned. No plaintext leaves memory.
"""

import hashlib
from collections.abc import Callable

from coffer.archive.body.sealed_body import BodyContext, BodyReader, sealer_of
from coffer.archive.body.spool import sealed_file
from coffer.archive.format.entry import SealedFile
from coffer.archive.store.free_space import FreeSpace
from coffer.archive.store.source import FileSource
from coffer.keys.crypto import aead
from coffer.keys.crypto.hedge import Random
from coffer.keys.errors import IntegrityError
from coffer.keys.memory.secret import Secret

__all__ = ["reseal"]


def reseal(  # noqa: PLR0917  # like `archive.body.sealed_body.seal_body`
    body: BodyReader,
    meta: bytes,
    key: Secret,
    context: BodyContext,
    random: Random,
    space: FreeSpace,
    *,
    in_memory: bool,
) -> bytes | SealedFile:
    """Seal the contents of `body` under `key` and `context`, with `meta` in place of its old meta.

    With `in_memory` the sealed bytes are returned; otherwise they are in a new file in
    the folder of `space`, which the caller must delete. Raises IntegrityError if the body is not what was sealed,
    UnavailableError if the disk does not take the file.
    """
    for _ in body.chunks():
        pass
    length_inside = body.plain_length_with(meta)
    sealer = sealer_of(key, context.bind(length_inside), body.plain_head(meta), random)
    if in_memory:
        sealed = sealer.header + b"".join(map(sealer.update, body.plain(meta))) + sealer.finish()
        _compare(body, meta, key, context, lambda at, length: sealed[at : at + length], len(sealed))
        return sealed
    space.require(2 * aead.sealed_length(length_inside))  # the copy in the log takes as much again
    digest, length = hashlib.sha256(), 0
    with sealed_file(space) as (path, out):

        def put(part: bytes) -> None:
            nonlocal length
            space.require(len(part))
            digest.update(part)
            length += out.write(part)

        put(sealer.header)
        for part in body.plain(meta):
            put(sealer.update(part))
        put(sealer.finish())
        out.flush()
        _compare(body, meta, key, context, FileSource(out.fileno()).read, length)
    return SealedFile(path, length, digest.digest())


def _compare(  # noqa: PLR0917
    body: BodyReader, meta: bytes, key: Secret, context: BodyContext, read: Callable[[int, int], bytes], total: int
) -> None:
    """Open the new body: `chunks` checks its SHA-256, so the two data sets are identical bit for bit."""
    with BodyReader(key, context, read, total) as again:
        for _ in again.chunks():
            pass
        if (again.sha256, again.length, again.meta) != (body.sha256, body.length, meta):
            raise IntegrityError("an object that was sealed again is not the same", hint="report this bug in Coffer")
