"""Objects that DCMTK breaks the association on stand among sound ones: the sound ones arrive all the same."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from tests.peers.coffer_process import CofferProcess, run_tool
from tests.peers.dicom_client import Item, store, synthetic

_SOUND, _LONG = 12, 6


def _named(item: Item, name: str) -> Item:
    """The same with another SOP Instance UID."""
    raw = [text.encode() + b"\0" * (len(text) % 2) for text in (item.sop_instance, name)]
    old, new = (b"\x08\x00\x18\x00UI" + len(value).to_bytes(2, "little") + value for value in raw)
    assert item.data.count(old) == 1
    return replace(item, sop_instance=name, data=item.data.replace(old, new))


def _bad() -> list[Item]:
    """One of each kind, and more of them than failures in a row make a destination be given up."""
    long = [_named(synthetic(100 + n, 100), f"1.2.{'7' * 65}{n}") for n in range(_LONG)]
    ends = [
        b"\xe1\x7f\x10\x10OB\0\0\xf0\xff\xff\x7fab",  # longer than the data set
        b"\x00\x30\x00\x00ZZ\xff\xff" + b"x" * 10,
        b"\x11",
    ]
    return long + [
        replace(item, data=item.data + end) for n, end in enumerate(ends) for item in [synthetic(200 + n, 100)]
    ]


@pytest.fixture
def filled(dcmtk: None, coffer_server: CofferProcess) -> CofferProcess:
    """A server that has the bad ones between sound ones, in one series."""
    sound = [synthetic(number, 100) for number in range(_SOUND)]
    items = [*sound[:3], *_bad(), *sound[3:]]
    assert {reply.status for reply in store(coffer_server.port, items)} == {0}
    return coffer_server


def _arrived(folder: Path) -> set[str]:
    return {str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in folder.iterdir()}


def test_a_move_and_a_get_bring_every_sound_object(
    filled: CofferProcess, storescp: Callable[[int], Path], tmp_path: Path
) -> None:
    sound, bad = {synthetic(n).sop_instance for n in range(_SOUND)}, _bad()
    moved = storescp(filled.peers[0].port)
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.826.0.1.3680043.8.498.77.0"]
    done = run_tool("movescu", "-S", "-d", "-aem", "MOVEDST", "-aec", "COFFER", *keys, "127.0.0.1", str(filled.port))
    final = (done.stdout + done.stderr).rsplit("Received Final Move Response", 1)[-1]
    told = {name: int(count) for name, count in re.findall(r"(\w+) Suboperations *: (\d+)", final)}
    assert told["Completed"] + told["Failed"] == _SOUND + len(bad)
    assert told["Failed"] >= _LONG  # this destination keeps some of the others, which it need not parse
    assert sound <= _arrived(moved)

    got = tmp_path / "got"
    got.mkdir()
    run_tool("getscu", "-S", "+B", "-od", str(got), "-aec", "COFFER", *keys, "127.0.0.1", str(filled.port))
    assert sound <= _arrived(got)
