"""A real archive and what it acknowledged, to be held against what it gives back after anything that can happen."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from coffer.server.access.principal import Principal
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.engine.archive import ReadableArchive, WritableArchive
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_for_service, open_reading, open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from coffer.server.services.find import Finder
from coffer.server.services.retrieve import Retriever
from tests.server.filled import status
from tests.services import services

STUDY, INSTANCE, LEVEL = 0x0020000D, 0x00080018, 0x00080052
CALLER = Principal.peer("TESTER")
_CT, _EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SEGMENT_BYTES = 3_000  # a segment is full after a few objects


class Kept:
    """An archive below `base`, and every object of which somebody was told that it is stored."""

    def __init__(self, base: Path, acknowledged: dict[str, bytes] | None = None) -> None:
        self.base = base
        self.acknowledged = {} if acknowledged is None else acknowledged
        mark = Path(os.environ["XDG_STATE_HOME"], f"{'-'.join(base.parts[1:])}.mark")  # on another volume
        self.config = Config(
            archive=base / "archive", http=Http(enabled=False), keys=Keys(key_file=base / "key"),
            storage=Storage(reserve_bytes=0, segment_bytes=SEGMENT_BYTES), integrity=Integrity(mark=mark),
        )  # fmt: skip

    @classmethod
    def create(cls, base: Path) -> "Kept":
        """A new archive."""
        base.mkdir(parents=True, exist_ok=True)
        made = cls(base)
        create_archive(made.config)
        return made

    @property
    def archive(self) -> Path:
        return self.config.archive

    @contextmanager
    def opened(self, *, write: bool = True, may_refuse: bool = False) -> Iterator[Any]:
        opening = open_reading if not write else open_for_service if may_refuse else open_writer
        with opening(self.config) as engine:
            yield engine

    def put(self, engine: WritableArchive, study: int, *numbers: int, padding: int = 200) -> list[int]:
        """Store objects of a study; returns the DIMSE statuses. What was acknowledged is remembered."""
        statuses = []
        for number in numbers:
            ds = sample_study()[0]
            del ds.PixelData
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{study}", f"1.2.{study}.1"
            ds.SOPInstanceUID, ds.ImageComments = f"1.2.{study}.1.{number}", f"{number:03d}" * padding
            data = encoded(ds)
            reception = services(engine).ingest.begin(StoreRequest(_CT, ds.SOPInstanceUID, _EXPLICIT_LE, CALLER))
            reception.write(data)
            outcome = reception.finish()
            statuses.append(status(outcome))
            if outcome.error is None:
                self.acknowledged[ds.SOPInstanceUID] = data
        return statuses

    def copy(self, to: Path) -> "Kept":
        """What a kill leaves of the archive as it is now."""
        shutil.copytree(self.base, to)
        shutil.copy(self.config.integrity.mark, Kept(to).config.integrity.mark)
        return Kept(to, dict(self.acknowledged))

    def with_config(self, **storage: int) -> "Kept":
        """The same archive with other settings of `[storage]`."""
        self.config = msgspec.structs.replace(
            self.config, storage=msgspec.structs.replace(self.config.storage, **storage)
        )
        return self

    def missing(self, engine: ReadableArchive) -> set[str]:
        """The acknowledged objects that are not found, or do not come back as they were."""
        assert engine.shortfall is None
        rows = Finder(engine).rows({LEVEL: ("STUDY",), STUDY: ()}, model="study", caller=CALLER)
        studies = {str(row[STUDY][0]) for row in rows}
        lost = set()
        for uid, data in self.acknowledged.items():
            found = Retriever(engine).instances({INSTANCE: (uid,)}, CALLER)
            if uid.rsplit(".", 2)[0] not in studies or [b"".join(each.open()) for each in found] != [data]:
                lost.add(uid)
        return lost

    def require_all(self, *, write: bool = False) -> None:
        """Everything acknowledged is found, and comes back bit for bit."""
        with self.opened(write=write) as engine:
            assert self.missing(engine) == set()

    def lost_and_found(self) -> list[str]:
        return sorted(path.name for path in (self.archive / "lost+found").iterdir())
