"""Promise: what lies in an archive folder and is none of Coffer's neither hangs nor fills a command: it is told.

Adversary: who writes the disk (`planting.py`), with pipes, sockets, folders in place of files, holes of gigabytes,
files of impossible content, names that drive a terminal, entries by the thousand.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.events.codec import encode
from coffer.archive.events.event import Event
from coffer.archive.events.holds import HoldAdded
from coffer.archive.events.repairs import LossAccepted, SegmentRepaired
from coffer.archive.format import segment
from coffer.archive.repair.planted import planted
from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.scrub import ScrubPosition, parse_position
from coffer.keys.disk.durable import discard_folder
from coffer.keys.errors import FormatError
from tests.archive.events.samples import sample
from tests.promises import planting
from tests.promises.planting import LINKED_FILES, afresh, attempt
from tests.server.filled import run

made = planting.made
base = planting.base

HOLE = 3 << 30
MOST_MEMORY = 400 << 10  # KiB of resident memory that one more command may cost
READ_BY_VERIFY = {
    "archive.json", "keyring/data.mdb", "checkpoints/latest", "checkpoints/history", "checkpoints/endorsements",
    "segments/00000001.seg", "tiles/tile/0/000.p/4",
}  # fmt: skip


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)
    os.chdir(here)


def test_what_is_no_file_hangs_nobody_and_is_told(base: Path) -> None:
    kinds: tuple[Callable[[Path], None], ...] = (a_pipe, a_pipe, a_socket, Path.mkdir)
    for number, name in enumerate(LINKED_FILES):
        kinds[number % len(kinds)](afresh(base, name))
        if name in READ_BY_VERIFY:
            assert attempt("verify").exit_code, name
        if name != "archive.json":
            assert any(name in finding.what for finding in planted(ArchiveFolder.open(base / "data"))), name
        attempt("put", "files")


@pytest.mark.parametrize(
    "name",
    ["checkpoints/history", "checkpoints/latest", "checkpoints/endorsements", "archive.json", "pending.json",
     "scrub/place.json", "scrub/1-96-abcdef.finding", "tiles/tile/0/000"],
)  # fmt: skip
def test_a_hole_of_gigabytes_is_not_read_into_memory(base: Path, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = base / "data" / name
    path.touch()
    os.truncate(path, HOLE)
    attempt("status")
    if not name.startswith("scrub/p"):
        assert attempt("verify").exit_code or attempt("scrub", "show").exit_code
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


def test_a_footer_that_asks_for_gigabytes_is_none() -> None:
    assert segment.footer_length(segment.FOOTER_TAIL.pack(1 << 30, bytes(32), segment.FOOTER_END)) is None
    most = segment.footer_size(segment.MOST_RECORDS)
    assert segment.footer_length(segment.FOOTER_TAIL.pack(most, bytes(32), segment.FOOTER_END)) == most < 64 << 20


def test_entries_by_the_thousand_and_a_far_number_are_told_in_few_lines(base: Path) -> None:
    data = base / "data"
    (data / "segments" / "99999999.seg").write_bytes(b"")
    for number in range(2000):
        (data / "spool" / f"planted-{number}").touch()
    for name in (b"\x1b[2J\x1b]0;owned\x07", b"\xff\xfe", "\N{RIGHT-TO-LEFT OVERRIDE}gpj".encode(), b"a\nb: fine"):
        (Path(os.fsdecode(os.fsencode(data / "scrub") + b"/" + name))).touch()
    done = attempt("verify")
    assert done.exit_code == 1
    assert done.output.count("\n") < 300
    assert "those up to 99999998 are missing" in done.output
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in done.output
    assert "scrub/a\\nb: fine" in done.output


def as_object(event: Event, **changes: object) -> dict[str, object]:
    """The JSON object of an event, with other values."""
    return {**json.loads(encode(event)), **changes}


REPAIRED = as_object(sample(SegmentRepaired))


@pytest.mark.parametrize(
    ("event", "proof"),
    [
        ("x", "note:{}"),
        ({"event": "x"}, "note:{}"),
        (as_object(sample(HoldAdded)), "note:{}"),
        ({"code": "officer.agreed", "v": 1}, "note:{}"),
        ({**REPAIRED, "v": 2}, "note:{}"),
        ({**REPAIRED, "segment": -1}, "note:{}"),
        ({**REPAIRED, "kept": "../other"}, "note:{}"),
        ({**REPAIRED, "more": "words"}, "note:{}"),
        (as_object(sample(LossAccepted), contradiction="a\n b"), "note:{}"),
        (as_object(sample(LossAccepted), contradiction="\ud800"), "note:{}"),
        (as_object(sample(LossAccepted), contradiction="\N{RIGHT-TO-LEFT OVERRIDE}"), "note:{}"),
        (as_object(sample(LossAccepted), contradiction="a" * 2001), "note:{}"),
        (REPAIRED, "segment:x:y"),
        (REPAIRED, "segment:1:../../data.key"),
        (REPAIRED, "other"),
    ],
)
def test_nobody_elses_words_become_a_signed_record(base: Path, event: object, proof: str) -> None:
    """`pending.json` holds no key: what is taken from it has one form, and what has not is told and left."""
    latest = (base / "data" / "checkpoints" / "latest").read_bytes()
    data = checksummed_json.serialize([{"event": event, "proof": proof.format(hashlib.sha256(latest).hexdigest())}])
    (base / "data" / "pending.json").write_bytes(data)
    run("put", "files")
    assert (base / "data" / "checkpoints" / "latest").read_bytes() == latest
    assert (base / "data" / "pending.json").read_bytes() == data
    assert "pending.json cannot be read; move it away" in run("verify", code=1).output


def test_summed_json_of_no_json_is_told(base: Path) -> None:
    for text in (b"x\n", b"[" * 200_000 + b"\n", b'{"a": 1e999999}\n', b"[1]\n", b"null\n"):
        for name in ("pending.json", "scrub/place.json", "scrub/1-96-abcdef.finding"):
            path = afresh(base, name)
            path.write_bytes(text + hashlib.sha256(text).hexdigest().encode() + b"\n")
            attempt("put", "files")
            attempt("scrub", "show")


def test_a_footer_and_a_place_of_a_tree_that_there_cannot_be_are_refused() -> None:
    footer = segment.Footer((96,), bytes(32), 5, (bytes(32),), 1)
    with pytest.raises(FormatError, match="impossible tree"):
        segment.parse_footer(footer.serialize())
    for wrong in ({"size": 5, "edge": (bytes(32),)}, {"segment": 0}, {"offset": -1}, {"head": b"x"}):
        place = ScrubPosition()
        for name, value in wrong.items():
            setattr(place, name, value)
        with pytest.raises(FormatError):
            parse_position(place.serialize())


def deep(folder: Path) -> None:
    """More folders in each other than Python calls functions."""
    here = Path.cwd()
    folder.mkdir()
    os.chdir(folder)
    for _ in range(sys.getrecursionlimit() + 20):
        Path("a").mkdir()
        os.chdir("a")
    os.chdir(here)


def test_folders_in_each_other_by_the_thousand_end_nothing(base: Path) -> None:
    data = base / "data"
    deep(data / "tiles" / "x")
    try:
        assert "is a folder where no tile lies" in attempt("verify").output
        attempt("status")
        attempt("put", "files")
        attempt("checkpoint", "sign")
    finally:
        discard_folder(data / "tiles" / "x")  # also for who removes this test's folder, and calls itself
    assert not (data / "tiles" / "x").exists()
    deep(data / ".index.old")
    run("index", "rebuild")
    assert not (data / ".index.old").exists()


def test_a_name_in_the_index_that_only_begins_like_ours_is_left_and_told(base: Path) -> None:
    data = base / "data"
    (data / "index" / ".data.mdb.new").write_bytes(b"left by a stop")
    (data / "index" / ".data.mdb.newx").mkdir()
    run("put", "files")
    assert sorted(p.name for p in (data / "index").iterdir()) == [".data.mdb.newx", "data.mdb", "lock.mdb"]
    assert "index/.data.mdb.newx is" in run("verify", code=1).output
