"""The byte search: after real files were stored, nothing of them can be read on disk, in logs or in the temp folder.

Needles are every identifying value and sampled 16-byte runs of pixel data of every stored file. A value of fewer than
six bytes would be found by chance in any ciphertext of this size, so only longer ones are looked for.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import item_of, store

KEYWORDS = (
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "StudyDescription",
    "SeriesDescription",
    "PatientBirthDate",
    "ReferringPhysicianName",
    "InstitutionName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
)
SHORTEST = 6
RUNS_PER_FILE = 6


def values_of(path: Path) -> set[bytes]:
    """The identifying values of one file, as text in several cases and as they stand in the file."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    found: set[bytes] = set()
    for keyword in KEYWORDS:
        value = dataset.get(keyword)
        for one in value if isinstance(value, pydicom.multival.MultiValue) else [value]:
            text = str(one or "").strip()
            for form in (text, text.upper(), text.lower(), text.replace("^", " ").strip(), text.split("^")[0]):
                found.add(form.encode("utf-8", "replace"))
                found.add(form.encode("latin-1", "ignore"))
    return {v for v in found if len(v) >= SHORTEST}


def pixel_runs(path: Path, dice: random.Random) -> set[bytes]:
    """Sampled 16-byte runs from the second half of the data set, where pixels are; flat ones say nothing."""
    data = item_of(path).data
    runs = set()
    for _ in range(RUNS_PER_FILE * 4):
        start = dice.randrange(len(data) // 2, max(len(data) // 2 + 1, len(data) - 16))
        run = data[start : start + 16]
        if len(run) == 16 and len(set(run)) >= 8:
            runs.add(run)
        if len(runs) == RUNS_PER_FILE:
            break
    return runs


class Searcher:
    """Find any of many byte strings in big files: their first six bytes as integers, compared at every offset."""

    MASK = np.uint64((1 << 48) - 1)

    def __init__(self, needles: Iterable[bytes]) -> None:
        self.by_head: dict[int, list[bytes]] = {}
        for needle in needles:
            self.by_head.setdefault(int.from_bytes(needle[:SHORTEST], "little"), []).append(needle)
        self.heads = np.array(sorted(self.by_head), dtype=np.uint64)

    def hits(self, content: bytes) -> list[bytes]:
        """The needles that occur in `content`."""
        found = []
        padded = content + bytes(16)
        for shift in range(8):
            words = np.frombuffer(padded, dtype="<u8", count=(len(padded) - shift) // 8, offset=shift) & self.MASK
            at = np.minimum(np.searchsorted(self.heads, words), len(self.heads) - 1)
            for word in np.flatnonzero(self.heads[at] == words):
                start = int(word) * 8 + shift
                found += [n for n in self.by_head[int(words[word])] if content.startswith(n, start)]
        return found


def search_tree(folders: Iterable[Path], searcher: Searcher) -> dict[str, list[bytes]]:
    """What was found in which file under the folders, file names included."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            names = searcher.hits(str(path.relative_to(folder)).encode())
            content = searcher.hits(path.read_bytes()) if path.is_file() else []
            if names or content:
                found[str(path)] = (names + content)[:5]
    return found


def test_the_search_finds_what_is_there() -> None:
    searcher = Searcher([b"DOE^JANE", b"1.2.840.99"])
    for offset in range(17):
        assert searcher.hits(b"x" * offset + b"DOE^JANE") == [b"DOE^JANE"]
    assert searcher.hits(b"DOE^JAN 1.2.840.98") == []


@pytest.mark.timeout(300)
def test_nothing_readable_is_on_disk(
    new_coffer: Callable[..., CofferProcess],
    well_formed: list[Path],
    malformed: list[Path],
) -> None:
    dice = random.Random(20240607)
    coffer = new_coffer(extra='\n[log]\nlevel = "debug"\n')
    half = len(well_formed) // 2
    store(coffer.port, [item_of(p) for p in well_formed[:half]])
    needles = {v for p in well_formed for v in values_of(p) | pixel_runs(p, dice)}
    assert len(needles) > 2000
    searcher = Searcher(needles)
    found = search_tree([coffer.archive, coffer.base / "tmp"], searcher)  # while it is running, too
    assert not found, found
    # Names and labels: the digits of a measured value are nobody's, though some PatientIDs are all zeros.
    named = [line.rsplit(" ", 1)[0] for line in coffer.metrics().splitlines()]
    metrics = searcher.hits("\n".join(named).encode())
    assert not metrics
    coffer.stop()
    coffer.run("put", *map(str, well_formed[half:]))
    coffer.run("status")
    found = search_tree([coffer.archive, coffer.base / "tmp"], searcher)
    assert not found, found
    log = searcher.hits(coffer.log.read_bytes())
    assert not log, log[:5]
