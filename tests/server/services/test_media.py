"""Walking folders and DICOMDIRs: every file once, nothing outside, nothing that is no regular file."""

import contextlib
import os
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from coffer.keys.errors import InputError
from coffer.server.services.media import find_files, read_media_directory


def directory(path: Path, *references: list[str] | str) -> Path:
    """Write a DICOMDIR that refers to files by their components."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    records = []
    for reference in references:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.add_new(0x00041500, "CS", reference)
        records.append(record)
    ds.DirectoryRecordSequence = records
    ds.save_as(path, enforce_file_format=True)
    return path


def test_folders_are_walked_in_order_and_each_file_comes_once(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/x/9", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    os.link(tmp_path / "c", tmp_path / "d")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [f.path.relative_to(tmp_path).as_posix() for f in find_files([tmp_path, tmp_path / "b", tmp_path / "c"])]
    assert found == ["c", "a/x/9", "b/1", "b/2"]


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = {f.path.name: f.problem for f in find_files([tmp_path])}
    assert found == {"pipe": "not a regular file", "gone": "No such file or directory"}


def test_a_dicomdir_names_its_files_whatever_their_case(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "im1").write_bytes(b"1")
    (tmp_path / "IMAGES2").write_bytes(b"2")
    found = read_media_directory(directory(tmp_path / "DICOMDIR", ["IMAGES", "IM1"], "IMAGES2", ["NONE"]))
    assert [(f.path.name, f.problem) for f in found] == [
        ("im1", ""),
        ("IMAGES2", ""),
        ("NONE", "named in the DICOMDIR, but not there"),
    ]


@pytest.mark.parametrize("reference", [["..", "SECRET"], ["A", "..", "..", "SECRET"], ["/etc/passwd"], ["."], ["LINK"]])
@pytest.mark.filterwarnings("ignore")
def test_a_dicomdir_never_leads_out_of_its_folder(tmp_path: Path, reference: list[str]) -> None:
    (tmp_path / "SECRET").write_bytes(b"secret")
    media = tmp_path / "media"
    (media / "A").mkdir(parents=True)
    (media / "LINK").symlink_to(tmp_path / "SECRET")
    (found,) = read_media_directory(directory(media / "DICOMDIR", reference))
    assert found.problem == "the DICOMDIR refers to a place outside its folder"


def test_what_is_no_dicomdir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"\x02\x00\x00\x00UL\x04\x00\xff" * 50)
    with contextlib.suppress(InputError):
        assert read_media_directory(tmp_path / "DICOMDIR") == []
    with pytest.raises(InputError, match="cannot be read as a DICOMDIR: FileNotFoundError"):
        read_media_directory(tmp_path / "none")


def test_real_dicomdirs(shared_data: Path) -> None:
    base = shared_data / "real/pydicom-pydicom/dicomdir"
    for name, count in (
        ("DICOMDIR", 31),
        ("DICOMDIR-implicit", 31),
        ("DICOMDIR-bigEnd", 31),
        ("DICOMDIR-empty.dcm", 0),
    ):
        found = read_media_directory(base / name)
        assert (len(found), [f for f in found if f.problem]) == (count, []), name
