"""Statuses, counters and lists of a real server with its workers, as real peers are told them.

One server holds two studies for all tests: many small objects, and a few that some peers cannot take.
"""

import io
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import build_role, evt

from coffer.index.dicom.identifier import encode_identifier
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.main.demo import encoded
from tests.conftest import absent
from tests.peers.coffer_process import COFFER, CofferProcess, Peer, free_port, run_tool
from tests.peers.dicom_client import GET, MOVE, Item, associate, synthetic
from tests.peers.test_flips import flip
from tests.server.dimse.raw_peer import Message, RawDestination, RawRequestor

LONG = 10**25  # a number that makes UIDs of 62 characters, so that fewer of them fill 64 KiB
MANY, FEW = f"1.2.826.0.1.3680043.8.498.77.{LONG}", "1.2.826.0.1.3680043.8.498.77.2"
COUNT = 1100
JPEG = "1.2.840.10008.1.2.4.50"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LEVEL, PATIENT_ID, STUDY, SERIES, SOP = 0x00080052, 0x00100020, 0x0020000D, 0x0020000E, 0x00080018
NAME = 0x00100010
FIND_MODEL = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module")
def few() -> list[Item]:
    """One in each uncompressed syntax, and one that is not converted."""
    made = [synthetic(number, 2000, 2) for number in range(3)]
    implicit = in_implicit(made[1].data)
    return [
        made[0],
        Item(made[1].sop_class, made[1].sop_instance, IMPLICIT_LE, implicit),
        Item(made[2].sop_class, made[2].sop_instance, JPEG, made[2].data),
    ]


def in_implicit(data: bytes, syntax: str = EXPLICIT_LE) -> bytes:
    """A data set in Implicit VR Little Endian, by pydicom."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, True
    write_dataset(out, read_dataset(io.BytesIO(data), is_implicit_VR=syntax == IMPLICIT_LE, is_little_endian=True))
    return out.getvalue()


@pytest.fixture(scope="module")
def coffer(tmp_path_factory: pytest.TempPathFactory, few: list[Item]) -> Iterator[CofferProcess]:
    """A running server that holds both studies and takes no unknown SOP class; at the end it verifies."""
    if not COFFER.exists():
        absent(f"{COFFER} is not installed: make test installs it")
    made = CofferProcess(tmp_path_factory.mktemp("statuses"), [Peer("GONE", free_port()), Peer("MOVEDST", free_port())])
    made.write_config("[storage]\naccept_unknown_sop_classes = false\n[limits]\nmax_object_bytes = 1048576\n")
    made.init()
    made.start()
    many = [synthetic(number, 20, LONG) for number in range(COUNT)]
    with ThreadPoolExecutor(8) as senders:  # they share the syncs
        list(senders.map(lambda items: send(made.port, items), [few, *(many[n::7] for n in range(7))]))
    yield made
    made.stop()
    made.run("verify")


def send(port: int, items: Sequence[Item]) -> None:
    """C-STORE without pynetdicom, which takes longer than the server."""
    contexts = [Offer(2 * n + 1, SECONDARY_CAPTURE, (t,)) for n, t in enumerate((EXPLICIT_LE, IMPLICIT_LE, JPEG))]
    with Requestor("127.0.0.1", port, "TESTER", "COFFER", contexts, 30.0) as sender:
        by_syntax = {c.transfer_syntax: c for c in sender.contexts.values()}
        for item in items:
            assert sender.store(by_syntax[item.transfer_syntax], item.sop_instance, [item.data]) == 0


def raw(coffer: CofferProcess, *storage: str, syntax: str = IMPLICIT_LE) -> RawRequestor:
    """An association for C-FIND, C-MOVE and C-GET that takes secondary captures in the given syntaxes."""
    models = [Offer(2 * n + 1, uid, (syntax,)) for n, uid in enumerate((FIND_MODEL, str(MOVE), str(GET["study"])))]
    takes = [Offer(2 * n + 11, SECONDARY_CAPTURE, (one,), scp=True) for n, one in enumerate(storage)]
    return RawRequestor(coffer.port, [*models, *takes])


def identifier(level: str = "STUDY", **keys: object) -> bytes:
    """A retrieve identifier in Implicit VR; keys are names of this module."""
    values = {globals()[name]: value if isinstance(value, tuple) else (value,) for name, value in keys.items()}
    return encode_identifier({LEVEL: (level,), **values}, (), implicit=True)


def retrieve(
    coffer: CofferProcess, way: str, query: bytes, keep: Callable[[Message], int] = lambda _: 0, *storage: str
) -> Message:
    """C-GET, or C-MOVE to MOVEDST; the final response."""
    with raw(coffer, *storage) as peer:
        if way == "get":
            peer.request(peer.context(str(GET["study"])), dimse.C_GET, query)
        else:
            peer.request(peer.context(str(MOVE)), dimse.C_MOVE, query, DESTINATION="MOVEDST")
        return peer.final(keep)


def failed_list(data: bytes | None) -> list[str]:
    """The Failed SOP Instance UID List as pydicom reads it."""
    assert data is not None
    value = read_dataset(io.BytesIO(data), is_implicit_VR=True, is_little_endian=True).FailedSOPInstanceUIDList
    return [str(value)] if isinstance(value, str) else [str(uid) for uid in value]


BAD = {
    "no level": (encode_identifier({STUDY: (MANY,)}, (), implicit=True), [LEVEL]),
    "a level of the other model": (identifier("PATIENT", PATIENT_ID="1"), [LEVEL]),
    "a level in small letters": (identifier("study", STUDY=MANY), [LEVEL]),
    "no study above a series": (identifier("SERIES", SERIES="1.2"), [STUDY]),
    "two studies above a series": (identifier("SERIES", STUDY=(MANY, FEW), SERIES="1.2"), [STUDY]),
    "a wildcard above": (identifier("IMAGE", STUDY=MANY, SERIES="1.*", SOP="1.2"), [SERIES]),
    "bytes that are no data set": (b"\x08\x00\x52\x00\xff\xff\xff\x7fSTUDY", []),
}
BAD_TO_RETRIEVE = {
    "an empty study alone": (identifier("IMAGE", STUDY="", SERIES="1.2", SOP="1.2"), [STUDY]),
    "no study and no UID": (identifier("IMAGE", STUDY="", SERIES="", SOP=""), [SOP]),
    "no key at the level": (identifier("IMAGE", STUDY=MANY, SERIES="1.2"), [SOP]),
    "a wildcard at the level": (identifier("STUDY", STUDY="1.2*"), [STUDY]),
    "too many UIDs": (identifier("STUDY", STUDY=("1.2.3",) * 10_001), [STUDY]),
}
BAD_TO_FIND = {
    "more patterns than are tried": (identifier(STUDY="", NAME=("*" + "?" * 44 + "z*",) * 9990), [NAME]),
    "a value of endless length": (identifier(STUDY="", NAME="A" * 4097), [NAME]),
}


@pytest.mark.parametrize("name", BAD | BAD_TO_RETRIEVE | BAD_TO_FIND)
def test_a_bad_identifier_is_refused_with_what_offends(coffer: CofferProcess, name: str) -> None:
    query, offending = (BAD | BAD_TO_RETRIEVE | BAD_TO_FIND)[name]
    finals = [] if name in BAD_TO_FIND else [retrieve(coffer, way, query) for way in ("get", "move")]
    if name not in BAD_TO_RETRIEVE:
        with raw(coffer) as peer:
            peer.request(peer.context(FIND_MODEL), dimse.C_FIND, query)
            finals.append(peer.final())
    for final in finals:
        assert (final.status, final.offending, final.data) == (0xA900, offending, None)
        assert final.counters == (-1, -1, -1, -1)
        assert len(final.comment) > 10


def test_dcmtk_shows_the_cause_of_a_refusal(dcmtk: None, coffer: CofferProcess) -> None:
    done = run_tool("findscu", "-d", "-S", "-aec", "COFFER", "-k", "StudyInstanceUID", "127.0.0.1", str(coffer.port))
    said = done.stdout + done.stderr
    assert re.search(r"DIMSE Status +: 0xa900", said, re.IGNORECASE), said[-3000:]
    assert re.search(r"\(0000,0901\) AT \(0008,0052\)", said), said[-3000:]
    assert re.search(r"\(0000,0902\) LO \[Query/Retrieve Level", said), said[-3000:]


def test_findscu_cancels(dcmtk: None, coffer: CofferProcess) -> None:
    series = f"{MANY}.1"
    keys = ("QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={MANY}", f"SeriesInstanceUID={series}", "SOPInstanceUID")
    args = [a for key in keys for a in ("-k", key)]
    done = run_tool("findscu", "-v", "-S", "--cancel", "3", "-aec", "COFFER", *args, "127.0.0.1", str(coffer.port))
    said = done.stdout + done.stderr
    assert "Received Final Find Response (Cancel" in said, said[-3000:]
    assert 3 <= len(re.findall(r"Find Response: \d+", said)) < COUNT, said[-3000:]


@pytest.mark.parametrize(("syntax", "shown"), [("-xi", "UI [1.2"), ("-xe", "UN 31\\2e\\32")])
def test_movescu_reads_a_list_beyond_64_kib(dcmtk: None, coffer: CofferProcess, syntax: str, shown: str) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={MANY}"]
    to = ["-aem", "GONE", "-aec", "COFFER", "127.0.0.1", str(coffer.port)]
    done = run_tool("movescu", "-d", "-S", syntax, *keys, *to)
    said = done.stdout + done.stderr
    assert re.search(r"DIMSE Status +: 0xa702", said, re.IGNORECASE), said[-500:]
    assert re.search(rf"Failed Suboperations +: {COUNT}", said), said[-500:]
    (line,) = [line for line in said.splitlines() if line.endswith("FailedSOPInstanceUIDList")]
    assert line.removeprefix("D: ").startswith(f"(0008,0058) {shown}")
    length = len("\\".join(f"{MANY}.1.{number}" for number in range(COUNT)))
    assert length > 0xFFFF
    assert f"# {length + length % 2}," in line[-60:]
    assert "(0000,0902) LO [GONE at 127.0.0.1:" in said


def test_pynetdicom_is_told_all_that_failed(coffer: CofferProcess) -> None:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", MANY
    association = associate(coffer.port, [(MOVE, [ImplicitVRLittleEndian])])
    *_, (status, told) = association.send_c_move(query, "GONE", MOVE)
    association.release()
    assert (status.Status, status.NumberOfFailedSuboperations) == (0xA702, COUNT)
    assert status.NumberOfCompletedSuboperations == status.NumberOfWarningSuboperations == 0
    assert "NumberOfRemainingSuboperations" not in status
    assert status.ErrorComment.startswith(f"GONE at 127.0.0.1:{coffer.peers[0].port} cannot be reached")
    assert len(told.FailedSOPInstanceUIDList) == COUNT


def test_movescu_cancels(dcmtk: None, coffer: CofferProcess) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={MANY}"]
    to = ["-aem", "MOVEDST", "-aec", "COFFER", "127.0.0.1", str(coffer.port)]
    with RawDestination(port=coffer.peers[1].port) as destination:
        done = run_tool("movescu", "-d", "-S", "--cancel", "1", *keys, *to)
    said = done.stdout + done.stderr
    assert re.search(r"DIMSE Status +: 0xfe00", said, re.IGNORECASE), said[-500:]
    last = {name: int(re.findall(rf"{name} Suboperations +: (\d+)", said)[-1]) for name in ("Remaining", "Completed")}
    assert last["Completed"] == len(destination.came) >= 1
    assert last["Remaining"] == COUNT - len(destination.came) > 0
    assert {(m.text(dimse.ORIGINATOR_AE), m.number(dimse.ORIGINATOR_ID)) for _, m in destination.came} == {
        ("MOVESCU", 1)
    }


def test_pynetdicom_cancels_a_get(coffer: CofferProcess) -> None:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", MANY
    came: list[str] = []

    def keep(event: evt.Event) -> int:
        came.append(str(event.request.AffectedSOPInstanceUID))
        return 0xB007 if len(came) == 1 else 0xA700 if len(came) == 2 else 0

    association = associate(
        coffer.port,
        [(GET["study"], [ImplicitVRLittleEndian]), (SECONDARY_CAPTURE, [EXPLICIT_LE])],
        ext_neg=[build_role(SECONDARY_CAPTURE, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    told: list[tuple[Dataset, Dataset | None]] = []
    for status, failed in association.send_c_get(query, GET["study"], msg_id=7):
        told.append((status, failed))
        if len(came) == 10:
            association.send_c_cancel(7, query_model=GET["study"])
    association.release()
    final, failed = told[-1]
    assert failed is not None
    assert final.Status == 0xFE00
    assert final.NumberOfCompletedSuboperations == len(came) - 2 >= 8
    assert (final.NumberOfWarningSuboperations, final.NumberOfFailedSuboperations) == (1, 1)
    assert final.NumberOfRemainingSuboperations == COUNT - len(came) > 0
    assert failed.FailedSOPInstanceUIDList == came[1]


@pytest.mark.parametrize("way", ["get", "move"])
def test_nothing_found_is_success(coffer: CofferProcess, way: str) -> None:
    final = retrieve(coffer, way, identifier(STUDY="1.2.3.4"))
    assert (final.status, final.counters, final.data, final.comment) == (0, (-1, 0, 0, 0), None, "")


@pytest.mark.parametrize("way", ["get", "move"])
@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE])
def test_what_can_be_converted_is_and_the_rest_is_listed(
    coffer: CofferProcess, few: list[Item], way: str, syntax: str
) -> None:
    came: dict[str, Message] = {}

    def keep(message: Message) -> int:
        came[message.text(dimse.AFFECTED_INSTANCE)] = message
        return 0

    with RawDestination(keep, [syntax], coffer.peers[1].port):
        final = retrieve(coffer, way, identifier(STUDY=FEW), keep, syntax)
    assert (final.status, final.counters) == (0xB000, (-1, 2, 1, 0))
    assert final.comment == f"not accepted: syntax {JPEG}"
    assert failed_list(final.data) == [few[2].sop_instance]
    assert {m.context.transfer_syntax for m in came.values()} == {syntax}
    stored = next(item for item in few if item.transfer_syntax == syntax)
    assert came[stored.sop_instance].data == stored.data
    (other,) = came.keys() - {stored.sop_instance}
    original = next(item for item in few if item.sop_instance == other)
    assert in_implicit(came[other].data, syntax) == in_implicit(original.data, original.transfer_syntax)


def test_a_damaged_object_is_listed_and_the_rest_arrives(coffer: CofferProcess, few: list[Item]) -> None:
    large = synthetic(9, 300_000, 2)
    segment = max((coffer.archive / "segments").iterdir())
    start = segment.stat().st_size
    send(coffer.port, [large])
    middle = (start + segment.stat().st_size) // 2
    came: list[str] = []

    def keep(message: Message) -> int:
        came.append(message.text(dimse.AFFECTED_INSTANCE))
        return 0

    flip(segment, middle, 3)
    try:
        with RawDestination(keep, port=coffer.peers[1].port):
            for way in ("get", "move"):
                final = retrieve(coffer, way, identifier(STUDY=FEW), keep, EXPLICIT_LE, IMPLICIT_LE, JPEG)
                assert (final.status, final.counters) == (0xB000, (-1, 3, 1, 0))
                assert failed_list(final.data) == [large.sop_instance]
    finally:
        flip(segment, middle, 3)
    assert sorted(came) == sorted(item.sop_instance for item in few * 2)


@pytest.mark.parametrize("way", ["get", "move"])
def test_an_object_without_a_study_comes_back_by_its_own_uid(coffer: CofferProcess, few: list[Item], way: str) -> None:
    whole = synthetic(1, 20, 4)
    ds = read_dataset(io.BytesIO(whole.data), is_implicit_VR=False, is_little_endian=True)
    del ds.StudyInstanceUID, ds.SeriesInstanceUID
    homeless = Item(whole.sop_class, whole.sop_instance, IMPLICIT_LE, in_implicit(encoded(ds)))
    send(coffer.port, [homeless])
    came: dict[str, bytes | None] = {}

    def keep(message: Message) -> int:
        came[message.text(dimse.AFFECTED_INSTANCE)] = message.data
        return 0

    query = identifier("IMAGE", STUDY="", SERIES="", SOP=(homeless.sop_instance, few[0].sop_instance))
    with RawDestination(keep, port=coffer.peers[1].port):
        final = retrieve(coffer, way, query, keep, IMPLICIT_LE, EXPLICIT_LE)
    assert (final.status, final.counters) == (0, (-1, 1, 0, 0))
    assert came == {homeless.sop_instance: homeless.data}


def test_stores_are_refused_with_a_cause(coffer: CofferProcess) -> None:
    large = synthetic(1, 2 << 20, 3)
    private = Offer(1, "1.2.3.4.5", (EXPLICIT_LE,))
    with RawRequestor(coffer.port, [private, Offer(3, SECONDARY_CAPTURE, (EXPLICIT_LE,))]) as peer:
        assert set(peer.contexts) == {3}
        context = peer.contexts[3]
        peer.request(context, dimse.C_STORE, large.data, AFFECTED_INSTANCE=large.sop_instance)
        assert (final := peer.final()).status == 0xA700
        assert final.comment.startswith("the object")
        peer.request(context, dimse.C_STORE, b"", sop_class="1.2.3.4.5", AFFECTED_INSTANCE="1.2")
        assert peer.final().status == 0x0122
        peer.request(context, dimse.C_STORE, synthetic(1, 20, 3).data, AFFECTED_INSTANCE="1.2")
        assert ((final := peer.final()).status, final.offending) == (0xA900, [SOP])
        peer.request(context, 0x0130, AFFECTED_INSTANCE="1.2")
        assert peer.final().status == 0x0211


def test_every_failure_stands_in_metrics_and_log(dcmtk: None, coffer: CofferProcess, few: list[Item]) -> None:
    bad, _ = BAD["no level"]
    with raw(coffer, EXPLICIT_LE) as peer:
        refused = [
            (FIND_MODEL, dimse.C_FIND, bad, {}, 0xA900),
            (str(MOVE), dimse.C_MOVE, bad, {"DESTINATION": "GONE"}, 0xA900),
            (str(MOVE), dimse.C_MOVE, identifier(STUDY=FEW), {"DESTINATION": "NOWHERE"}, 0xA801),
            (str(MOVE), dimse.C_MOVE, identifier(STUDY=FEW), {"DESTINATION": "GONE"}, 0xA702),
            (str(GET["study"]), dimse.C_GET, bad, {}, 0xA900),
            (str(GET["study"]), dimse.C_GET, identifier(STUDY=FEW), {}, 0xB000),
            (SECONDARY_CAPTURE, dimse.C_STORE, few[0].data, {"AFFECTED_INSTANCE": "1.2"}, 0xA900),
            (SECONDARY_CAPTURE, 0x0130, None, {}, 0x0211),
        ]
        for abstract_syntax, field, data, elements, status in refused:
            peer.request(peer.context(abstract_syntax), field, data, **elements)
            assert peer.final().status == status
    assert run_tool("echoscu", "-aec", "COFFER", "127.0.0.1", str(coffer.port)).returncode == 0
    deadline = time.monotonic() + 10
    while 'duration_seconds_count{service="echo"} 0' in (page := coffer.metrics()):
        assert time.monotonic() < deadline, "the C-ECHO was not counted"
    counted = set(re.findall(r'coffer_failures_total{service="(\w+)",status="(\w+)"}', page))
    assert counted >= {
        ("find", "A900"),
        *(("move", status) for status in ("A900", "A801", "A702")),
        *(("get", status) for status in ("A900", "B000")),
        ("store", "A900"),
        ("other", "0211"),
    }
    lines = [line for line in coffer.log.read_text().splitlines() if "operation failed" in line]
    for service, status in counted:
        told = [line for line in lines if f"service={service} " in line and f"status={status}" in line]
        assert told, (service, status)
        assert all("cause=" in line and "cause= " not in line for line in told)
    assert not re.search(rf"{MANY}|{FEW}", "".join(lines))
    promtool = shutil.which("promtool", path="/usr/bin:/usr/local/bin")
    if promtool is None:
        absent("promtool is not installed: apt install prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
