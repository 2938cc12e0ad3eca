"""Fill an archive with header-only studies through the archive's own way in, many at once.

    python -m bench.fill FOLDER STUDIES [--first N]

Each object passes `server.services.store` and `server.engine.commit` as one that a C-STORE brings; only the syncs are
shared, of five hundred keys and of five hundred records. Prints studies a second as it goes.
"""

import argparse
import time
from pathlib import Path
from typing import Final

from bench.studies import HeaderOnly, header_only
from coffer.archive.body.sealed_body import own_memory
from coffer.archive.format.entry import SealedFile
from coffer.index.instance.identity import PartId
from coffer.keys.crypto.study_key import StudyKey
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Http, Keys, Logging
from coffer.server.engine.commit import Committed, Parcel, Sealed
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.observe import logs
from coffer.server.services.bundle import WriterServices
from coffer.server.services.store import Ingest

_GROUP: Final = 500


def config_of(folder: Path) -> Config:
    """The configuration of a filled archive: everything in one folder, nothing listens."""
    return Config(
        archive=folder / "archive", http=Http(enabled=False), keys=Keys(key_file=folder / "coffer.key"),
        integrity=Integrity(mark=folder / "coffer.mark"),
    )  # fmt: skip


class _Gathering:
    """A `CommitPort` that collects what it is given instead of committing it."""

    def __init__(self, keys: dict[PartId, StudyKey]) -> None:
        self._keys = keys
        self.parcels: list[Parcel] = []

    def study_key(self, part: PartId) -> StudyKey:
        """A study's key, made before."""
        return self._keys[part]

    def require_key(self, key_id: bytes) -> None:
        """Nothing takes a key away meanwhile."""

    def memory(self, length: int) -> memoryview:
        """Memory that is kept till then."""
        return own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        """Keep it; it is durable after the group's commit."""
        self.parcels.append(Parcel(sealed, body))
        return Committed()


def _store(services: WriterServices, items: list[HeaderOnly]) -> None:
    archive = services.archive
    parts = [PartId(item.study_uid, item.patient_id) for item in items]
    port = _Gathering(dict(zip(parts, services.committer.study_keys(parts), strict=True)))
    ingest = Ingest(archive.intake, port, archive.policy, archive.index.rules)
    for item in items:
        reception = ingest.begin(item.request())
        reception.write(item.data)
        assert reception.finish().error is None
    done = services.committer.commit(port.parcels)
    assert not any(each.stale or each.duplicate for each in done)


def fill(services: WriterServices, first: int, count: int) -> None:
    """Store studies [first, first + count); durable on return."""
    for start in range(first, first + count, _GROUP):
        _store(services, [header_only(n) for n in range(start, min(start + _GROUP, first + count))])
    services.archive.index.flush()


def main() -> None:
    """Make the archive where there is none, and fill it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("studies", type=int)
    parser.add_argument("--first", type=int, default=0, help="the number of the first study")
    args = parser.parse_args()
    config = config_of(args.folder)
    logs.configure(Logging(level="error"))
    if not config.archive.exists():
        args.folder.mkdir(parents=True, exist_ok=True)
        create_archive(config)
    with open_writer(config) as archive:
        services = WriterServices.of(archive)
        at, end = args.first, args.first + args.studies
        while at < end:
            step, started = min(20_000, end - at), time.perf_counter()
            fill(services, at, step)
            at += step
            print(f"{at} studies, {step / (time.perf_counter() - started):,.0f} a second", flush=True)


if __name__ == "__main__":
    main()
