"""The byte search: after real files were stored, nothing of them can be read on disk, in logs or in the temp folder.

Looked for are the identifying texts and every UID of every stored file, in UTF-8, Latin-1, UTF-16 and base64, and every
run of 16 bytes of every data set. What is not looked for, because it would be found by chance or is nobody's: texts of
fewer than six characters, UIDs of the standard, and runs in which some eight bytes take fewer than four values (flat
background, the zeros of a database page).
"""

import base64
import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from coffer.keys.errors import CofferError
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.connection import ConnectionClosed
from coffer.server.dimse.protocol.negotiation import Offer
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, item_of, store, synthetic
from tests.server.dimse.raw_peer import RawRequestor

KEYWORDS = (
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "StudyDescription",
    "SeriesDescription",
    "PatientBirthDate",
    "ReferringPhysicianName",
    "InstitutionName",
)
STANDARD = "1.2.840.10008."
SHORTEST = 6
RUN, WORD = 16, 8
FEWEST_VALUES = 6  # a word and zeros are in any file: "file" ends the keyring's "keyfile"
SPOOLED = 256 << 10  # bytes of the large object that lie in the spool when the server dies
_MIXES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)  # odd, or bits would get lost
_TABLE_BITS = 26

Words = NDArray[np.uint64]


def texts_of(path: Path) -> set[str]:
    """The identifying texts of one file, and every UID in it that is not the standard's."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    found: set[str] = set()
    for keyword in KEYWORDS:
        value = dataset.get(keyword)
        for one in value if isinstance(value, pydicom.multival.MultiValue) else [value]:
            text = str(one or "").strip()
            found |= {text, text.upper(), text.lower(), text.replace("^", " ").strip(), text.split("^")[0]}
    with contextlib.suppress(Exception):  # what a damaged element provokes; what stands before it was taken
        for element in dataset.iterall():
            if element.VR == "UI" and element.value:
                found |= {str(uid).strip() for uid in np.atleast_1d(np.array(element.value, dtype=object))}
    return {text for text in found if len(text) >= SHORTEST and not text.startswith(STANDARD)}


def forms_of(text: str) -> Iterator[bytes]:
    """How a text may stand in a file."""
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
        yield text.encode(encoding, "ignore")
    for raw in {text.encode("utf-8", "replace"), text.encode("latin-1", "replace")}:
        for lead in range(3):  # the three ways it may stand to the groups of base64; its ends depend on the neighbours
            coded = base64.b64encode(bytes(lead) + raw).rstrip(b"=")
            yield coded[-(-lead * 4 // 3) : (lead + len(raw)) * 4 // 3]


class Filter:
    """Two tables by hash that tell nearly every word that is not in a set, and the set for the rest."""

    def __init__(self, words: Words) -> None:
        ordered = np.sort(words)  # np.unique takes ten times as long
        self.words = ordered[np.diff(ordered, prepend=~ordered[:1]) != 0]
        self._tables = np.zeros((len(_MIXES), 1 << _TABLE_BITS), dtype=bool)
        for mix, table in zip(_MIXES, self._tables, strict=True):
            table[self._place(self.words, mix)] = True

    @staticmethod
    def _place(words: Words, mix: np.uint64) -> Words:
        return (words * mix) >> np.uint64(64 - _TABLE_BITS)

    def hits(self, words: Words) -> NDArray[np.intp]:
        """Where `words` holds one of the set."""
        maybe = np.arange(len(words))
        for mix, table in zip(_MIXES, self._tables, strict=True):
            maybe = maybe[table[self._place(words[maybe], mix)]]
        at = np.minimum(np.searchsorted(self.words, words[maybe]), max(len(self.words) - 1, 0))
        return maybe[self.words[at] == words[maybe]] if len(self.words) else maybe[:0]


def words_at(content: bytes, shift: int) -> Words:
    """The little-endian words of eight bytes from an offset on."""
    return np.frombuffer(content, dtype="<u8", count=max(len(content) - shift, 0) // WORD, offset=shift)


class TextSearch:
    """Find any of many byte strings in big files by their first six bytes, at every offset."""

    MASK = np.uint64((1 << 48) - 1)

    def __init__(self, needles: Iterable[bytes]) -> None:
        self.by_head: dict[int, list[bytes]] = {}
        for needle in needles:
            self.by_head.setdefault(int.from_bytes(needle[:SHORTEST], "little"), []).append(needle)
        self._heads = Filter(np.array(list(self.by_head), dtype=np.uint64))

    def hits(self, content: bytes) -> list[bytes]:
        """The needles that occur in `content`."""
        found = []
        padded = content + bytes(2 * WORD)
        for shift in range(WORD):
            words = words_at(padded, shift) & self.MASK
            for word in self._heads.hits(words):
                start = int(word) * WORD + shift
                found += [n for n in self.by_head[int(words[word])] if content.startswith(n, start)]
        return found

    def tree(self, folders: Iterable[Path]) -> dict[str, list[bytes]]:
        """What was found in which file under the folders, file names included."""
        found = {}
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                names = self.hits(str(path.relative_to(folder)).encode())
                content = self.hits(path.read_bytes()) if path.is_file() else []
                if names or content:
                    found[str(path)] = (names + content)[:5]
        return found


def may_be_various(words: Words) -> NDArray[np.bool_]:
    """Which words may hold four different bytes: quick, and wrong for a few that do not."""
    zeros = sum(((words >> np.uint64(8 * n)) & np.uint64(0xFF) == 0).astype(np.uint8) for n in range(WORD))
    return (zeros < WORD - FEWEST_VALUES + 2) & (words >> np.uint64(16) != words & TextSearch.MASK)


def various(words: Words) -> NDArray[np.bool_]:
    """Which words hold at least four different bytes."""
    ordered = np.sort(words.view(np.uint8).reshape(-1, WORD), axis=1)
    return (np.diff(ordered, axis=1) != 0).sum(axis=1) >= FEWEST_VALUES - 1


class RunSearch:
    """Find 16-byte runs of data sets in what was written.

    Of every such run in `written` eight bytes stand at a multiple of eight: these words are looked for at every offset
    of a data set, and each place of a hit is followed to both sides.
    """

    def __init__(self, written: Iterable[bytes]) -> None:
        self._written = b"".join(content + bytes(-len(content) % WORD + RUN) for content in written)
        self._words = words_at(self._written, 0)
        self._filter = Filter(self._words[may_be_various(self._words)])

    def hits(self, data: bytes) -> list[bytes]:
        """The runs of `data` that were written, a few of them."""
        found: list[bytes] = []
        for shift in range(WORD):
            words = words_at(data, shift)
            hits = self._filter.hits(words)
            for word in hits[various(words[hits])]:
                start = int(word) * WORD + shift
                for place in np.flatnonzero(self._words == words[word]):
                    found += self._followed(data, start, int(place) * WORD)
                if len(found) > 5:
                    return found
        return found

    def _followed(self, data: bytes, start: int, place: int) -> Iterator[bytes]:
        """The whole common run around a common word, where it is long enough."""
        before = 0
        while before < min(start, place) and data[start - before - 1] == self._written[place - before - 1]:
            before += 1
        after = WORD
        while (
            start + after < len(data)
            and data[start + after : start + after + 1] == self._written[place + after : place + after + 1]
        ):
            after += 1
        if before + after >= RUN:
            yield data[start - before : start + after]


@pytest.mark.parametrize("offset", range(17))
def test_the_searches_find_what_is_there(offset: int) -> None:
    texts = TextSearch([b"DOE^JANE", b"1.2.840.99"])
    assert texts.hits(b"x" * offset + b"DOE^JANE") == [b"DOE^JANE"]
    assert texts.hits(b"DOE^JAN 1.2.840.98") == []
    run = bytes(range(65, 65 + RUN))
    for place in range(WORD + 1):
        written = RunSearch([bytes(1000), b"#" * place + run + b"#" * 100])
        assert run in written.hits(b"." * offset + run + b"." * 5)
        assert written.hits(b"." * offset + run[:-1] + b".." + run[1:]) == []
    assert RunSearch([]).hits(run) == []


@pytest.mark.parametrize("lead", range(3))
def test_a_text_is_found_in_base64_and_utf_16(lead: int) -> None:
    texts = TextSearch({form for form in forms_of("Müller^Eva") if len(form) >= SHORTEST})
    assert texts.hits(base64.b64encode(b"{" * lead + "Müller^Eva}".encode()))
    assert texts.hits("xMüller^Eva".encode("utf-16"))


def spooled(port: int, item: Item, halfway: threading.Event, stop: threading.Event) -> None:
    """Send three quarters of a data set, then wait for the end of the server."""

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(item.data) * 3 // 4, 1 << 20):
            yield item.data[at : at + (1 << 20)]
        halfway.set()
        stop.wait(60)

    with (
        RawRequestor(port, [Offer(1, item.sop_class, (item.transfer_syntax,))]) as peer,
        contextlib.suppress(ConnectionClosed),
    ):
        peer.request(peer.contexts[1], dimse.C_STORE, pieces(), AFFECTED_INSTANCE=item.sop_instance)


def bytes_in(folder: Path) -> int:
    """The size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def killed_with_a_spool(coffer: CofferProcess, items: list[Item], kept: Path) -> None:
    """kill -9 under load, while a large object lies in the spool; what is on the disk then goes to `kept`."""
    small = synthetic(1, 100, study=88)
    real = b"".join(item.data for item in items)[: 24 << 20]
    private = b"\x23\x00\x10\x00LO\x06\x00TESTER" + b"\x23\x00\x01\x10OB\0\0" + len(real).to_bytes(4, "little")
    large = Item(small.sop_class, small.sop_instance, small.transfer_syntax, small.data + private + real)
    halfway, stop = threading.Event(), threading.Event()

    def load() -> None:
        with contextlib.suppress(CofferError, AssertionError, OSError):
            store(coffer.port, items)

    threading.Thread(target=spooled, args=(coffer.port, large, halfway, stop), daemon=True).start()
    assert halfway.wait(60)
    deadline = time.monotonic() + 20
    while bytes_in(coffer.archive / "spool") < SPOOLED:
        assert time.monotonic() < deadline, "nothing is spooled"
        time.sleep(0.02)
    threading.Thread(target=load, daemon=True).start()
    time.sleep(0.5)
    coffer.kill()
    stop.set()
    shutil.copytree(coffer.archive, kept)
    assert bytes_in(kept / "spool") >= SPOOLED


@pytest.mark.timeout(300)
def test_nothing_readable_is_on_disk(
    new_coffer: Callable[..., CofferProcess], well_formed: list[Path], tmp_path: Path
) -> None:
    limits = "\n[limits]\nmemory_object_bytes = 65536\n"
    coffer = new_coffer(extra='\n[log]\nlevel = "debug"\n' + limits)
    third = len(well_formed) // 3
    items = [item_of(path) for path in well_formed]
    store(coffer.port, items[:third])
    kept = tmp_path / "killed"
    killed_with_a_spool(coffer, items[third : 2 * third], kept)
    coffer.start()
    metrics = coffer.metrics()
    coffer.stop()
    put = coffer.run("put", *map(str, well_formed[third:]))
    coffer.run("status")

    named = {text for path in well_formed for text in texts_of(path)}
    assert len(named) > 1000
    texts = TextSearch({form for text in named for form in forms_of(text) if len(form) >= SHORTEST})
    folders = [kept, coffer.archive, coffer.base / "tmp"]
    found = texts.tree(folders)
    assert not found, found
    # Names and labels: the digits of a measured value are nobody's, though some PatientIDs are all zeros.
    labels = "\n".join(line.rsplit(" ", 1)[0] for line in metrics.splitlines())
    for told in (labels.encode(), coffer.log.read_bytes(), put.stdout.encode(), put.stderr.encode()):
        assert not texts.hits(told)

    written = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
    runs = RunSearch([*written, coffer.log.read_bytes(), put.stdout.encode(), put.stderr.encode()])
    readable = {
        path.name: hits for path, item in zip(well_formed, items, strict=True) if (hits := runs.hits(item.data))
    }
    assert not readable, dict(list(readable.items())[:5])
