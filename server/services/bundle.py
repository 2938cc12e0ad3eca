"""The services of an open archive, as doors use them: those of a reader, and those of the writer.

Rule: each service knows the archive and no other service. A command that needs one service creates only that one.
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
    """An open archive and the services that read it."""

    archive: ReadableArchive
    finder: Finder
    retriever: Retriever


@dataclass(frozen=True, slots=True)
class WriterServices(ReaderServices):
    """The archive as opened by its writer, with all services. One for each open archive: its committer is the only
    way into the log."""

    archive: WritableArchive
    committer: Committer
    ingest: Ingest

    @classmethod
    def of(cls, archive: WritableArchive) -> Self:
        """Create the services of an open archive, which the caller closes."""
        committer = Committer(archive.keyring, archive.log, archive.reader, archive.index, archive.metrics)
        ingest = Ingest(archive.intake, _LocalCommitPort(committer), archive.policy, archive.index.rules)
        return cls(archive, Finder(archive), Retriever(archive), committer, ingest)


class _LocalCommitPort:
    """The `CommitPort` for objects received by this process, as by `coffer put`."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self.study_key = committer.study_key
        self.require_key = committer.require_key

    def memory(self, length: int) -> memoryview:
        return own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        return self._committer.commit([Parcel(sealed, body)])[0]
