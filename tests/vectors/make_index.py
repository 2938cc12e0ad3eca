"""Write tests/vectors/index/tables.json: the index of one instance with fixed keys and salts."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from coffer.archive.format.entry import Position, RecordId, Tip
from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.row_store import SUMS, TABLES
from coffer.index.index import Index
from coffer.index.instance.entry import InstanceEntry
from coffer.index.tables.rows import Version
from coffer.keys.crypto.derive import INDEX_SUM, INDEX_TOKEN, SUM_MASK, SUM_ROWS, derive
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret

ARCHIVE_ID, KEY_ID = bytes(range(16)), bytes(range(16, 32))
SOP = "1.2.3.4"
OUT = Path(__file__).parent / "index" / "tables.json"


def make(folder: Path) -> dict[str, Any]:
    """Build the index in an empty folder and return its rows and the keys that open them, in hexadecimal."""
    study = StudyKey(KEY_ID, Secret(bytes([7]) * 32))
    root = Secret(bytes([9]) * 32)
    ring = SimpleNamespace(
        archive_id=ARCHIVE_ID,
        study=lambda _: study,
        archive_key=lambda label: derive(root, label),
        changes=lambda: 0,
        rows=lambda _: [],
    )
    store = LmdbRowStore(folder)
    index = Index.over(store, cast("Keyring", ring), epoch=3, random=lambda size: bytes([5]) * size)
    version = Version.of(
        Position(0, 0, 1, 256, 4096),
        1_700_000_000_001,
        bytes([3]) * 32,
        "1.2.840.10008.1.2.1",
        4000,
        1_700_000_000_000,
        0,
        "SCU",
    )
    patient = {0x00100010: ("Doe^Jane",), 0x00100020: ("P1",)}
    image = {0x00080018: (SOP,), 0x00080016: ("1.2.840.10008.5.1.4.1.1.2",)}
    entry = InstanceEntry(
        "1.2", "1.2.3", SOP, image[0x00080016][0], patient, {0x00080060: ("CT",)}, image, None, "P1", ""
    )
    index.apply(version, KEY_ID, entry, tip=Tip(0, 1, bytes([4]) * 32))
    index.advance(Tip(2, 9, bytes([6]) * 32))
    for record in ((0, 3), (0, 5), (0, 6), (2, 7)):
        index.mark_skipped(RecordId(*record))
    index.flush()
    tables = {t: {k.hex(): v.hex() for k, v in store.scan(t)} for t in (*TABLES, SUMS)}
    index.close()
    total = derive(root, INDEX_SUM)
    own = {"token_key": derive(root, INDEX_TOKEN), "row_key": study.row}
    own |= {"sum_rows": derive(total, SUM_ROWS), "sum_mask": derive(total, SUM_MASK)}
    return {"tables": tables, **{name: key.reveal().hex() for name, key in own.items()}}


if __name__ == "__main__":
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(make(Path(sys.argv[1])), indent=1) + "\n")
