"""What `coffer verify` reaches on this machine: records a second, GB/s of bodies, MB/s of data sets decrypted.

    python bench/verify_bench.py [--folder DIR] [--jobs N]

Everything lies in the page cache; the disk's own rate is a second limit. Rates are of wall time, the best of three.
"""

import argparse
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from archive.folder import ArchiveFolder
from archive.log import Entry, LogWriter
from archive.verify import Level, Options, Verifier
from keys.secret import Secret
from keys.signing import CheckpointSigner
from server import logs
from server.config import Config, Http, Keys, Log, Storage
from server.demo import encoded
from server.dimse.services import Caller, StoreRequest
from server.engine import Engine
from server.founding import create_archive
from server.unsealing import open_records

ORIGIN = "bench/verify"
CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def log_of(path: Path, records: int, body_bytes: int) -> ArchiveFolder:
    """A signed log of records of one size, in segments of 256 MiB."""
    signer = CheckpointSigner(Secret(bytes(32)))
    ArchiveFolder.prepare(path)
    ArchiveFolder(path, bytes(16), ORIGIN, signer.vkey(ORIGIN)).commit()
    folder = ArchiveFolder.open(path)
    writer = LogWriter(folder, now_ms=lambda: 1, segment_bytes=256 << 20)
    body = os.urandom(body_bytes)
    for start in range(0, records, 1000):
        writer.append([Entry(1, bytes(16), 0, bytes(32), body, n) for n in range(start, min(start + 1000, records))])
    writer.checkpoint(partial(signer.sign_note, ORIGIN))
    writer.close()
    return folder


def archive_of(path: Path, objects: int) -> Config:
    """A whole archive of CT images that look like a noisy phantom, 512 x 512 pixels of 16 bits."""
    config = Config(
        archive=path, http=Http(enabled=False), keys=Keys(key_file=path.with_suffix(".key")),
        storage=Storage(segment_bytes=32 << 20, reserve_bytes=0),
    )  # fmt: skip
    create_archive(config)
    dice = np.random.default_rng(1)
    y, x = np.mgrid[0:512, 0:512]
    disc = 1000.0 * ((x - 256) ** 2 + (y - 256) ** 2 < 200**2)
    with Engine.open(config, write=True) as engine:
        for number in range(objects):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = CT, f"2.25.9{number:06d}"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.8", "2.25.81"
            ds.Rows = ds.Columns = 512
            ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 16, 12, 11
            ds.PixelRepresentation, ds.PhotometricInterpretation = 0, "MONOCHROME2"
            ds.PixelData = (disc + dice.normal(100, 12, disc.shape)).astype("<u2").tobytes()
            reception = engine.ingest.begin(StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Caller("BENCH")))
            reception.write(encoded(ds))
            assert reception.finish().status == 0
    return config


def best(make: partial[Verifier]) -> tuple[float, Verifier]:
    """Seconds of the fastest of three clean verifications."""
    times = []
    for _ in range(3):
        verifier, started = make(), time.perf_counter()
        assert list(verifier.findings()) == []
        times.append(time.perf_counter() - started)
    return min(times), verifier


def measure(work: Path, jobs: int) -> None:
    """Print a row per level."""
    small, large = log_of(work / "small", 600_000, 64), log_of(work / "large", 6_000, 500_000)
    config, objects = archive_of(work / "whole", 300), 300
    rows = []
    seconds, verifier = best(partial(Verifier, small, Options(Level.HEADERS, jobs=jobs)))
    rows.append(("headers, bodies of 64 bytes", f"{verifier.summary.records / seconds:,.0f} records/s"))
    seconds, verifier = best(partial(Verifier, large, Options(Level.HEADERS, jobs=jobs)))
    rows.append(("headers, bodies of 500 KB", f"{verifier.summary.records / seconds:,.0f} records/s"))
    seconds, verifier = best(partial(Verifier, small, Options(Level.BODIES, jobs=jobs)))
    rows.append(("bodies of 64 bytes", f"{verifier.summary.records / seconds:,.0f} records/s"))
    seconds, verifier = best(partial(Verifier, large, Options(Level.BODIES, jobs=jobs)))
    rows.append(("bodies of 500 KB", f"{verifier.summary.bytes / seconds / 1e9:.2f} GB/s"))
    keys = partial(open_records, config)
    whole = ArchiveFolder.open(config.archive)
    seconds, verifier = best(partial(Verifier, whole, Options(Level.DECRYPT, jobs=jobs), open_records=keys))
    received = objects * 512 * 512 * 2
    rows.append(("decrypt, CT images", f"{received / seconds / 1e6:,.0f} MB/s of data sets"))
    print(f"| level, {jobs} process{'es' * (jobs > 1)} | rate |\n|---|--:|")
    for name, rate in rows:
        print(f"| {name} | {rate} |")


def main() -> None:
    """Measure in a temporary folder."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, help="where to put 3.5 GB for a moment")
    options.add_argument("--jobs", type=int, default=1)
    chosen = options.parse_args()
    logs.configure(Log(level="error"))
    work = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        measure(work, chosen.jobs)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
