"""An open archive with the services that doors use: the one thing that commands, the listener and the demo open."""

from typing import Self

from coffer.archive.body.sealed_body import own_memory
from coffer.archive.format.entry import SealedFile
from coffer.keys.errors import LockedError
from coffer.server.config.settings import Config
from coffer.server.engine.commit import Committed, Committer, Parcel, Sealed
from coffer.server.engine.vault import Vault, Waiting
from coffer.server.observe.metrics import Metrics
from coffer.server.services.find import Finder
from coffer.server.services.retrieve import Retriever
from coffer.server.services.store import Ingest

__all__ = ["Engine"]


class Engine(Vault):
    """A vault and the ways in and out of it."""

    def __init__(
        self,
        config: Config,
        *,
        write: bool,
        metrics: Metrics | None = None,
        may_refuse: bool = False,
        waiting: Waiting | None = None,
        change_keys: bool = False,
        fresh_index: bool = False,
    ) -> None:
        super().__init__(
            config, write=write, metrics=metrics, may_refuse=may_refuse, waiting=waiting, change_keys=change_keys,
            fresh_index=fresh_index,
        )  # fmt: skip
        if write:
            self.committer = Committer(self.keyring, self.log, self.index, self.metrics)
            self.ingest = Ingest(self.intake, _LocalCommitPort(self.committer), self.policy, self.index.rules)
        self.finder = Finder(self)
        self.retriever = Retriever(self)

    @classmethod
    def open(
        cls,
        config: Config,
        *,
        write: bool = False,
        metrics: Metrics | None = None,
        may_refuse: bool = False,
        waiting: Waiting | None = None,
        fresh_index: bool = False,
    ) -> Self:
        """Open the archive, with `write` as its one writer; see `Vault`, which also says what is raised."""
        return cls(
            config, write=write, metrics=metrics, may_refuse=may_refuse, waiting=waiting, fresh_index=fresh_index
        )

    @classmethod
    def open_for_keys(cls, config: Config) -> Self:
        """Open the archive to change its keys: as its writer, or beside the one that runs. Raises as `Vault`."""
        try:
            return cls(config, write=True)
        except LockedError:
            return cls(config, write=False, change_keys=True)


class _LocalCommitPort:
    """The `CommitPort` for objects that come in through this process: `coffer put`."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self.study_key = committer.study_key

    def memory(self, length: int) -> memoryview:
        return own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        return self._committer.commit([Parcel(sealed, body)])[0]
