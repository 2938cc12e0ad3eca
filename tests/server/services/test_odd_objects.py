"""No stored object harms another's answer: odd values in every indexed attribute, then every query and retrieval.

Through the real ingest into a real archive. A final status of success is an iterator that ends without an error; what
the network does with it is tested in tests/server/dimse.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from coffer.index.dicom.attributes import ATTRIBUTES, BINARY_VRS, COMPUTED, QueryLevel, Values
from coffer.index.dicom.headers import decode_identifier
from coffer.index.dicom.identifier import encode_identifier
from coffer.server.access.principal import Principal
from coffer.server.cli import main
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.services.api import StoreRequest
from coffer.server.services.find import Finder
from coffer.server.services.part10 import Part10, header_bytes
from coffer.server.services.retrieve import Retriever
from tests.captured_logs import capture_logs
from tests.server.filled import status
from tests.server.odd_objects import (
    EXPLICIT,
    IMPLICIT,
    SECONDARY_CAPTURE,
    SERIES_UID,
    SOP_INSTANCE,
    STUDY_UID,
    Object,
    element,
    healthy_objects,
    healthy_value,
    item,
    odd_objects,
)
from tests.services import services

LEVEL, PATIENT_ID, CHARSET = 0x00080052, 0x00100020, 0x00080005
CALLER = Principal.peer("TESTER")
ROOTS = {"patient": ("PATIENT", "STUDY", "SERIES", "IMAGE"), "study": ("STUDY", "SERIES", "IMAGE")}


def config_of(base: Path) -> Config:
    return Config(
        archive=base / "a",
        http=Http(enabled=False),
        keys=Keys(key_file=base / "k"),
        storage=Storage(reserve_bytes=16 << 20),
    )


def store(engine: WritableArchive, obj: Object) -> int:
    reception = services(engine).ingest.begin(
        StoreRequest(obj.sop_class, obj.sop_instance, obj.transfer_syntax, CALLER)
    )
    reception.write(obj.data)
    return status(reception.finish())


def find(
    engine: WritableArchive, level: str, model: str, keys: Mapping[int, Values], *, implicit: bool
) -> list[Mapping[int, Values]]:
    """The decoded answers of one C-FIND."""
    request = encode_identifier({LEVEL: (level,), **keys}, ("ISO_IR 192",), implicit=implicit)
    rows = Finder(engine).find(request, implicit=implicit, model=model, caller=CALLER).rows
    return [decode_identifier(row, implicit=implicit).values for row in rows if row is not None]


def retrieve(engine: WritableArchive, level: str, model: str, keys: Mapping[int, Values]) -> set[bytes]:
    """The data sets that one C-GET would send."""
    request = encode_identifier({LEVEL: (level,), **keys}, (), implicit=True)
    plan = Retriever(engine).plan(request, implicit=True, model=model, caller=CALLER)
    return {b"".join(one.open()) for one in plan.instances}


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[WritableArchive, Sequence[Object], Sequence[Object]]]:
    """An archive of healthy and odd objects, each odd one stored between the healthy ones."""
    config = config_of(tmp_path_factory.mktemp("odd"))
    create_archive(config)
    healthy, odd = list(healthy_objects()), list(odd_objects())
    with open_writer(config) as engine:
        for obj in (*healthy[:4], *odd, *healthy[4:]):
            assert store(engine, obj) == 0, obj.data[:200]
        yield engine, healthy, odd


def keys_of(level: str) -> dict[int, Values]:
    """Every attribute and every computed key down to a level."""
    down_to = QueryLevel[level]
    return {
        **{tag: () for tag, a in ATTRIBUTES.items() if a.level <= down_to},
        **{tag: () for tag, at in COMPUTED.items() if at <= down_to},
    }


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(("model", "level"), [(m, lv) for m, levels in ROOTS.items() for lv in levels])
def test_every_query_level_has_every_healthy_object(
    archive: tuple[WritableArchive, Sequence[Object], Sequence[Object]], model: str, level: str, implicit: bool
) -> None:
    engine, healthy, _ = archive
    for obj in healthy:
        keys = keys_of(level)
        patient = obj.study_uid[-1]
        if level != "PATIENT" and model == "patient":
            keys[PATIENT_ID] = (f"HEALTHY{patient}",)
        if level in ("SERIES", "IMAGE"):
            keys[STUDY_UID] = (obj.study_uid,)
        if level == "IMAGE":
            keys[SERIES_UID] = (obj.series_uid,)
        rows = find(engine, level, model, keys, implicit=implicit)
        unique, value = {
            "PATIENT": (PATIENT_ID, f"HEALTHY{patient}"),
            "STUDY": (STUDY_UID, obj.study_uid),
            "SERIES": (SERIES_UID, obj.series_uid),
            "IMAGE": (SOP_INSTANCE, obj.sop_instance),
        }[level]
        (row,) = [row for row in rows if row[unique] == (value,)]
        for tag, a in ATTRIBUTES.items():
            if tag in keys and a.vr not in ("SQ", "UI", *BINARY_VRS):
                assert row[tag] == (healthy_value(tag, int(patient)).decode(),), hex(tag)


@pytest.mark.parametrize("model", ["patient", "study"])
def test_every_attribute_can_be_matched_whatever_others_hold(
    archive: tuple[WritableArchive, Sequence[Object], Sequence[Object]], model: str
) -> None:
    engine, healthy, _ = archive
    obj = healthy[0]
    for tag, a in sorted(ATTRIBUTES.items()):
        if a.vr in ("SQ", "UI") or a.level < (QueryLevel.PATIENT if model == "patient" else QueryLevel.STUDY):
            continue
        level = a.level.name
        raw = healthy_value(tag, 1)
        value = str(int.from_bytes(raw, "little")) if a.vr in BINARY_VRS else raw.decode()
        tries = [value]
        if a.vr in ("DA", "TM", "DT"):
            tries += [f"{value}-", f"-{value}", f"{value}-{value}"]
        elif a.vr not in ("IS", "DS", "AS", *BINARY_VRS):
            tries += ["HEALTHY*", "*LTHY1", "HE?LTHY1*", "*" + "?" * 8]
        for key in tries:
            keys: dict[int, Values] = {PATIENT_ID: ("HEALTHY1",)} if model == "patient" else {}
            keys |= {STUDY_UID: (obj.study_uid,) if level in ("SERIES", "IMAGE") else ()}
            keys |= {SERIES_UID: (obj.series_uid,)} if level == "IMAGE" else {}
            keys[tag] = (key,)
            assert find(engine, level, model, keys, implicit=True), (hex(tag), key)
            if level == "STUDY":
                del keys[STUDY_UID]
                rows = find(engine, level, model, {STUDY_UID: (), **keys}, implicit=True)
                assert (obj.study_uid,) in [row[STUDY_UID] for row in rows], (hex(tag), key)


def test_every_study_that_is_answered_can_be_asked_and_retrieved_further(
    archive: tuple[WritableArchive, Sequence[Object], Sequence[Object]],
) -> None:
    engine, healthy, odd = archive
    sent = {obj.data for obj in (*healthy, *odd)}
    for row in find(engine, "STUDY", "study", {STUDY_UID: ()}, implicit=True):
        (study,) = row[STUDY_UID]
        if not isinstance(study, str) or set("*?") & set(study):
            continue  # stored so, and no key can name it: PS3.5 9.1 allows digits and dots
        back = retrieve(engine, "STUDY", "study", {STUDY_UID: (study,)})
        assert back
        assert back <= sent
        for series in find(engine, "SERIES", "study", {STUDY_UID: (study,), SERIES_UID: ()}, implicit=True):
            if series[SERIES_UID] and not set("*?") & set(str(series[SERIES_UID][0])):
                keys = {STUDY_UID: (study,), SERIES_UID: series[SERIES_UID]}
                assert find(engine, "IMAGE", "study", {**keys_of("IMAGE"), **keys}, implicit=False)
                assert retrieve(engine, "SERIES", "study", keys) <= back


def test_every_retrieve_level_sends_the_healthy_objects_and_nothing_else(
    archive: tuple[WritableArchive, Sequence[Object], Sequence[Object]],
) -> None:
    engine, healthy, _ = archive
    for patient in ("1", "2"):
        mine = [obj for obj in healthy if obj.study_uid.endswith(patient)]
        series = [obj for obj in mine if obj.series_uid == mine[0].series_uid]
        keys: dict[int, Values] = {PATIENT_ID: (f"HEALTHY{patient}",)}
        assert retrieve(engine, "PATIENT", "patient", keys) == {obj.data for obj in mine}
        for model in ROOTS:
            above: dict[int, Values] = keys if model == "patient" else {}
            above = {**above, STUDY_UID: (mine[0].study_uid,)}
            assert retrieve(engine, "STUDY", model, above) == {obj.data for obj in mine}
            above = {**above, SERIES_UID: (mine[0].series_uid,)}
            assert retrieve(engine, "SERIES", model, above) == {obj.data for obj in series}
            above = {**above, SOP_INSTANCE: (mine[0].sop_instance,)}
            assert retrieve(engine, "IMAGE", model, above) == {mine[0].data}


def test_every_odd_object_is_found_by_its_uid_and_comes_back_bit_for_bit(
    archive: tuple[WritableArchive, Sequence[Object], Sequence[Object]],
) -> None:
    engine, _, odd = archive
    newest = {(obj.sop_instance, obj.transfer_syntax): obj for obj in odd}
    replaced = 0
    for obj in newest.values():
        found = Retriever(engine).instances({SOP_INSTANCE: (obj.sop_instance,)}, CALLER)
        back = [b"".join(one.open()) for one in found]
        twin = newest.get((obj.sop_instance, IMPLICIT))  # it may be a newer version of the same, in the same study
        replaced += obj.data not in back
        assert obj.data in back or (twin is not None and twin.data in back), obj.sop_instance
    assert replaced < 10


def test_what_is_kept_of_the_odd_objects_is_small(
    archive: tuple[WritableArchive, Sequence[Object], Sequence[Object]],
) -> None:
    engine, healthy, odd = archive
    folder = engine.config.archive / "index"
    engine.index.flush()
    used = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    assert used < (len(odd) + len(healthy)) * (64 << 10)


@pytest.mark.parametrize(
    ("poison", "key", "level"),
    [
        (element(0x00081032, "SQ", item(element(0x00280010, "LO", b"X "))), 0x00081032, "STUDY"),
        (element(0x00081032, "SQ", item(element(0x00080100, "US", b"\1\0"))), 0x00081032, "STUDY"),
        (element(0x00280010, "IS", b"70000 "), 0x00280010, "IMAGE"),
        (element(0x00280008, "US", b"\1\0"), 0x00280008, "IMAGE"),
        (element(0x00280010, "US", b"\1\0\2\0"), 0x00280010, "IMAGE"),
        (element(PATIENT_ID, "SQ", item(b"") * 2), PATIENT_ID, "STUDY"),
    ],
)
def test_one_object_of_the_wrong_kind_breaks_no_answer(tmp_path: Path, poison: bytes, key: int, level: str) -> None:
    """A number beyond its VR, text for a number, or a sequence for an ID once ended every query or retrieval it met."""
    config = config_of(tmp_path)
    create_archive(config)
    with open_writer(config) as engine:
        (first, *_) = healthy = list(healthy_objects())
        for obj in healthy:
            assert store(engine, obj) == 0
        names = [(STUDY_UID, "9.1"), (SERIES_UID, "9.1.1"), (SOP_INSTANCE, "9.1.1.1")]
        data = b"".join([*(element(tag, "UI", uid.encode()) for tag, uid in sorted(names)), poison])
        assert store(engine, Object(SECONDARY_CAPTURE, "9.1.1.1", "1.2.840.10008.1.2.1", data)) == 0
        keys: dict[int, Values] = {STUDY_UID: ("9.1",), key: ()}
        keys |= {SERIES_UID: ("9.1.1",)} if level == "IMAGE" else {}
        (row,) = find(engine, level, "study", keys, implicit=False)
        assert row[STUDY_UID] == ("9.1",)
        assert len(find(engine, "STUDY", "study", {STUDY_UID: (), key: ()}, implicit=False)) == 3
        mine = {obj.data for obj in healthy if obj.study_uid == first.study_uid}
        assert retrieve(engine, "PATIENT", "patient", {PATIENT_ID: ("HEALTHY1",)}) == mine


def test_one_file_never_ends_an_import(tmp_path: Path) -> None:
    """The files behind an odd one are imported: once a single byte in its character set took 280 of 300 with it."""
    config = config_of(tmp_path)
    create_archive(config)
    folder = tmp_path / "in"
    folder.mkdir()
    healthy, odd = list(healthy_objects()), list(odd_objects())
    escaped = element(CHARSET, "CS", b"\x1b ") + element(0x0020000D, "UI", b"7.1")
    odd.insert(0, Object(SECONDARY_CAPTURE, "7.1.1", "1.2.840.10008.1.2.1", escaped))
    for number, obj in enumerate((*healthy[:4], *odd, *healthy[4:])):
        meta = Part10(obj.sop_class, obj.sop_instance, obj.transfer_syntax, b"", b"", 0)
        (folder / f"{number:04}.dcm").write_bytes(header_bytes(meta, "TESTER") + obj.data)
    (folder / "9999.txt").write_bytes(b"no DICOM")
    settings = tmp_path / "coffer.toml"
    lines = f'archive = "{config.archive}"', "[http]", "enabled = false", "[keys]", f'key_file = "{tmp_path / "k"}"'
    settings.write_text("\n".join(lines) + "\n")
    told = CliRunner().invoke(
        main, ["--config", str(settings), "put", "--json", str(folder)], env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}
    )
    counts = json.loads(told.stdout)
    assert told.exit_code in (0, 12), told.output
    assert counts["stored"] + counts["duplicate"] + counts["skipped"] + counts["failed"] == len(healthy) + len(odd)
    assert counts["ignored"] == 1
    assert not [one for one in counts["not_stored"] if "fault" in one["reason"]]
    with open_reading(config) as engine:
        for obj in (*healthy, odd[0]):
            found = Retriever(engine).instances({SOP_INSTANCE: (obj.sop_instance,)}, CALLER)
            assert [b"".join(one.open()) for one in found] == [obj.data]


def test_an_object_that_queries_do_not_find_is_told_of_once(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    create_archive(config)
    lost = Object(SECONDARY_CAPTURE, "9.9.9", EXPLICIT, element(SOP_INSTANCE, "UI", b"9.9.9\0"))
    with capture_logs() as lines, open_writer(config) as engine:
        assert store(engine, lost) == 0
        assert store(engine, lost) == 0
    (line,) = [each for each in lines if each["name"] == "object.unindexed"]
    assert (line["log_level"], line["problem"]) == ("warning", "it has no Study Instance UID")
    assert "9.9.9" not in str(line)
