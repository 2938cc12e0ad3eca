"""Make the golden archive: a whole one, written by Coffer itself, that the second readers must open for ever.

    python -m tests.vectors.make_archive

Its ids and keys are random, so it is made once and kept: an archive that was written yesterday must open tomorrow.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys
from coffer.server.engine import checkpoint_signer
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.keyops.rekey_order import carry_out, one_study, order
from coffer.server.main.demo import encoded
from coffer.server.services.api import StoreRequest
from tests.services import services

FOLDER = Path(__file__).parent / "archive"
CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"
EXPLICIT_LE = "1.2.840.10008.1.2.1"


def data_sets() -> list[tuple[str, str, bytes]]:
    """SOP class, SOP instance and bytes: two slices of a study, a report of another, and what is no data set.

    The first study has a second key since: its first records open no more, and the same objects stand in later ones.
    """
    out = []
    y, x = np.mgrid[0:64, 0:64]
    for number in (1, 2):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CT, f"2.25.7100{number}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.7001", "2.25.7002"
        ds.PatientName, ds.PatientID, ds.Modality = "Golden^Archive", "G-1", "CT"
        ds.Rows = ds.Columns = 64
        ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 16, 12, 11, 0
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelData = (100 * number + 3 * x + 2 * y).astype("<u2").tobytes()
        out.append((CT, ds.SOPInstanceUID, encoded(ds)))
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = SR, "2.25.71003"
    report.StudyInstanceUID, report.SeriesInstanceUID, report.Modality = "2.25.7003", "2.25.7004", "SR"
    report.TextValue = "Nothing is wrong with this phantom. " * 40
    out.append((SR, report.SOPInstanceUID, encoded(report)))
    out.append((SR, "2.25.71004", b"no data set at all"))
    return out


def main() -> None:
    """Write the archive, its key file and what must come out of it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    config = Config(archive=FOLDER / "archive", http=Http(enabled=False), keys=Keys(key_file=FOLDER / "key"))
    create_archive(config)
    with open_writer(config) as engine:
        for sop_class, sop_instance, data in data_sets():
            reception = services(engine).ingest.begin(
                StoreRequest(sop_class, sop_instance, EXPLICIT_LE, Principal.peer("GOLDEN"))
            )
            reception.write(data)
            assert reception.finish().error is None
        begun = order(
            engine, one_study(engine, "2.25.7001"), "the format has rekeys", Principal.person("Golden", "golden")
        )
        carry_out(engine, begun, lambda _done, _total: None)
        checkpoint_signer.order(
            engine.keyring, engine.folder, "the format has endorsements", Principal.person("Golden", "golden")
        )
        engine.reconcile()
    for disposable in ("index", "spool", "lost+found", "LOCK"):
        path = FOLDER / "archive" / disposable
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (FOLDER / "archive" / "keyring" / "lock.mdb").unlink(missing_ok=True)
    expected = {name: hashlib.sha256(data).hexdigest() for _, name, data in data_sets()}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
