"""Keywords are those of pydicom's dictionary, for what the index knows and for the rest."""

from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, dictionary_VM, dictionary_VR, keyword_for_tag

from coffer.index.dicom.attributes import ATTRIBUTES, COMPUTED, ITEM_ATTRIBUTES
from coffer.index.dicom.keywords import KEYWORDS, closest, is_multiple, keyword_of, tag_of

KNOWN = {*ATTRIBUTES, *COMPUTED, *(tag for tags in ITEM_ATTRIBUTES.values() for tag in tags)}


def test_every_attribute_of_the_index_is_here() -> None:
    assert set(KEYWORDS) >= KNOWN


@given(st.sampled_from(sorted(DicomDictionary)) | st.sampled_from(sorted(KEYWORDS)))
def test_a_keyword_leads_to_its_tag_and_back(tag: int) -> None:
    keyword = keyword_for_tag(tag)
    assert keyword_of(tag) == keyword
    assert not keyword or tag_of(keyword) == tag
    assert is_multiple(tag) == (dictionary_VM(tag) != "1" or dictionary_VR(tag) == "SQ")


def test_the_table_is_that_of_pydicom() -> None:
    assert {tag: keyword_for_tag(tag) for tag in KEYWORDS} == KEYWORDS
    several = {tag for tag in KEYWORDS if dictionary_VM(tag) != "1" or dictionary_VR(tag) == "SQ"}
    assert {tag for tag in KEYWORDS if is_multiple(tag)} == several


def test_what_is_no_keyword() -> None:
    assert tag_of("PatientNmae") is None
    assert closest("PatientNmae") == "PatientName"
    assert closest("qqqqqqqq") is None
    assert keyword_of(0x00091001) == ""
    assert not is_multiple(0x00091001)
