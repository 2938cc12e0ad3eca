"""Patients kept apart and versions that count: the index beside a naive model of what was stored, in any order."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest

from coffer.index.dicom.attributes import Values
from coffer.index.index import Index
from coffer.index.instance.identity import PartId, Rules
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.rows import StudyRow, Version
from coffer.keys.errors import FormatError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.shred import drop, schedule
from tests.index.conftest import Filler, everything, study_key_of

STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018
NAME, PATIENT_ID, ISSUER, BORN = 0x00100010, 0x00100020, 0x00100021, 0x00100030
DATE, ACCESSION, MODALITIES, MODALITY = 0x00080020, 0x00080050, 0x00080061, 0x00080060
STUDY_SERIES, STUDY_INSTANCES, PATIENT_STUDIES, PATIENT_INSTANCES = 0x00201206, 0x00201208, 0x00201200, 0x00201204
RULES = Rules(default_issuer_by_ae={"WARD": "X"}, serve_by_ae={"SHY": "first"})


@dataclass(frozen=True)
class Stored:
    """One object as it came."""

    order: int
    study: str
    series: str
    sop: str
    patient_id: str
    issuer: str
    name: str
    born: str
    accession: str
    modality: str
    source_ae: str

    @property
    def part(self) -> PartId:
        issuer = (self.issuer or {"WARD": "X"}.get(self.source_ae, "")) if self.patient_id else ""
        return PartId(self.study, self.patient_id, issuer, "" if self.study else self.sop)

    @property
    def chain(self) -> tuple[str, str, str]:
        return self.study, self.series, self.sop


def served(stored: Iterable[Stored]) -> list[Stored]:
    """The version that counts of each instance: the first, then each whose sender may replace."""
    found: dict[tuple[str, str, str], Stored] = {}
    for each in sorted(stored, key=lambda one: one.order):
        if each.chain not in found or each.source_ae != "SHY":
            found[each.chain] = each
    return list(found.values())


def views(stored: Iterable[Stored]) -> dict[tuple[str, str, str], list[Stored]]:
    """What is served, by study, Patient ID and issuer, an absent issuer being the only one of its ID in the study."""
    counting = [each for each in served(stored) if each.study]
    out: dict[tuple[str, str, str], list[Stored]] = {}
    for each in counting:
        known = {
            one.part.issuer
            for one in counting
            if (one.study, one.patient_id) == (each.study, each.patient_id) and one.part.issuer
        }
        issuer = each.part.issuer or (known.pop() if len(known) == 1 else "")
        out.setdefault((each.study, each.patient_id, issuer), []).append(each)
    return out


def newest(objects: Iterable[Stored], name: str) -> tuple[str, ...]:
    values = [value for each in sorted(objects, key=lambda o: o.order) if (value := getattr(each, name))]
    return tuple(values[-1:])


def modelled(stored: Iterable[Stored]) -> dict[str, list[tuple[object, ...]]]:
    """What the index has to answer."""
    stored = list(stored)
    studies, series, images = [], [], []
    for (study, patient_id, issuer), objects in views(stored).items():
        who = study, patient_id, issuer
        by_series: dict[str, list[Stored]] = {}
        for each in objects:
            by_series.setdefault(each.series, []).append(each)
        told = (newest(objects, "name"), newest(objects, "born"), newest(objects, "accession"))
        modalities = tuple(sorted({each.modality for each in objects if each.modality}))
        studies.append((*who, *told, modalities, len(by_series), len(objects)))
        for uid, its in by_series.items():
            series.append((*who, uid, newest(its, "modality"), len(its)))
            images += [(*who, uid, each.sop, each.order) for each in its]
    patients: dict[tuple[str, ...], list[Stored]] = {}
    for (study, patient_id, issuer), objects in views(stored).items():
        patients.setdefault((patient_id, issuer) if patient_id else ("", study), []).extend(objects)
    counted = [
        (who[0], who[1] if who[0] else "", len({o.study for o in objects}), len(objects))
        for who, objects in patients.items()
    ]
    shared = sum(
        len({who for who in views(stored) if who[0] == uid}) > 1
        for uid in {each.study for each in stored if each.study}
    )
    totals = (len(studies), len(served(stored)), len(stored) - len(served(stored)), shared)
    return {
        "studies": sorted(studies),
        "series": sorted(series),
        "images": sorted(images),
        "patients": sorted(counted),
        "parts": sorted((tuple(_fields(part)), its) for part, its in _parts(stored).items()),
        "totals": [totals],
    }


def _fields(part: PartId) -> list[str]:
    return [part.study_uid, part.patient_id, part.issuer, part.sop_instance]


def _parts(stored: list[Stored]) -> dict[PartId, tuple[int, int]]:
    counting = {each.order for each in served(stored)}
    out: dict[PartId, tuple[int, int]] = {}
    for each in stored:
        shown, versions = out.get(each.part, (0, 0))
        out[each.part] = shown + (each.order in counting), versions + 1
    return out


def patient_in(row: Mapping[int, Values]) -> tuple[str, str]:
    """Patient ID and issuer; an issuer of no ID tells nobody apart."""
    patient_id, issuer = (str(row[tag][0]) if row[tag] else "" for tag in (PATIENT_ID, ISSUER))
    return patient_id, issuer if patient_id else ""


def answered(index: Index) -> dict[str, list[tuple[object, ...]]]:
    """What the index answers."""
    studies, series, images = [], [], []
    keys = (STUDY_UID, PATIENT_ID, ISSUER, NAME, BORN, ACCESSION, MODALITIES, STUDY_SERIES, STUDY_INSTANCES)
    for row in index.query("STUDY", dict.fromkeys(keys, ()), "study"):
        who = str(row[STUDY_UID][0]), *patient_in(row)
        numbers = (int(str(row[tag][0])) for tag in (STUDY_SERIES, STUDY_INSTANCES))
        studies.append((*who, *(row[tag] for tag in (NAME, BORN, ACCESSION, MODALITIES)), *numbers))
    for uid in sorted({str(study[0]) for study in studies}):
        wanted = {STUDY_UID: (uid,), SERIES_UID: (), PATIENT_ID: (), ISSUER: (), MODALITY: (), 0x00201209: ()}
        for row in index.query("SERIES", wanted, "study"):
            who = uid, *patient_in(row)
            name = str(row[SERIES_UID][0])
            series.append((*who, name, row[MODALITY], int(str(row[0x00201209][0]))))
        found = {each.version.order.seq: each for each in index.locate({STUDY_UID: (uid,)})}
        for order, each in found.items():
            who = uid, each.patient.patient_id, each.patient.issuer
            images.append((*who, each.series_uid, each.sop_instance, order))
    keys = (PATIENT_ID, ISSUER, PATIENT_STUDIES, PATIENT_INSTANCES)
    patients = [
        (*patient_in(row), *(int(str(row[tag][0])) for tag in (PATIENT_STUDIES, PATIENT_INSTANCES)))
        for row in index.query("PATIENT", dict.fromkeys(keys, ()), "patient")
    ]
    stats = index.stats()
    return {
        "studies": sorted(studies),
        "series": sorted(series),
        "images": sorted(images),
        "patients": sorted(patients),
        "parts": sorted((tuple(_fields(part.id)), (part.instances, part.versions)) for part in index.all_parts()),
        "totals": [(stats.studies, stats.instances, stats.conflicts, stats.shared_studies)],
    }


def put(filler: Filler, each: Stored) -> None:
    filler.seq = each.order
    filler.add(
        each.study, each.series, each.sop, source_ae=each.source_ae, patient_id=each.patient_id, issuer=each.issuer,
        name=each.name, birth_date=each.born, accession=each.accession, modality=each.modality,
    )  # fmt: skip


def some_objects(random: Random) -> list[Stored]:
    """Objects of few studies, instances and patients, so that they meet."""
    pick = random.choice
    return [
        Stored(
            order=order,
            study=pick(["1.1", "1.1", "1.2", ""]),
            series=pick(["1.5", "1.6"]),
            sop=pick(["1.7", "1.8", "1.9"]),
            patient_id=pick(["A", "A", "B", ""]),
            issuer=pick(["", "", "X", "Y"]),
            name=pick(["ADAM^A", "BEA^B", ""]),
            born=pick(["19310203", ""]),
            accession=pick(["ACC1", "ACC2", ""]),
            modality=pick(["CT", "SR"]),
            source_ae=pick(["SCU", "SCU", "WARD", "SHY"]),
        )
        for order in range(random.randrange(20))
    ]


@pytest.mark.parametrize("seed", range(int(os.environ.get("COFFER_PATIENTS_SEEDS", "20"))))
def test_every_answer_is_that_of_the_model_in_any_order_and_after_parts_are_erased(
    keyring: Keyring, tmp_path: Path, seed: int
) -> None:
    """COFFER_PATIENTS_SEEDS=5000 runs it long."""
    random = Random(seed)
    stored = some_objects(random)
    with contextlib.closing(Index.open(tmp_path / "index", keyring, RULES)) as index:
        left = fill_and_erase(index, keyring, stored, random)
    with contextlib.closing(Index.open(tmp_path / "index", keyring, RULES)) as again:
        assert answered(again) == modelled(left)
        assert again._tables.store.complaint() is None
        again.clear()
        filler = Filler(again, keyring)
        for each in left:
            put(filler, each)
        assert answered(again) == modelled(left)


def fill_and_erase(index: Index, keyring: Keyring, stored: list[Stored], random: Random) -> list[Stored]:
    """Put everything in, in any order, shred some parts, and look after each step; returns what is left."""
    filler = Filler(index, keyring)
    order = list(stored)
    random.shuffle(order)
    for each in order:
        put(filler, each)
        if random.random() < 0.2:
            index.stats()
    assert answered(index) == modelled(stored)
    gone = {part for part in sorted({each.part for each in stored}, key=repr) if random.random() < 0.4}
    names = {filler.keys[part].key_id: index.study_token(part.name) for part in gone}
    schedule(keyring, names, now_ms=1, until_ms=2)
    left = [each for each in stored if each.part not in gone]
    assert answered(index) == modelled(left)
    for key_id, name in names.items():
        index.forget(key_id, name)
    index.flush()
    drop(keyring, list(names))
    assert answered(index) == modelled(left)
    return left


def test_an_index_made_under_other_rules_is_not_used(
    index: Index, filler: Filler, reopen: Callable[..., Index], keyring: Keyring
) -> None:
    filler.add("1.1", "1.5", "1.7")
    index.close()
    with pytest.raises(FormatError, match="other \\[patients\\]"):
        reopen(RULES, readonly=True)
    emptied = reopen(RULES)
    assert (emptied.stats().instances, emptied.applied_seq) == (0, -1)
    emptied.close()
    assert reopen(RULES, readonly=True).stats().instances == 0


def test_holds_follow_the_latest_valid_date_of_every_version(index: Index, filler: Filler) -> None:
    for date in ("20250102", "20280229", "20290229", "99999999", "1.2", ""):
        filler.add("1.1", "1.5", "1.7", study_date=date)
    (part,) = index.parts("1.1")
    assert (part.latest_date, part.study_date, part.instances, part.versions) == ("20280229", "", 1, 6)
    assert part.received_ms == 1_700_000_000_005
    assert part.key_ids == {filler.key("1.1").key_id}


def test_a_corrected_patient_id_moves_the_object_and_leaves_the_older_version_to_holds(
    index: Index, filler: Filler
) -> None:
    filler.add("1.1", "1.5", "1.7", patient_id="A", name="ADAM^A", birth_date="19310203")
    filler.add("1.1", "1.5", "1.7", patient_id="B", name="BEA^B")
    (row,) = index.query("STUDY", dict.fromkeys((PATIENT_ID, NAME, BORN, STUDY_INSTANCES), ()), "study")
    assert [row[tag] for tag in (PATIENT_ID, NAME, BORN, STUDY_INSTANCES)] == [("B",), ("BEA^B",), (), ("1",)]
    assert list(index.query("PATIENT", {PATIENT_ID: ("A",)}, "patient")) == []
    (old,) = index.parts_of_patient("A ")
    assert (old.patient_name, old.instances, old.superseded) == ("ADAM^A", 0, 1)
    first, second = index.versions("1.7")
    assert [(each.number, each.is_served, each.part.patient_id) for each in (first, second)] == [
        (1, False, "A"),
        (2, True, "B"),
    ]
    assert (first.located.patient.patient_id, first.located.version.source_ae) == ("A", "SCU")


def test_a_version_without_a_value_takes_it_out_of_the_row(index: Index, filler: Filler) -> None:
    """A de-identified object that replaces the named one: nothing of the older one is in any answer."""
    filler.add("1.1", "1.5", "1.7", name="ADAM^A", birth_date="19310203", description="Knee", series_number="4")
    filler.add("1.1", "1.5", "1.7", name="", birth_date="", description="")
    keys = dict.fromkeys((NAME, BORN, 0x00081030), ())
    (row,) = index.query("STUDY", keys, "study")
    assert [row[tag] for tag in keys] == [(), (), ()]
    assert list(index.query("STUDY", {NAME: ("ADAM*",)}, "study")) == []
    (series,) = index.query("SERIES", {STUDY_UID: ("1.1",), 0x00200011: ()}, "study")
    assert series[0x00200011] == ()


def test_a_late_report_without_accession_number_hides_no_study_and_contradictions_are_counted(
    index: Index, filler: Filler
) -> None:
    filler.add("1.1", "1.5", "1.7", accession="ACC1", name="ADAM^A")
    filler.add("1.1", "1.6", "1.8", accession="", name="ADAM^A", modality="SR")
    assert len(list(index.query("STUDY", {ACCESSION: ("ACC1",)}, "study"))) == 1
    assert index.stats().differing_studies == 0
    filler.add("1.1", "1.6", "1.9", accession="ACC9", name="ADAM^A", modality="SR")
    assert index.stats().differing_studies == 1
    filler.add("1.1", "1.6", "1.9", accession="ACC1", name="ADAM^A", modality="SR")
    assert index.stats().differing_studies == 0


def test_a_study_that_comes_again_backwards_is_looked_through_once_for_a_question(
    index: Index, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each object that is replaced owned the name: stores do not look at the others, the next question does, once."""
    for number in range(20):
        filler.add("1.1", "1.5", f"1.7.{number}", name="ADAM^A")
    looked: list[int] = []
    described = index._views._described
    monkeypatch.setattr(index._views, "_described", lambda *args: (looked.append(1), described(*args))[1])
    for number in reversed(range(20)):
        filler.add("1.1", "1.5", f"1.7.{number}", name="")
    assert looked == []
    for _ in range(3):
        (row,) = index.query("STUDY", {NAME: ()}, "study")
        assert row[NAME] == ()
    assert len(looked) == 1


def test_many_patients_in_one_study_cost_a_question_no_more_than_each_a_look(
    index: Index, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer can make as many as it likes: neither a store nor a question may look at all of them for each of them."""
    looks = 0
    study = Lookup.study

    def counted(self: Lookup, ref: bytes) -> StudyRow | None:
        nonlocal looks
        looks += 1
        return study(self, ref)

    monkeypatch.setattr(Lookup, "study", counted)
    spent: list[dict[str, int]] = []
    for size in (40, 80):
        before, told = looks, {}
        for number in range(size):
            filler.add(f"1.{size}", f"1.{size}.1", f"1.{size}.{number}", patient_id=f"{size}-{number}")
        told["stores"], before = looks - before, looks
        for level, model in (("STUDY", "study"), ("PATIENT", "patient")):
            keys = {PATIENT_ID: (f"{size}-*",), NAME: (), PATIENT_STUDIES: ()}
            assert len(list(index.query(level, keys, model))) == size
            told[level], before = looks - before, looks
        assert len({each.patient for each in index.locate({STUDY_UID: (f"1.{size}",)})}) == size
        told["locate"], before = looks - before, looks
        assert len(index.parts(f"1.{size}")) == size
        told["parts"], before = looks - before, looks
        spent.append(told)
    few, many = spent
    # Twice as many in the study, and three times in the archive, where the second size is asked.
    assert all(many[what] <= 4 * few[what] for what in few), spent


def test_a_match_across_the_parts_of_one_patient_is_found(index: Index, filler: Filler) -> None:
    """Objects with and without issuer are one patient's study; no part alone has both values."""
    filler.add("1.1", "1.5", "1.7", accession="ACC1", name="")
    filler.add("1.1", "1.5", "1.8", issuer="X", description="Knee", name="")
    found = list(index.query("STUDY", {ACCESSION: ("ACC1",), 0x00081030: ("Knee",), ISSUER: ("X",)}, "study"))
    assert len(found) == 1
    (series,) = index.query("SERIES", {STUDY_UID: ("1.1",), SERIES_UID: (), 0x00201209: ()}, "study")
    assert series[0x00201209] == ("2",)


def test_a_reader_beside_the_writer_serves_the_older_version_once_the_newer_is_shredded(
    index: Index, filler: Filler, keyring: Keyring, reopen: Callable[..., Index]
) -> None:
    """Between the shred and its settling: also a process that opens the index only then."""
    filler.add("1.1", "1.5", "1.7", patient_id="A")
    filler.add("1.1", "1.5", "1.7", patient_id="B")
    index.close()
    schedule(keyring, {filler.key("1.1", "B").key_id: index.study_token("1.1")}, now_ms=1, until_ms=2)
    reader = reopen(readonly=True)
    assert [each.patient.patient_id for each in reader.locate({SOP_UID: ("1.7",)})] == ["A"]
    reader.close()


def test_an_object_sealed_again_stays_as_old_as_it_was(index: Index, filler: Filler, keyring: Keyring) -> None:
    """Its record is newer than that of the correction; what is served does not change."""
    old = filler.add("1.1", "1.5", "1.7", patient_id="A")
    filler.add("1.1", "1.5", "1.7", patient_id="B")
    told, key = everything(index)[2:], keyring.new_study()
    moved = replace_place(old, 9, key.key_id)
    held = index.rekey(index.study_token("1.1"), filler.key("1.1", "A").key_id, key.key_id, {old.id: moved})
    assert (0, 9) in held
    assert [each.patient.patient_id for each in index.locate({SOP_UID: ("1.7",)})] == ["B"]
    assert [each.located.version.seq for each in index.versions("1.7")] == [9, 1]
    assert study_key_of(index, PartId("1.1", "A")) == key.key_id
    assert everything(index)[2:] == told


def replace_place(version: Version, seq: int, key_id: bytes) -> Version:
    return msgspec.structs.replace(version, seq=seq, study_key_id=key_id)
