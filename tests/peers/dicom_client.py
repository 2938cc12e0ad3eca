"""A DICOM user agent for the tests: sends exactly the bytes it is given, queries, and retrieves by C-GET.

pynetdicom carries the protocol; what was really on the wire is the wire tap's business.
"""

import contextlib
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from coffer.server.main.demo import leave_answers_to_caller

MAX_CONTEXTS = 120
FIND = {"study": StudyRootQueryRetrieveInformationModelFind, "patient": PatientRootQueryRetrieveInformationModelFind}
MOVE = StudyRootQueryRetrieveInformationModelMove
GET = {"study": StudyRootQueryRetrieveInformationModelGet, "patient": PatientRootQueryRetrieveInformationModelGet}


@dataclass(frozen=True, slots=True)
class Item:
    """One data set with what its C-STORE request says of it."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What the archive answered: a status (None: it broke off) and its Error Comment."""

    status: int | None
    comment: str = ""


def split_part10(content: bytes) -> tuple[dict[int, bytes], bytes]:
    """Split a Part 10 file into its file meta values by element number and its data set, by reading group 0002 itself.

    The stated group length is not believed: many real files have a wrong one (PS3.10 section 7.1).
    """
    if content[128:132] != b"DICM":
        return {}, content
    meta, at = {}, 132
    while content[at : at + 2] == b"\x02\x00" and at + 8 <= len(content):
        element = int.from_bytes(content[at + 2 : at + 4], "little")
        if content[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR"):
            start, length = at + 12, int.from_bytes(content[at + 8 : at + 12], "little")
        else:
            start, length = at + 8, int.from_bytes(content[at + 6 : at + 8], "little")
        meta[element] = content[start : start + length]
        at = start + length
    return meta, content[at:]


def uid(value: bytes | None) -> str:
    """A UID value without its padding."""
    return (value or b"").rstrip(b"\0 ").decode("ascii", "replace")


def item_of(path: Path) -> Item:
    """A Part 10 file as a sender offers it: named as in its data set, or as in its file meta where that is silent."""
    content = path.read_bytes()
    meta, data = split_part10(content)
    named: Dataset = Dataset()
    with contextlib.suppress(Exception):  # damaged files are what some tests are about
        named = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    names = [str(named.get(k) or "") or uid(meta.get(e)) for k, e in (("SOPClassUID", 2), ("SOPInstanceUID", 3))]
    return Item(names[0], names[1], uid(meta.get(0x0010)), data)


def associate(
    port: int, contexts: Iterable[tuple[str, Sequence[str]]], aet: str = "TESTER", **more: object
) -> Association:
    """Open an association to the loopback; the archive must accept it."""
    ae = AE(ae_title=aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.maximum_pdu_size = 131072
    for abstract, syntaxes in contexts:
        ae.add_requested_context(abstract, list(syntaxes))
    association = ae.associate("127.0.0.1", port, ae_title="COFFER", **more)
    assert association.is_established, "the archive did not accept the association"
    leave_answers_to_caller(association)
    return association


def store_one(association: Association, item: Item, message: int) -> Reply:
    """Send one data set as it is; encoding it again would repair what the test is about."""
    context = next(
        (
            c
            for c in association.accepted_contexts
            if c.abstract_syntax == item.sop_class and c.transfer_syntax[0] == item.transfer_syntax
        ),
        None,
    )
    if context is None:
        return Reply(None, "presentation context not accepted")
    request = C_STORE()
    request.MessageID = message % 65535 + 1
    request.AffectedSOPClassUID = item.sop_class
    request._affected_sop_instance_uid = UID(item.sop_instance)  # one real file's has 67 characters: not refused here
    request.Priority = 2
    request.DataSet = io.BytesIO(item.data)
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    if response is None:
        return Reply(None, "no response")
    return Reply(response.Status, str(getattr(response, "ErrorComment", "") or ""))


def store(port: int, items: Sequence[Item]) -> list[Reply]:
    """Store over as few associations as 120 contexts each allow; one that breaks is opened anew."""
    replies = []
    for batch in _batches(items):
        contexts = sorted({(i.sop_class, i.transfer_syntax) for i in batch})
        association = None
        for number, item in enumerate(batch):
            if association is None or not association.is_established:
                association = associate(port, [(c, [t]) for c, t in contexts])
            replies.append(store_one(association, item, number))
        if association is not None and association.is_established:
            association.release()
    return replies


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        if len({(i.sop_class, i.transfer_syntax) for i in [*batch, item]}) > MAX_CONTEXTS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def find(port: int, level: str, model: str = "study", **keys: str) -> list[Dataset]:
    """C-FIND; returns the identifiers of all matches. Any final status but success is an error."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    association = associate(port, [(FIND[model], [ImplicitVRLittleEndian])])
    rows, final = [], None
    for status, identifier in association.send_c_find(query, FIND[model]):
        final = status.get("Status")
        if final in (0xFF00, 0xFF01):
            rows.append(identifier)
    association.release()
    assert final == 0, f"C-FIND ended with {final}"
    return rows


def get(
    port: int,
    contexts: Sequence[tuple[str, str]],
    level: str = "STUDY",
    taken: Callable[[], object] = lambda: None,
    **keys: str,
) -> Dataset:
    """C-GET with exactly these (SOP class, transfer syntax) contexts; returns the final response's status data set.

    `taken` is called for each object that came, before it is answered.
    """

    def take(_event: evt.Event) -> int:
        taken()
        return 0

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    proposed = [(GET["study"], [ImplicitVRLittleEndian]), *((c, [t]) for c, t in contexts)]
    association = associate(
        port,
        proposed,
        ext_neg=[build_role(c, scp_role=True) for c in {c for c, _ in contexts}],
        evt_handlers=[(evt.EVT_C_STORE, take)],
    )
    final = Dataset()
    for status, _ in association.send_c_get(query, GET["study"]):
        final = status
    association.release()
    return final


def move(port: int, destination: str, level: str = "STUDY", **keys: str) -> Dataset:
    """C-MOVE to a destination by its AE title; returns the final response's status data set."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    association = associate(port, [(MOVE, [ImplicitVRLittleEndian])])
    final = Dataset()
    for status, _ in association.send_c_move(query, destination, MOVE):
        final = status
    association.release()
    return final


def noisy(number: int, size: int, study: int = 0) -> Item:
    """A data set with `size` bytes of noise, which no codec makes smaller, the same at every run."""
    item, noise = synthetic(number, 100, study), random.Random(f"{study}/{number}").randbytes(size)
    element = b"\x23\x00\x10\x00LO\x06\x00TESTER\x23\x00\x01\x10OB\0\0" + len(noise).to_bytes(4, "little")
    return Item(item.sop_class, item.sop_instance, item.transfer_syntax, item.data + element + noise)


def synthetic(number: int, size: int = 6000, study: int = 0) -> Item:
    """A small valid data set (Explicit VR Little Endian) whose bytes follow from its number alone."""
    root = f"1.2.826.0.1.3680043.8.498.77.{study}"
    name = f"{root}.1.{number}"
    sop = "1.2.840.10008.5.1.4.1.1.7"
    head = [
        ((0x0008, 0x0016), "UI", sop),
        ((0x0008, 0x0018), "UI", name),
        ((0x0008, 0x0020), "DA", "20240131"),
        ((0x0008, 0x0060), "CS", "OT"),
        ((0x0010, 0x0010), "PN", f"Kill^Test{study}"),
        ((0x0010, 0x0020), "LO", f"KT-{study:06d}"),
        ((0x0020, 0x000D), "UI", root),
        ((0x0020, 0x000E), "UI", f"{root}.1"),
        ((0x0020, 0x0013), "IS", str(number)),
    ]
    out = b""
    for (group, element), vr, value in head:
        raw = value.encode()
        raw += (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
        out += (
            group.to_bytes(2, "little")
            + element.to_bytes(2, "little")
            + vr.encode()
            + len(raw).to_bytes(2, "little")
            + raw
        )
    pattern = f"{study}/{number} ".encode()
    noise = (pattern * (size // len(pattern) + 1))[: size & ~1]
    out += b"\x21\x00\x10\x00LO\x06\x00TESTER" + b"\x21\x00\x01\x10OB\0\0" + len(noise).to_bytes(4, "little") + noise
    return Item(sop, name, "1.2.840.10008.1.2.1", out)
