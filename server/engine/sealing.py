"""Hold and seal incoming objects: memory and folder for their bytes, limits for their headers, and the rules that
assign them to patients.

Rule: it needs no writer and no index, so any number of processes may seal for one archive. The result is a sealed body;
`server.engine.commit` appends it to the log.
"""

import os
from collections.abc import Callable

from coffer.archive.body.frame_encoder import EncoderPool, FrameEncoder
from coffer.archive.body.sealed_body import BodyContext, Memory, seal_body
from coffer.archive.body.spool import MemoryBudget, Spool
from coffer.archive.format.entry import SealedFile
from coffer.archive.format.record import Kind
from coffer.archive.store.free_space import FreeSpace
from coffer.index.dicom.elements import HeaderLimits
from coffer.index.instance.identity import Rules
from coffer.keys.crypto.study_key import StudyKey
from coffer.server.config.settings import Config, Limits

_MOST_CODERS = 2


class Intake:
    """Drafts and seals the objects of one process. Thread-safe."""

    def __init__(self, limits: Limits, archive_id: bytes, room: FreeSpace, *, share: int = 1) -> None:
        """`room` is the spool folder; `share` processes divide the memory for incoming objects."""
        self._limits = limits
        self._archive_id = archive_id
        self._room = room
        self._budget = MemoryBudget(limits.memory_total_bytes // share)
        self._coders = EncoderPool(min(os.cpu_count() or 1, _MOST_CODERS))
        self.header_limits = header_limits_of(limits)

    def new_draft(self) -> FrameEncoder:
        """A buffer for one incoming object: its frames in memory up to the limit, else encrypted on disk."""
        coded = Spool(self._room, self._budget, self._limits.memory_object_bytes)
        return FrameEncoder(coded, self._coders, self._limits.max_object_bytes)

    def seal(  # noqa: PLR0917  # as `seal_body`
        self,
        key: StudyKey,
        content_id: bytes,
        meta: bytes,
        draft: FrameEncoder,
        memory: Memory,
        may_go_on: Callable[[], None],
    ) -> memoryview | SealedFile:
        """Seal a finished draft under its study's key, as `seal_body`. A SealedFile is the caller's to delete."""
        context = BodyContext(self._archive_id, key.key_id, content_id, Kind.OBJECT)
        return seal_body(key.blob, context, meta, draft, os.urandom, self._room, memory, may_go_on)


def header_limits_of(limits: Limits) -> HeaderLimits:
    """The configured limits of header parsing."""
    return HeaderLimits(
        bytes=limits.header_bytes,
        depth=limits.header_depth,
        elements=limits.header_elements,
        seconds=limits.header_seconds,
    )


def rules_of(config: Config) -> Rules:
    """The configured rules that distinguish patients and select the served version."""
    patients, versions = config.patients, config.versions
    return Rules(patients.default_issuer, patients.default_issuer_by_ae, versions.serve, versions.serve_by_ae)
