"""An open archive with the services that doors use: the one thing that commands, the listener and the demo open."""

from typing import Self

from server.config import Config
from server.find import Finder
from server.ingest import Ingest
from server.metrics import Metrics
from server.retrieve import Retriever
from server.vault import ArchiveStats, Vault

__all__ = ["ArchiveStats", "Engine"]


class Engine(Vault):
    """A vault and the ways in and out of it."""

    def __init__(self, config: Config, *, write: bool, metrics: Metrics | None = None) -> None:
        super().__init__(config, write=write, metrics=metrics)
        self.ingest = Ingest(self)
        self.finder = Finder(self)
        self.retriever = Retriever(self)

    @classmethod
    def open(cls, config: Config, *, write: bool = False, metrics: Metrics | None = None) -> Self:
        """Open the archive, with `write` as its one writer. Raises as `Vault`."""
        return cls(config, write=write, metrics=metrics)
