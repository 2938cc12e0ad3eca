"""Fixtures of the index tests: a cheap keyring, an index in a temporary folder, and made-up instances."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.format.entry import Position, Tip
from coffer.index.backends.memory_store import MemoryRowStore
from coffer.index.index import Index
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.identity import PartId, Rules
from coffer.index.instance.patient_id import identity_text
from coffer.index.tables.rows import Version
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile

ARCHIVE_ID = bytes(range(16))
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    """An empty keyring under a key file without a passphrase."""
    generate_keyfile(tmp_path / "key")
    ring = Keyring.create(tmp_path / "keyring", KeyFileProvider(tmp_path / "key"), ARCHIVE_ID)
    yield ring
    ring.close()


@pytest.fixture
def backend() -> str:
    """Where the rows are: in a "folder", or in "memory". Modules that run on both override it."""
    return "folder"


@pytest.fixture
def open_index(backend: str, tmp_path: Path, keyring: Keyring) -> Callable[..., Index]:
    """Opens the one index of the test, for the first time or again."""
    memory = MemoryRowStore()

    def opened(rules: Rules | None = None, **options: bool) -> Index:
        if backend == "memory":
            return Index.over(memory, keyring, rules or Rules(), **options)
        return Index.open(tmp_path / "index", keyring, rules or Rules(), **options)

    return opened


@pytest.fixture
def index(open_index: Callable[..., Index]) -> Iterator[Index]:
    """An empty index."""
    made = open_index()
    yield made
    made.close()


def entry(study: str, series: str, sop: str, **attributes: str) -> InstanceEntry:
    """An instance with a few attributes by the names of `_TAGS`, each one value."""
    levels: dict[str, dict[int, tuple[str, ...]]] = {"study": {}, "series": {}, "image": {}}
    for name, value in ({"modality": "CT", "name": "Doe^Jane", "patient_id": "P1"} | attributes).items():
        level, tag = _TAGS[name]
        if value:
            levels[level][tag] = tuple(value.split("\\"))
    sop_class = attributes.get("sop_class", CT_CLASS)
    levels["image"] |= {0x00080018: (sop,), 0x00080016: (sop_class,)}
    identity = [identity_text(levels["study"].get(tag, ())) for tag in (0x00100020, 0x00100021)]
    own = levels["study"], levels["series"], levels["image"]
    return InstanceEntry(study, series, sop, sop_class, *own, None, *identity)


_TAGS = {
    "name": ("study", 0x00100010),
    "patient_id": ("study", 0x00100020),
    "issuer": ("study", 0x00100021),
    "birth_date": ("study", 0x00100030),
    "study_date": ("study", 0x00080020),
    "accession": ("study", 0x00080050),
    "description": ("study", 0x00081030),
    "modality": ("series", 0x00080060),
    "series_number": ("series", 0x00200011),
    "number": ("image", 0x00200013),
    "sop_class": ("image", 0x00080016),
}


def version(seq: int, content: bytes = b"", flags: int = 0, source_ae: str = "SCU") -> Version:
    """The version that record `seq` would hold."""
    content_id = (content or seq.to_bytes(4, "big")).ljust(32, b"\1")
    position = Position(0, seq, 1, 160 * seq, 500)
    now_ms = 1_700_000_000_000 + seq
    return Version.of(position, now_ms, content_id, EXPLICIT_LE, 1000, now_ms, flags, source_ae)


def tip_above(made: Version) -> Tip:
    """The end that a made-up log has when this record is its last."""
    return Tip(made.log, made.seq + 1, sha256(made.content_id).digest())


class Filler:
    """Applies instances with rising seq, making study keys as ingest does."""

    def __init__(self, index: Index, keyring: Keyring) -> None:
        self.index = index
        self.keyring = keyring
        self.seq = 0
        self.keys: dict[PartId, StudyKey] = {}
        self.history: list[tuple[Version, bytes, InstanceEntry]] = []

    def add(  # the short ones that most tests need
        self,
        study: str,
        series: str,
        sop: str,
        content: bytes = b"",
        flags: int = 0,
        source_ae: str = "SCU",
        **attributes: str,
    ) -> Version:
        """Apply one instance."""
        made, what = version(self.seq, content, flags, source_ae), entry(study, series, sop, **attributes)
        part = self.index.rules.part_of(what, source_ae)
        if part not in self.keys:
            self.keys[part] = self.keyring.new_study()
        record = (made, self.keys[part].key_id, what)
        self.history.append(record)
        self.index.apply(*record, tip=tip_above(made))
        self.seq += 1
        return made

    def key(self, study: str, patient_id: str = "P1") -> StudyKey:
        """The key of a part without an issuer."""
        return self.keys[PartId(study, patient_id)]


@pytest.fixture
def filler(index: Index, keyring: Keyring) -> Filler:
    """A filler of the empty index."""
    return Filler(index, keyring)


@pytest.fixture
def reopen(open_index: Callable[..., Index]) -> Iterator[Callable[..., Index]]:
    """Opens the index again; closes what it opened."""
    opened: list[Index] = []

    def again(rules: Rules | None = None, **options: bool) -> Index:
        opened.append(open_index(rules, **options))
        return opened[-1]

    yield again
    for each in opened:
        each.close()


def study_key_of(index: Index, part: PartId) -> bytes | None:
    """The id of the key that a part's row is sealed under; None where it has no readable row."""
    _, row = index._lookup.part(part)
    return row.study_key_id if row else None


def everything(index: Index) -> list[object]:
    """Every answer of an index that a difference could show in: all levels, all located instances, all totals."""
    study_keys = dict.fromkeys(
        (0x0020000D, 0x00100010, 0x00100020, 0x00080020, 0x00080061, 0x00080062, 0x00201206, 0x00201208, 0x00201200), ()
    )
    out: list[object] = [index.stats()]
    patients = dict.fromkeys((0x00100010, 0x00100020, 0x00201200, 0x00201202, 0x00201204), ())
    out += sorted(map(repr, index.query("PATIENT", patients, "patient")))
    for study in sorted(index.query("STUDY", study_keys, "study"), key=repr):
        out.append(study)
        uid = {0x0020000D: study[0x0020000D]}
        series_keys = uid | dict.fromkeys((0x0020000E, 0x00080060, 0x00200011, 0x00201209), ())
        for series in sorted(index.query("SERIES", series_keys, "study"), key=repr):
            out.append(series)
            image_keys = uid | {0x0020000E: series[0x0020000E], 0x00080018: (), 0x00080016: (), 0x00200013: ()}
            out += sorted(map(repr, index.query("IMAGE", image_keys, "study")))
        out += sorted(map(repr, index.locate({tag: tuple(map(str, v)) for tag, v in uid.items()})))
    return out
