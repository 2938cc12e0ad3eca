"""The whole index: put in, found at once, durable, the same after a crash, and the same when built again."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coffer.index.backends.row_store import Change
from coffer.index.index import Index
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.identity import PartId
from coffer.index.tables import sealed_rows
from coffer.index.tables.rows import Version
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.shred import drop, schedule
from tests.index.conftest import Filler, entry, everything, study_key_of, version

STUDY_UID, SERIES_UID, SOP_UID, PATIENT_ID = 0x0020000D, 0x0020000E, 0x00080018, 0x00100020


def seqs(index: Index, sop_instance: str) -> list[int]:
    """The records of all versions under a SOP Instance UID."""
    return [each.located.version.seq for each in index.versions(sop_instance)]


def test_an_instance_is_found_at_once_and_after_reopening(
    index: Index, filler: Filler, reopen: Callable[..., Index]
) -> None:
    made = filler.add("1.1", "1.1.1", "1.1.1.1")
    for is_again in (False, True):
        if is_again:
            index.close()
        open_index = reopen() if is_again else index
        assert seqs(open_index, "1.1.1.1") == [made.seq]
        assert study_key_of(open_index, PartId("1.1", "P1")) == filler.key("1.1").key_id
        found = list(open_index.locate({STUDY_UID: ("1.1",)}))
        assert [(f.sop_instance, f.version.offset, f.study_key_id) for f in found] == [
            ("1.1.1.1", made.offset, filler.key("1.1").key_id)
        ]
        assert open_index.applied_seq == 0


def test_what_was_accepted_is_in_every_answer_that_begins_later(
    index: Index, keyring: Keyring, reopen: Callable[..., Index]
) -> None:
    key = keyring.new_study()
    for seq in range(3):
        index.accept(version(seq), key.key_id, entry("1.1", "1.1.1", f"1.1.1.{seq}"))
        assert len(list(index.locate({STUDY_UID: ("1.1",)}))) == index.stats().instances == seq + 1
    index.accept(version(3), key.key_id, entry("1.1", "1.1.1", "1.1.1.3"))
    index.accept(version(4), keyring.new_study().key_id, entry("1.2", "1.2.1", "1.2.1.1"))
    index.close()
    again = reopen()
    assert [len(list(again.locate({STUDY_UID: (uid,)}))) for uid in ("1.1", "1.2")] == [4, 1]


def test_an_accepted_object_that_cannot_go_in_holds_up_no_other(
    index: Index, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keyring.new_study()
    put = index._inserter.put

    def failing(one: Version, key_id: bytes, what: InstanceEntry) -> None:
        if one.seq == 1:
            raise IntegrityError("a row is damaged")
        put(one, key_id, what)

    monkeypatch.setattr(index._inserter, "put", failing)
    for seq in range(3):
        index.accept(version(seq), key.key_id, entry("1.1", "1.1.1", f"1.1.1.{seq}"))
    with pytest.raises(IntegrityError):
        index.follow()
    assert index.stats().instances == 2
    assert index.applied_seq == 0  # catch-up begins with what is missing


def test_what_was_accepted_is_found_also_when_the_index_cannot_write_any_more(
    index: Index, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was acknowledged: reads go on, and nothing more is taken."""
    key = keyring.new_study()
    index.accept(version(0), key.key_id, entry("1.1", "1.1.1", "1.1.1.1"))
    with monkeypatch.context() as patch:
        patch.setattr(index._tables, "_failure", UnavailableError("the index stopped"))
        assert len(list(index.locate({STUDY_UID: ("1.1",)}))) == 1
        with pytest.raises(UnavailableError):
            index.accept(version(1), key.key_id, entry("1.1", "1.1.1", "1.1.1.2"))


def test_the_same_record_twice_changes_nothing(index: Index, filler: Filler) -> None:
    filler.add("1.1", "1.1.1", "1.1.1.1")
    filler.add("1.1", "1.1.1", "1.1.1.2")
    before = everything(index)
    for record in filler.history:
        index.apply(*record)
    assert everything(index) == before


def test_other_content_is_a_new_version_and_counts_as_a_conflict(index: Index, filler: Filler) -> None:
    filler.add("1.1", "1.1.1", "1.1.1.1", name="Old^Name")
    filler.add("1.1", "1.1.1", "1.1.1.1", name="New^Name")
    assert seqs(index, "1.1.1.1") == [0, 1]
    (found,) = index.locate({SOP_UID: ("1.1.1.1",)})
    assert (found.version.seq, len(found.versions)) == (1, 2)
    (study,) = index.query("STUDY", {0x00100010: (), 0x00201208: ()}, "study")
    assert (study[0x00100010], study[0x00201208]) == (("New^Name",), ("1",))
    assert index.stats().conflicts == 1


def test_two_studies_that_claim_one_sop_uid_do_not_mix(index: Index, filler: Filler) -> None:
    filler.add("1.1", "1.1.1", "7.7")
    filler.add("2.2", "2.2.1", "7.7")
    filler.add("2.2", "1.1.1", "7.7")
    assert [f.version.seq for f in index.locate({SOP_UID: ("7.7",)})] == [0, 1, 2]
    assert [f.version.seq for f in index.locate({STUDY_UID: ("2.2",), SOP_UID: ("7.7",)})] == [1, 2]
    assert [f.version.seq for f in index.locate({STUDY_UID: ("2.2",), SERIES_UID: ("1.1.1",)})] == [2]
    assert [each.number for each in index.versions("7.7")] == [1, 1, 1]
    assert index.stats().instances == 3


def test_what_has_no_study_uid_is_located_by_its_sop_uid_only(index: Index, filler: Filler) -> None:
    filler.add("", "", "5.5", flags=1)
    (found,) = index.locate({SOP_UID: ("5.5",)})
    assert (found.study_uid, found.version.flags) == ("", 1)
    assert list(index.query("STUDY", {STUDY_UID: ()}, "study")) == []
    assert list(index.query("PATIENT", {PATIENT_ID: ()}, "patient")) == []
    assert index.stats().unindexed == 1
    assert list(index.locate({})) == []


def test_locate_by_patient_and_series(index: Index, filler: Filler) -> None:
    for number in range(4):
        filler.add(f"1.{number % 2}", f"1.{number % 2}.1", f"1.1.1.{number}", patient_id=f"P{number % 2}")
    assert [f.sop_instance for f in index.locate({PATIENT_ID: ("P1",)})] == ["1.1.1.1", "1.1.1.3"]
    assert [f.sop_instance for f in index.locate({PATIENT_ID: ("P1",), SERIES_UID: ("1.0.1",)})] == []
    assert [f.sop_instance for f in index.locate({SERIES_UID: ("1.0.1",)})] == ["1.1.1.0", "1.1.1.2"]


def test_a_crash_loses_nothing_that_the_log_still_has(
    index: Index, filler: Filler, reopen: Callable[..., Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        filler.add(f"1.{number % 3}", f"1.{number % 3}.{number % 2}", f"1.1.1.{number % 20}", name=f"N{number}^X")
        if number == 17:
            index.flush()
            monkeypatch.setattr(sealed_rows, "_FLUSH_SECONDS", 3600)
    expected = everything(index)
    index.close(flush=False)
    again = reopen()
    assert 17 <= again.applied_seq <= 29
    for record in filler.history[again.applied_seq + 1 :]:
        again.apply(*record)
    assert everything(again) == expected


@settings(max_examples=15)
@given(
    records=st.lists(
        st.tuples(*(st.integers(0, 2),) * 3, st.sampled_from(["CT", "MR", ""]), st.sampled_from(["A^B", "C^D", ""])),
        max_size=15,
    ),
    random=st.randoms(use_true_random=False),
)
def test_records_in_any_order_and_repeated_give_the_same_answers(
    index: Index, keyring: Keyring, records: list[tuple[int, int, int, str, str]], random: object
) -> None:
    index.clear()
    filler = Filler(index, keyring)
    for study, series, sop, modality, name in records:
        filler.add(f"1.{study}", f"1.{series}", f"1.{sop}", bytes((sop, len(name))), modality=modality, name=name)
    expected = everything(index)
    shuffled = filler.history * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    index.clear()
    for record in shuffled:
        index.apply(*record)
    assert everything(index) == expected


def test_queries_stay_consistent_while_others_store(index: Index, filler: Filler) -> None:
    filler.add("1.0", "1.0.1", "1.0.1.0")
    stop = threading.Event()
    failures: list[object] = []

    def ask() -> None:
        while not stop.is_set():
            for study in index.query("STUDY", {STUDY_UID: (), 0x00201208: ()}, "study"):
                keys = {STUDY_UID: study[STUDY_UID], SERIES_UID: (str(study[STUDY_UID][0]) + ".1",), SOP_UID: ()}
                images = list(index.query("IMAGE", keys, "study"))
                if len(images) < int(str(study[0x00201208][0])):
                    failures.append((study, len(images)))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 400):
        filler.add(f"1.{number % 7}", f"1.{number % 7}.1", f"1.{number % 7}.1.{number}")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_nothing_readable_reaches_the_disk(index: Index, filler: Filler, tmp_path: Path) -> None:
    planted = {"name": "Wunderlich^Friederike", "patient_id": "PAT-4711-XY", "birth_date": "19610823",
               "study_date": "20240229", "accession": "ACC9988776", "description": "Schaedel nativ"}  # fmt: skip
    uids = ("1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3")
    for number in range(50):
        filler.add(uids[0], uids[1], f"{uids[2]}.{number}", **planted)
    index.flush()
    stored = b"".join(p.read_bytes() for p in sorted((tmp_path / "index").iterdir()))
    needles = [*uids, *planted.values(), "Wunderlich", "Friederike", "1.2.826.0", "wunderlich", "1.2.840.10008"]
    for needle in needles:
        for encoding in ("ascii", "utf-16-le", "utf-16-be"):
            assert needle.encode(encoding) not in stored
        assert needle.encode()[::-1] not in stored
    assert len(stored) > 20_000
    modes = {oct(p.stat().st_mode & 0o777) for p in (tmp_path / "index").iterdir()}
    assert modes == {"0o600"}
    assert (tmp_path / "index").stat().st_mode & 0o777 == 0o700


def test_rows_that_were_swapped_or_flipped_are_found(
    index: Index, filler: Filler, reopen: Callable[..., Index]
) -> None:
    filler.add("1.1", "1.1.1", "1.1.1.1", name="First^One")
    filler.add("2.2", "2.2.1", "2.2.1.1", name="Second^One")
    index.flush()
    store = index._tables.store
    (first, one), (second, two) = store.scan("instance")
    store.write(0, [("instance", first, two), ("instance", second, one[:-1] + bytes((one[-1] ^ 1,)))])
    index.close()
    damaged = reopen()
    for uid in ("1.1", "2.2"):
        with pytest.raises(IntegrityError):
            list(damaged.locate({STUDY_UID: (uid,)}))


def shred(keyring: Keyring, study: str, key_id: bytes, index: Index) -> None:
    """Shred one study's key as another process would."""
    assert schedule(keyring, {key_id: index.study_token(study)}, now_ms=1, until_ms=2) == [key_id]


def test_forgetting_a_study_leaves_the_others(
    index: Index, filler: Filler, reopen: Callable[..., Index], keyring: Keyring
) -> None:
    filler.add("2.2", "2.2.1", "7.7")
    part = PartId("1.1", "P9")
    rest = everything(index)[1:]
    filler.add("1.1", "1.1.1", "1.1.1.1", patient_id="P9")
    filler.add("1.1", "1.1.2", "7.7", patient_id="P9")
    before, key_id = index.stats(), filler.keys[part].key_id
    index.flush()  # else the flusher may come between the shred and its end, and drop what waits
    shred(keyring, "1.1", key_id, index)
    assert everything(index)[1:] == rest
    assert study_key_of(index, part) is None
    assert (before.instances, index.stats().instances, index.stats().studies) == (3, 1, 1)
    assert index.forget(key_id, index.study_token("1.1")) == 2
    assert index.forget(key_id, index.study_token("1.1")) == 0
    index.flush()
    drop(keyring, [key_id])
    assert [len(index._tables.store.scan(table)) for table in ("study", "series", "instance")] == [1, 1, 1]
    assert len(index._tables.store.scan("uid")) == 4
    for is_again in (False, True):
        if is_again:
            index.close()
        again = reopen() if is_again else index
        assert everything(again)[1:] == rest
        assert [f.study_uid for f in again.locate({SOP_UID: ("7.7",)})] == ["2.2"]
        assert study_key_of(again, part) is None
        assert again.stats().studies == 1


def test_when_a_study_is_shredded_the_tombstones_of_others_are_not_read_again(
    index: Index, keyring: Keyring, filler: Filler
) -> None:
    filler.add("1.1", "1.1.1", "1.1.1.1")
    filler.add("2.2", "2.2.1", "2.2.1.1")
    keyring.amend([(rows.TOMBSTONE_PREFIX + bytes(16), b"a row that is no tombstone")])
    shred(keyring, "1.1", filler.keys[PartId("1.1", "P1")].key_id, index)
    assert [len(list(index.locate({STUDY_UID: (uid,)}))) for uid in ("1.1", "2.2")] == [0, 1]


@pytest.mark.parametrize("stored", [True, False])
def test_a_shredded_study_that_comes_again_is_a_new_one(
    index: Index, filler: Filler, keyring: Keyring, reopen: Callable[..., Index], stored: bool
) -> None:
    keyring.require_whole()  # now, so that the shred comes before the flusher
    part = PartId("1.1", "P1")
    filler.add("1.1", "1.1.1", "1.1.1.1")
    filler.add("1.1", "1.1.2", "1.1.2.1")
    if stored:
        index.flush()
    old = filler.keys.pop(part).key_id
    shred(keyring, "1.1", old, index)
    late = version(99)
    index.apply(late, old, entry("1.1", "1.1.1", "1.1.1.9"))  # was committed when the key went
    assert index.applied_seq == 1
    index.follow()
    index.apply(version(98), old, entry("1.1", "1.1.1", "1.1.1.8"))
    assert not list(index.locate({STUDY_UID: ("1.1",)}))
    filler.add("1.1", "1.1.1", "1.1.1.1")
    index.flush()
    assert index.forget(old, index.study_token("1.1")) == (2 if stored else 0)  # what waited was never written
    index.flush()
    drop(keyring, [old])
    for each in (index, None):
        index.close() if each is None else None
        now = each or reopen()
        assert [f.sop_instance for f in now.locate({STUDY_UID: ("1.1",)})] == ["1.1.1.1"]
        assert study_key_of(now, part) == filler.keys[part].key_id
        assert (now.stats().studies, now.stats().instances, now.stats().unreadable_studies) == (1, 1, 0)
        assert len(now._tables.store.scan("uid")) == 4
        assert now._tables.store.complaint() is None


def test_an_index_that_was_put_back_shows_nothing_shredded(
    index: Index, filler: Filler, keyring: Keyring, reopen: Callable[..., Index]
) -> None:
    part = PartId("1.1", "P1")
    filler.add("1.1", "1.1.1", "1.1.1.1")
    filler.add("2.2", "2.2.1", "2.2.1.1")
    index.close()
    shred(keyring, "1.1", filler.keys[part].key_id, index)
    again = reopen()
    assert (again.stats().studies, again.stats().unreadable_studies) == (1, 1)
    assert again.forget(filler.keys[part].key_id, again.study_token("1.1")) == 1
    assert (again.stats().studies, again.stats().unreadable_studies) == (1, 0)


def test_reading_beside_the_writer(tmp_path: Path, index: Index, filler: Filler, keyring: Keyring) -> None:
    with pytest.raises(UnavailableError):
        Index.open(tmp_path / "absent", keyring, readonly=True)
    filler.add("1.1", "1.1.1", "1.1.1.1")
    index.flush()
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from coffer.index.index import Index;"
        "from coffer.keys.keyring.keyring import Keyring;"
        "from coffer.keys.providers.key_file import KeyFileProvider; root = Path(sys.argv[1]);"
        "ring = Keyring.open(root / 'keyring', KeyFileProvider(root / 'key'), readonly=True);"
        "ix = Index.open(root / 'index', ring, readonly=True); print(ix.stats().instances, ix.applied_seq)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["1", "0"], out.stderr


def test_an_index_of_another_archive_is_refused(tmp_path: Path, index: Index, filler: Filler) -> None:
    from coffer.keys.providers.key_file import KeyFileProvider

    filler.add("1.1", "1.1.1", "1.1.1.1")
    index.close()
    other = Keyring.create(tmp_path / "other", KeyFileProvider(tmp_path / "key"), bytes(16))
    try:
        with pytest.raises(IntegrityError):
            Index.open(tmp_path / "index", other)
    finally:
        other.close()


def test_what_could_not_be_written_for_want_of_memory_waits_for_the_next_flush(
    tmp_path: Path, index: Index, filler: Filler, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler.add("1.1", "1.1.1", "1.1.1.1")
    index.flush()
    store, is_short = index._tables.store, [True]
    write = store.write

    def failing(epoch: int, changes: Sequence[Change]) -> None:
        if is_short:
            raise MemoryError
        write(epoch, changes)

    monkeypatch.setattr(store, "write", failing)
    for number in (2, 3):
        filler.add("1.1", "1.1.1", f"1.1.1.{number}")
        filler.add("1.2", "1.2.1", f"1.2.1.{number}")
        with pytest.raises(MemoryError):
            index.flush()
    assert len(list(index.locate({STUDY_UID: ("1.1",)}))) == 3
    is_short.clear()
    index.flush()
    index.require_writable()
    index.close(flush=False)
    again = Index.open(tmp_path / "index", keyring)
    try:
        found = {each.sop_instance for each in again.locate({STUDY_UID: ("1.1", "1.2")})}
        assert found == {"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.2.1.2", "1.2.1.3"}
        assert again.applied_seq == filler.seq - 1
    finally:
        again.close()
