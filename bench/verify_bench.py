"""The rates of `coffer verify` on this machine: records per second, GB/s of bodies, MB/s of decrypted data sets.

    python bench/verify_bench.py [--folder DIR] [--jobs N]

All data is in the page cache; the rate of the disk is a second limit. The best of three runs counts.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from coffer.archive.format.entry import Entry
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.memory.secret import Secret
from coffer.server.access.principal import Principal
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Http, Keys, Logging, Storage
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.main.demo import encoded
from coffer.server.maintenance.deep_check import open_records
from coffer.server.observe import logs
from coffer.server.services.api import StoreRequest
from coffer.server.services.bundle import WriterServices

ORIGIN = "bench/verify"


class Amount(NamedTuple):
    """Records with small and with large bodies, and CT images."""

    small: int
    large: int
    objects: int


QUICK, FULL = Amount(5000, 100, 3), Amount(600_000, 30_000, 300)
CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def log_of(path: Path, records: int, body_bytes: int) -> ArchiveFolder:
    """A signed log of records of one size, in segments of 1 GiB, the default."""
    signer = CheckpointSigner(Secret(bytes(32)))
    ArchiveFolder.prepare(path)
    folder = ArchiveFolder(path, bytes(16), ORIGIN, signer.vkey(ORIGIN))
    begin(folder, partial(signer.sign_note, ORIGIN))
    folder.commit()
    writer = LogWriter(folder, sign=signer.sign_statement, now_ms=lambda: 1, segment_bytes=1 << 30)
    body = os.urandom(body_bytes)
    for start in range(0, records, 1000):
        writer.append([Entry(1, bytes(16), 0, bytes(32), body)] * (min(start + 1000, records) - start))
    writer.checkpoint(partial(signer.sign_note, ORIGIN))
    writer.close()
    return folder


def archive_of(path: Path, objects: int) -> Config:
    """A whole archive of CT images that look like a noisy phantom, 512 x 512 pixels of 16 bits."""
    config = Config(
        archive=path, http=Http(enabled=False), keys=Keys(key_file=path.with_suffix(".key")),
        storage=Storage(segment_bytes=32 << 20, reserve_bytes=0), integrity=Integrity(mark=path.with_suffix(".mark")),
    )  # fmt: skip
    create_archive(config)
    dice = np.random.default_rng(1)
    y, x = np.mgrid[0:512, 0:512]
    disc = 1000.0 * ((x - 256) ** 2 + (y - 256) ** 2 < 200**2)
    with open_writer(config) as archive:
        ingest = WriterServices.of(archive).ingest
        for number in range(objects):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = CT, f"2.25.9{number:06d}"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.8", "2.25.81"
            ds.Rows = ds.Columns = 512
            ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 16, 12, 11
            ds.PixelRepresentation, ds.PhotometricInterpretation = 0, "MONOCHROME2"
            ds.PixelData = (disc + dice.normal(100, 12, disc.shape)).astype("<u2").tobytes()
            reception = ingest.begin(StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("BENCH")))
            reception.write(encoded(ds))
            assert reception.finish().error is None
    return config


def best(make: partial[Verifier], clock: Callable[[], float]) -> tuple[float, Verifier]:
    """Seconds of the fastest of three clean verifications."""
    times = []
    for _ in range(3):
        verifier, started = make(), clock()
        assert list(verifier.findings()) == []
        times.append(clock() - started)
    return min(times), verifier


def verifying(work: Path, amount: Amount, jobs: int = 1) -> Iterator[dict[str, Any]]:
    """A row for each level and kind of log. In one process, seconds are CPU time: other processes do not count."""
    clock = time.process_time if jobs == 1 else time.perf_counter
    small, large = log_of(work / "small", amount.small, 64), log_of(work / "large", amount.large, 100_000)
    for level in (VerifyLevel.HEADERS, VerifyLevel.BODIES):
        for bodies, folder in (("64 bytes", small), ("100 KB", large)):
            seconds, verifier = best(partial(Verifier, folder, Options(level, jobs=jobs)), clock)
            yield {
                "bench": "verify", "level": level.name.lower(), "bodies": bodies, "jobs": jobs,
                "records_s": round(verifier.summary.records / seconds),
                "gb_s": round(verifier.summary.bytes / seconds / 1e9, 2),
            }  # fmt: skip
    config = archive_of(work / "whole", amount.objects)
    options, whole = Options(VerifyLevel.DECRYPT, jobs=jobs), ArchiveFolder.open(config.archive)
    seconds, _ = best(partial(Verifier, whole, options, open_records=partial(open_records, config)), clock)
    received = amount.objects * 512 * 512 * 2
    yield {
        "bench": "verify", "level": "decrypt", "bodies": "CT images", "jobs": jobs,
        "mb_s": round(received / seconds / 1e6),
    }  # fmt: skip


def main() -> None:
    """Measure in a temporary folder."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, help="where to put 3.5 GB for a moment")
    options.add_argument("--jobs", type=int, default=1)
    chosen = options.parse_args()
    logs.configure(Logging(level="error"))
    work = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        for row in verifying(work, FULL, chosen.jobs):
            print(" ".join(f"{key}={value}" for key, value in row.items() if key != "bench"))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
