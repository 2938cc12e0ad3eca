"""The demonstration behind `make run`: an archive, a server, and a modality that stores, finds and retrieves a study.

Rule: the modality speaks DICOM over the socket and uses no internals of the server, so that it shows what a PACS
sees. The sample is synthetic and its UIDs are fixed: a second run stores nothing twice.
"""

import os
import uuid
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)
from rich.console import Console

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import ConfigError, IntegrityError, UnavailableError
from coffer.server.config.settings import Config
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.create import create_archive
from coffer.server.host.signals import Signals
from coffer.server.main import running
from coffer.server.main.service import Server
from coffer.server.observe import logs

_SLICES, _SIZE = 3, 256
_PENDING = 0xFF00
_MODALITY = "MODALITY"


def run(config: Config, *, once: bool = False) -> None:
    """Run the demonstration on the archive of `config`, created if there is none; then serve, unless `once`.

    Raises UnavailableError if the server does not respond as it should, IntegrityError if any data set differs,
    ConfigError without a port for DICOM without TLS.
    """
    if not config.dimse.port:
        raise ConfigError("the demonstration speaks DICOM without TLS", hint="set dimse.port for it")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    logs.configure(config.log, level="warning")
    fresh = not os.path.lexists(config.archive / "archive.json")
    if fresh:
        create_archive(config)

    def shown(server: Server) -> None:
        _print_paths(console, config, fresh=fresh)
        _show(console, config, server.services.archive)
        if not once:
            http = f", http://{config.http.host}:{config.http.port}/metrics" if config.http.enabled else ""
            console.print(f"\nServing DICOM on {config.dimse.host}:{config.dimse.port}{http}. Press Ctrl-C to stop.")
            logs.configure(config.log)
            logs.run_in_background()
            server.wait()

    # Ctrl-C in the middle of a store would leave pynetdicom's threads waiting for each other for ever.
    with Signals() as signals:
        running.run(Server(config), shown, signals)


def _print_paths(console: Console, config: Config, *, fresh: bool) -> None:
    console.print(f"Archive   {config.archive} ({'new' if fresh else 'existing'})")
    console.print(f"Key file  {config.keys.key_file}")
    if fresh:
        console.print(
            "          It opens everything in this archive: copy it now to a safe place that is not on this machine."
        )
        console.print("          If you lose it, you lose every stored object.", style="yellow")


def _show(console: Console, config: Config, archive: ReadableArchive) -> None:
    """Store, find, retrieve, compare and verify, with a line for each step."""
    study = sample_study()
    address = f"{config.dimse.ae_title} at {config.dimse.host}:{config.dimse.port}"
    modality = Modality(config)
    before = archive.stats().objects
    modality.store(study)
    new = archive.stats().objects - before
    known = "" if new else ", which the archive had already: stored once"
    console.print(f"C-STORE   sent {len(study)} CT slices to {address}{known}")
    found = modality.find(study[0].StudyInstanceUID)
    console.print(
        f"C-FIND    {found.PatientName}, {found.StudyDescription}, {found.NumberOfStudyRelatedInstances} images"
    )
    back = modality.get(study[0].StudyInstanceUID)
    sent = {str(ds.SOPInstanceUID): encoded(ds) for ds in study}
    if back != sent:
        raise IntegrityError(
            "what was retrieved is not what was sent", hint="run `coffer verify`, and report this as a bug"
        )
    size = sum(map(len, back.values()))
    console.print(f"C-GET     {len(back)} images retrieved, {size:,} bytes, each identical to what was sent")
    findings = list(Verifier(ArchiveFolder.open(config.archive)).findings())
    if findings:
        raise IntegrityError(f"verify has {len(findings)} findings", hint="run `coffer verify` to see them")
    stats = archive.stats()
    console.print(f"verify    no findings; {stats.objects} objects take {stats.bytes_stored:,} sealed bytes")


def sample_study() -> list[Dataset]:
    """A CT phantom in three slices: a cylinder of water with inserts of air and bone, and some noise."""
    rng = np.random.default_rng(2024)
    y, x = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    slices = []
    for number in range(_SLICES):
        hu = np.full((_SIZE, _SIZE), -1000.0)
        hu[x**2 + y**2 < 0.8] = 0.0
        for angle, value in ((0.3, 900.0), (2.4, -700.0), (4.5, 300.0 + 50 * number)):
            hu[(x - 0.5 * np.cos(angle)) ** 2 + (y - 0.5 * np.sin(angle)) ** 2 < 0.03] = value
        pixels = np.clip(hu + 1024 + rng.normal(0, 8, hu.shape), 0, 4095).astype("<u2")
        slices.append(_slice(number, pixels.tobytes()))
    return slices


def _slice(number: int, pixels: bytes) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, _uid(f"instance {number}")
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = _uid("study"), _uid("series"), _uid("frame")
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Water", "DEMO-1", "20000101", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240607", "120000", "1", "DEMO-ACC-1"
    ds.StudyDescription, ds.SeriesDescription, ds.Modality = "Coffer demonstration", "Three slices", "CT"
    ds.ReferringPhysicianName, ds.Manufacturer, ds.ImageType = "", "Coffer", ["DERIVED", "SECONDARY", "AXIAL"]
    ds.SeriesNumber, ds.InstanceNumber = 1, number + 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 5 * number], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleIntercept, ds.RescaleSlope = [1, 1], 5, -1024, 1
    ds.Rows = ds.Columns = _SIZE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.add_new("PixelData", "OW", pixels)
    return ds


def _uid(name: str) -> str:
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'coffer demonstration {name}').int}"


def encoded(ds: Dataset) -> bytes:
    """The data set as sent over the wire, Explicit VR Little Endian."""
    raw = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert raw is not None
    return bytes(raw)


@dataclass(slots=True)
class Modality:
    """A DICOM peer that stores, queries and retrieves, each in an association of its own."""

    config: Config

    def store(self, study: list[Dataset]) -> None:
        """C-STORE every data set; raises UnavailableError unless each is acknowledged with success."""
        ae = AE(_MODALITY)
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = self._associate(ae)
        try:
            for ds in study:
                ds.file_meta = _file_meta()
                status = association.send_c_store(ds)
                if getattr(status, "Status", None) != 0:
                    raise _refused("C-STORE", status)
        finally:
            association.release()

    def find(self, study_uid: str) -> Dataset:
        """C-FIND one study by its UID."""
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
        query.PatientName = query.StudyDescription = ""
        query.NumberOfStudyRelatedInstances = None
        ae = AE(_MODALITY)
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        association = self._associate(ae)
        try:
            answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
        finally:
            association.release()
        rows = [row for status, row in answers if getattr(status, "Status", None) == _PENDING and row is not None]
        if len(rows) != 1:
            raise _refused("C-FIND", answers[-1][0] if answers else None)
        return rows[0]

    def get(self, study_uid: str) -> dict[str, bytes]:
        """C-GET one study; the data sets as received over the wire, by SOP Instance UID."""
        received: dict[str, bytes] = {}

        def keep(event: evt.Event) -> int:
            received[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
            return 0

        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
        ae = AE(_MODALITY)
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        role = build_role(CTImageStorage, scp_role=True)
        association = self._associate(ae, ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, keep)])
        try:
            last = [status for status, _ in association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet)][
                -1
            ]
        finally:
            association.release()
        if getattr(last, "Status", None) != 0:
            raise _refused("C-GET", last)
        return received

    def _associate(self, ae: AE, **more: object) -> Association:
        settings = self.config.dimse
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  read, not bound
        association = ae.associate(host, settings.port, ae_title=settings.ae_title, **more)
        if not association.is_established:
            raise UnavailableError(
                f"no association with {settings.ae_title} at {host}:{settings.port}",
                hint="the log above says why; with dimse.known_peers_only add a peer MODALITY",
            )
        leave_answers_to_caller(association)
        return association


def leave_answers_to_caller(association: Association) -> None:
    """Let only the thread that waits for an answer take it from the queue of a pynetdicom requestor.

    pynetdicom's own thread polls that queue, and may pass its last check for a pause just before the request goes out:
    on a busy machine it then takes the answer and drops it, and the caller waits until its timeout.
    """
    take = association.dimse.get_msg
    association.dimse.get_msg = lambda block=False: take(block=True) if block else (None, None)


def _file_meta() -> "Dataset":
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _refused(service: str, status: Dataset | None) -> UnavailableError:
    code = getattr(status, "Status", None)
    shown = "no answer" if code is None else f"status {code:04X} {getattr(status, 'ErrorComment', '')}".strip()
    return UnavailableError(f"{service} did not succeed: {shown}", hint="the log above says why")
