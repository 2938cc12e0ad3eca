"""The services of an open archive, as doors use them: what reading it offers, and what only its writer can.

Rule: a value of parts that know the archive and not each other. A command that needs one service makes that one.
"""

from dataclasses import dataclass
from typing import Self

from coffer.archive.body.sealed_body import own_memory
from coffer.archive.format.entry import SealedFile
from coffer.server.engine.archive import ReadableArchive, WritableArchive
from coffer.server.engine.commit import Committed, Committer, Parcel, Sealed
from coffer.server.services.find import Finder
from coffer.server.services.retrieve import Retriever
from coffer.server.services.store import Ingest

__all__ = ["ReaderServices", "WriterServices"]


@dataclass(frozen=True, slots=True)
class ReaderServices:
    """An open archive and the ways out of it."""

    archive: ReadableArchive
    finder: Finder
    retriever: Retriever


@dataclass(frozen=True, slots=True)
class WriterServices(ReaderServices):
    """The archive as its writer has it, and the ways in and out of it. One for each open archive: its committer knows
    which keys no record has been written under yet."""

    archive: WritableArchive
    committer: Committer
    ingest: Ingest

    @classmethod
    def of(cls, archive: WritableArchive) -> Self:
        """Make them over an open archive, which stays the caller's to close."""
        committer = Committer(archive.keyring, archive.log, archive.index, archive.metrics)
        ingest = Ingest(archive.intake, _LocalCommitPort(committer), archive.policy, archive.index.rules)
        return cls(archive, Finder(archive), Retriever(archive), committer, ingest)


class _LocalCommitPort:
    """The `CommitPort` for objects that come in through this process: `coffer put`."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self.study_key = committer.study_key

    def memory(self, length: int) -> memoryview:
        return own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        return self._committer.commit([Parcel(sealed, body)])[0]
