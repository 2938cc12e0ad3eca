"""The promise: what was acknowledged comes back bit for bit, however odd it is, whatever happened to the archive since.

The adversary: who connects, and sends malformed and hostile objects on purpose; and accident: a kill, a lost index.
Held by a real server with a real destination beside it, over C-GET, C-MOVE and `coffer get`, and crossed with a
restart, `kill -9`, a rebuilt index, new keys for every study, and objects that were made to fill the index.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from coffer.index.dicom.attributes import ATTRIBUTES, QueryLevel, Values
from coffer.index.dicom.headers import decode_identifier, scan
from coffer.index.dicom.identifier import encode_identifier
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import IMPLICIT_LE, Offer
from tests.peers.coffer_process import CofferProcess, Peer
from tests.peers.test_malformed import as_request, exported
from tests.server.dimse.raw_peer import Message, RawDestination, RawRequestor
from tests.server.odd_objects import (
    EXPLICIT,
    ROOT,
    SECONDARY_CAPTURE,
    SERIES_UID,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    Object,
    element,
    healthy_objects,
    item,
    odd_objects,
)

LEVEL, CODES = 0x00080052, 0x00081032
FIND = str(StudyRootQueryRetrieveInformationModelFind)
GET = str(StudyRootQueryRetrieveInformationModelGet)
MOVE = str(StudyRootQueryRetrieveInformationModelMove)
DEFLATED = "1.2.840.10008.1.2.1.99"
LARGEST = 200 << 10
MOST_CONTEXTS = 120


def bombs() -> Iterator[Object]:
    """Small on the wire, deflated to megabytes of items of a sequence that is searched."""
    for number in range(3):
        name = f"{ROOT}.3.{number}"
        inside = b"".join(element(0x00110010 + k, "LO", b"A" * 1000) for k in range(200))
        data = element(SOP_CLASS, "UI", SECONDARY_CAPTURE.encode()) + element(SOP_INSTANCE, "UI", name.encode())
        data += element(CODES, "SQ", item(inside) * 50) + element(STUDY_UID, "UI", name.encode())
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        yield Object(SECONDARY_CAPTURE, name, DEFLATED, packer.compress(data) + packer.flush(), name)


def of_files(folder: Path) -> Iterator[Object]:
    """Odd and malformed files of real programs, and every twentieth of the sound ones."""
    sound = sorted(p for p in (folder / "real").rglob("*") if p.is_file())[::20]
    broken = sorted(p for p in (folder / "malformed").rglob("*") if p.is_file())[::4]
    for number, path in enumerate([*sound, *broken]):
        if path.stat().st_size <= LARGEST:
            sent = as_request(path, number)
            data = sent.data
            header = scan(lambda start, stop, data=data: data[start:stop], len(data), sent.transfer_syntax)
            if data and header.text(SOP_INSTANCE) in ("", sent.sop_instance):
                yield Object(sent.sop_class, sent.sop_instance, sent.transfer_syntax, data, header.text(STUDY_UID))


class Ward:
    """Whoever sends objects and wants them back. `kept` is what was acknowledged, by SOP Instance UID."""

    def __init__(self, coffer: CofferProcess, destination: RawDestination) -> None:
        self.coffer = coffer
        self.destination = destination
        self.kept: dict[str, Object] = {}

    def send(self, objects: Sequence[Object]) -> None:
        """C-STORE; what is refused must say why."""
        for group in groups(objects):
            offers = [Offer(2 * n + 1, c, (t,)) for n, (c, t) in enumerate(pairs(group))]
            with RawRequestor(self.coffer.port, offers) as peer:
                contexts = {(c.abstract_syntax, c.transfer_syntax): c for c in peer.contexts.values()}
                for obj in group:
                    context = contexts[obj.sop_class, obj.transfer_syntax]
                    peer.request(context, dimse.C_STORE, obj.data, AFFECTED_INSTANCE=obj.sop_instance)
                    answer = peer.final()
                    assert answer.status == 0 or answer.comment, obj.sop_instance
                    if answer.status == 0:
                        self.kept[obj.sop_instance] = obj

    def keys_of(self, group: Sequence[Object]) -> dict[int, Values]:
        """The unique keys of some objects: their studies, or where they name none, their own UIDs (docs/adr/0015)."""
        if group[0].study_uid:
            return {LEVEL: ("STUDY",), STUDY_UID: tuple(sorted({obj.study_uid for obj in group}))}
        uids = tuple(obj.sop_instance for obj in group)
        return {LEVEL: ("IMAGE",), STUDY_UID: (), SERIES_UID: (), SOP_INSTANCE: uids}

    def families(self) -> Iterator[list[Object]]:
        """What is kept, those of a study together, those of none by themselves, as one association can carry them."""
        named = sorted((o for o in self.kept.values() if o.study_uid), key=lambda o: o.study_uid)
        yield from groups(named)
        yield from groups([o for o in self.kept.values() if not o.study_uid])

    def check_get(self) -> None:
        """C-GET everything."""
        for group in self.families():
            came: dict[str, bytes] = {}

            def keep(message: Message, came: dict[str, bytes] = came) -> int:
                came[message.text(dimse.AFFECTED_INSTANCE)] = message.data or b""
                return 0

            storage = [Offer(2 * n + 3, c, (t,), scp=True) for n, (c, t) in enumerate(pairs(group))]
            with RawRequestor(self.coffer.port, [Offer(1, GET, (IMPLICIT_LE,)), *storage]) as peer:
                request = encode_identifier(self.keys_of(group), (), implicit=True)
                peer.request(peer.contexts[1], dimse.C_GET, request)
                final = peer.final(keep)
            self.check("C-GET", final, came, group)

    def check_move(self) -> None:
        """C-MOVE everything."""
        self.destination.came.clear()
        for group in self.families():
            with RawRequestor(self.coffer.port, [Offer(1, MOVE, (IMPLICIT_LE,))]) as peer:
                request = encode_identifier(self.keys_of(group), (), implicit=True)
                peer.request(peer.contexts[1], dimse.C_MOVE, request, DESTINATION="RAWDST")
                final = peer.final()
            self.check("C-MOVE", final, self.destination.data, group)

    def check(self, way: str, final: Message, came: Mapping[str, bytes], group: Sequence[Object]) -> None:
        """A final success, and every byte as it was sent."""
        assert (final.status, final.counters[1:]) == (0, (len(group), 0, 0)), (way, final.comment)
        changed = [obj.sop_instance for obj in group if came.get(obj.sop_instance) != obj.data]
        assert not changed, f"{way}: {changed[:5]}"

    def check_export(self, folder: Path) -> None:
        """`coffer get` everything."""
        back = exported(self.coffer, folder, sorted(self.kept))
        changed = [u for u, obj in self.kept.items() if hashlib.sha256(obj.data).hexdigest() not in back[u]]
        assert not changed, f"coffer get: {changed[:5]}"

    def check_find(self) -> None:
        """Every study is in one answer to a query for all, with every key that there is."""
        keys = {tag: () for tag, a in ATTRIBUTES.items() if a.level <= QueryLevel.STUDY}
        with RawRequestor(self.coffer.port, [Offer(1, FIND, (EXPLICIT,))]) as peer:
            request = encode_identifier({LEVEL: ("STUDY",), **keys}, (), implicit=False)
            peer.request(peer.contexts[1], dimse.C_FIND, request)
            answers = list(peer.responses())
        assert answers[-1].status == 0, answers[-1].comment
        found = {decode_identifier(a.data or b"", implicit=False).values[STUDY_UID] for a in answers[:-1]}
        assert {(obj.study_uid,) for obj in self.kept.values() if obj.study_uid} <= found


def pairs(objects: Sequence[Object]) -> list[tuple[str, str]]:
    """SOP classes and transfer syntaxes of some objects, each pair once."""
    return sorted({(obj.sop_class, obj.transfer_syntax) for obj in objects})


def groups(objects: Sequence[Object]) -> Iterator[list[Object]]:
    """The objects in order, in groups with as many pairs as one association can have, studies not divided."""
    group: list[Object] = []
    for obj in objects:
        is_new = not group or obj.study_uid != group[-1].study_uid or not obj.study_uid
        if is_new and len(pairs([*group, obj])) > MOST_CONTEXTS:
            yield group
            group = []
        group.append(obj)
    if group:
        yield group


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    """A running server with one move destination."""
    with RawDestination() as destination:
        base = tmp_path / "coffer"
        base.mkdir()
        coffer = CofferProcess(base, [Peer("RAWDST", destination.port)])
        coffer.init()
        coffer.start()
        try:
            yield Ward(coffer, destination)
            coffer.stop()
            coffer.here("verify", "--level", "decrypt")
        finally:
            coffer.kill()


@pytest.mark.peer
def test_made_up_objects_come_back_whatever_happens(ward: Ward, tmp_path: Path) -> None:
    everything = [*healthy_objects(), *list(odd_objects(named=True))[::3], *bombs()]
    ward.send(everything)
    assert set(ward.kept) == {obj.sop_instance for obj in everything}
    ward.check_find()
    ward.check_get()
    ward.check_move()

    ward.coffer.kill()
    ward.coffer.start()
    ward.check_find()
    ward.check_get()

    ward.coffer.stop()
    ward.coffer.run("index", "rebuild")
    ward.check_export(tmp_path / "rebuilt")
    ward.coffer.start()
    ward.check_find()
    ward.check_move()

    ward.coffer.run("keys", "rotate")
    ward.coffer.run("keys", "rekey", "--all-before", "2", "--reason", "test", "--yes")
    ward.check_find()
    ward.check_get()


@pytest.mark.peer
def test_odd_files_of_real_programs_come_back_whatever_happens(ward: Ward, shared_data: Path, tmp_path: Path) -> None:
    ward.send(list(of_files(shared_data)))
    assert len(ward.kept) > 40
    ward.check_get()
    ward.check_move()
    ward.coffer.stop()
    (ward.coffer.archive / "index" / "data.mdb").unlink()
    ward.coffer.start()
    ward.check_get()
    ward.check_export(tmp_path / "out")
