"""Every storable file of the shared data in and out, over every way there is, byte for byte.

Over the network the reference is what the wire tap saw, because DCMTK encodes a file again before it sends it;
for `coffer put` it is the file itself.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import IMPLICIT_LE, Offer
from tests.peers.coffer_process import CofferProcess, Peer, free_port, run_tool
from tests.peers.dicom_client import GET, MAX_CONTEXTS, find, get, item_of, move, split_part10, store
from tests.peers.wiretap import Sent, WireTap
from tests.server.dimse.raw_peer import RawDestination, RawRequestor

# Transfer syntaxes that DCMTK 3.6.7 does not know: it neither sends nor accepts them, so our own client does.
UNKNOWN_TO_DCMTK = (
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.8.1",
)
STORABLE = 575


def studies_of(files: list[Path]) -> dict[str, set[str]]:
    """The SOP Instance UIDs of each study; "" holds those whose data set names no study."""
    studies: dict[str, set[str]] = defaultdict(set)
    for path in files:
        named = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
        studies[str(named.get("StudyInstanceUID") or "")].add(item_of(path).sop_instance)
    return studies


def exported_hashes(folder: Path) -> set[str]:
    """The SHA-256 of the data set of every Part 10 file under a folder."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {hashlib.sha256(split_part10(f.read_bytes())[1]).hexdigest() for f in files}


MISNAMED = {"rtdose_expb.dcm"}


def send_everything(files: list[Path], port: int, wire: WireTap) -> None:
    """dcmsend what DCMTK can send, then the rest as it is."""
    done = run_tool("dcmsend", "-q", "-dn", "-nuc", "-nh", "-aec", "COFFER", "127.0.0.1", str(port), *map(str, files))
    assert not done.stdout.strip(), done.stdout[-2000:]
    passed = {s.sop_instance for s in wire.sent}
    # DCMTK 3.6.7 takes its big-endian UIDs for UTF-16 and names the object "31": Coffer refuses that (A900).
    missing = [item_of(f) for f in files if f.name in MISNAMED or item_of(f).sop_instance not in passed]
    assert len(missing) < 40, "dcmsend sent far too little"
    store(port, missing)


@pytest.mark.timeout(300)
def test_in_by_dcmsend_out_by_get_move_and_command_line(
    dcmtk: None,
    new_coffer: Callable[..., CofferProcess],
    tap: Callable[[int], WireTap],
    storescp: Callable[[int], Path],
    well_formed: list[Path],
    tmp_path: Path,
) -> None:
    assert len(well_formed) == STORABLE
    destination = free_port()
    storescp(destination)
    moved = tap(destination)
    tolerant = RawDestination()
    moved_raw = tap(tolerant.port)
    coffer = new_coffer([Peer("MOVEDST", moved.port), Peer("RAWDST", moved_raw.port)])
    wire = tap(coffer.port)
    send_everything(well_formed, wire.port, wire)
    # DCMTK also cuts a UID of 67 characters; that object is taken, and goes by its own name (sent raw) from then on.
    names = {i.sop_instance for i in map(item_of, well_formed)}
    newest = {name: sent for name, sent in wire.newest().items() if name in names}
    refused = [a for a in wire.answers if a.status != 0 and a.sop_instance != "31"]
    assert not refused, refused[:5]
    assert wire.acknowledged() & names == set(newest) == names

    # PS3.8 E.1 wants fragments of even length, which a data set of odd length cannot be cut into: DCMTK aborts there.
    odd = {i.sop_instance for i in map(item_of, well_formed) if len(i.data) % 2}
    studies = studies_of(well_formed)
    homeless = studies.pop("", set())  # they come back by their own UID only: docs/adr/0015
    answered = {str(row.StudyInstanceUID) for row in find(coffer.port, "STUDY", StudyInstanceUID="")}
    assert answered - {""} == set(studies)
    for study, names in studies.items():
        pairs = sorted({(newest[n].sop_class, newest[n].transfer_syntax) for n in names})
        assert len(pairs) <= MAX_CONTEXTS
        # pynetdicom and DCMTK both drop a message with a UID of more than 64 characters.
        overlong = any(len(name) > 64 for name in names)
        final = (raw_get if overlong else get)(wire.port, pairs, StudyInstanceUID=study)
        assert final.Status == 0, (study, final)
        strange = overlong or odd & names or any(syntax in UNKNOWN_TO_DCMTK for _, syntax in pairs)
        final = move(coffer.port, "RAWDST" if strange else "MOVEDST", StudyInstanceUID=study)
        assert final.Status == 0, (study, final)
    nowhere = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "SOPInstanceUID": "\\".join(homeless)}
    pairs = sorted({(newest[n].sop_class, newest[n].transfer_syntax) for n in homeless})
    assert get(wire.port, pairs, "IMAGE", **nowhere).Status == 0
    assert move(coffer.port, "RAWDST", "IMAGE", **nowhere).Status == 0
    check_way("C-GET", wire.received, wire.sent, newest)
    check_way("C-MOVE", moved.sent + moved_raw.sent, wire.sent, newest)

    out = tmp_path / "out"
    coffer.run("get", *(a for study in studies for a in ("--study", study)), "--out", str(out))
    coffer.run("get", *(a for name in homeless for a in ("--instance", name)), "--out", str(out))
    exported = exported_hashes(out)
    missing = {s.sop_instance for s in newest.values() if s.sha256 not in exported}
    assert not missing, f"coffer get did not return {sorted(missing)[:5]}"


def raw_get(port: int, contexts: Sequence[tuple[str, str]], level: str = "STUDY", **keys: str) -> Dataset:
    """As `get`, by a peer that takes UIDs of any length."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    storage = [Offer(2 * n + 3, c, (t,), scp=True) for n, (c, t) in enumerate(contexts)]
    with RawRequestor(port, [Offer(1, str(GET["study"]), (IMPLICIT_LE,)), *storage]) as peer:
        peer.request(peer.contexts[1], dimse.C_GET, encode(query, True, True))
        message = peer.final()
    final = Dataset()
    final.Status, final.ErrorComment = message.status, message.comment
    return final


def check_way(name: str, came: list[Sent], sent: list[Sent], newest: dict[str, Sent]) -> None:
    """Everything that came back was sent exactly so, and the newest of every instance came back."""
    foreign = set(came) - set(sent)
    assert not foreign, f"{name} returned what was never sent: {sorted(map(str, foreign))[:3]}"
    absent = set(newest.values()) - set(came)
    assert not absent, f"{name} did not return {len(absent)}: {sorted(map(str, absent))[:3]}"


@pytest.mark.timeout(300)
def test_in_by_put_out_by_get(
    new_coffer: Callable[..., CofferProcess], well_formed: list[Path], tmp_path: Path
) -> None:
    coffer = new_coffer(serve=False)
    coffer.run("put", *map(str, well_formed))
    versions: dict[str, list[str]] = defaultdict(list)
    for item in map(item_of, well_formed):
        versions[item.sop_instance].append(hashlib.sha256(item.data).hexdigest())
    out = tmp_path / "out"
    coffer.run("get", *(a for name in versions for a in ("--instance", name)), "--out", str(out / "instances"))
    by_instance = exported_hashes(out / "instances")
    assert [name for name, hashes in versions.items() if not set(hashes) & by_instance] == []

    rows = coffer.json("find", "--level", "study")
    assert isinstance(rows, list)
    studies = studies_of(well_formed)
    homeless = studies.pop("", set())
    assert {row["StudyInstanceUID"] or "" for row in rows} - {""} == set(studies)
    coffer.run("get", *(a for study in studies for a in ("--study", study)), "--out", str(out / "studies"))
    back = exported_hashes(out / "studies")
    everything = {digest for hashes in versions.values() for digest in hashes}
    assert back <= everything
    lost = [name for name, hashes in versions.items() if name not in homeless and not set(hashes) & back]
    assert not lost, f"{len(lost)} instances did not come back: {lost[:5]}"
