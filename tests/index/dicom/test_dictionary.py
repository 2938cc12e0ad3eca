"""The table of VRs is pydicom's dictionary. COFFER_WRITE_GOLDEN=1 writes it anew after a new edition of pydicom."""

import os
import re
import textwrap
from collections import defaultdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import dictionary_VR

from coffer.index.dicom import dictionary
from coffer.index.dicom.dictionary import dictionary_vr

TABLE = re.compile(r'(?<=_TABLE: Final = """\\\n)[^"]*(?=""")')


def packed() -> str:
    """The table as it should be."""
    rows: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    entries = {**{f"{tag:08X}": entry for tag, entry in DicomDictionary.items()}, **RepeatersDictionary}
    for digits, entry in sorted(entries.items()):
        rows[entry[0]][digits[:4]].append(digits[4:])
    parts = [
        ",".join([vr, *(" ".join([group, *elements]) for group, elements in groups.items())])
        for vr, groups in sorted(rows.items())
    ]
    return "\n".join(line for part in parts for line in textwrap.wrap(part + ";", 118)).removesuffix(";") + "\n"


def theirs(tag: int) -> str | None:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return None


def test_the_table_is_that_of_pydicom() -> None:
    path = Path(dictionary.__file__)
    if os.environ.get("COFFER_WRITE_GOLDEN"):
        path.write_text(TABLE.sub(packed(), path.read_text(encoding="utf-8")), encoding="utf-8")
    found = TABLE.search(path.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == packed()


def test_each_tag_has_the_vr_of_pydicom() -> None:
    repeated = [int(digits.replace("x", fill), 16) for digits in RepeatersDictionary for fill in "02E"]
    tags = [*DicomDictionary, *repeated]
    assert [(tag, dictionary_vr(tag)) for tag in tags] == [(tag, theirs(tag)) for tag in tags]


@given(st.integers(0, 0x7FFF), st.integers(0, 0xFFFF))
def test_any_tag_of_an_even_group(group: int, element: int) -> None:
    tag = group << 17 | element
    assert dictionary_vr(tag) == theirs(tag)
