"""Writes the golden archive: `python tests/vectors/make_log.py [folder]`.

Clock, bodies and signing seed are fixed, so every run writes the same bytes. The committed copy is in
tests/vectors/log; replace it only together with a new format version. Its key is public and protects nothing; its
bodies are not sealed.
"""

import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Flags, Kind
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.tree.key_history import endorse
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.memory.secret import Secret

FOLDER = Path(__file__).parent / "log"
ORIGIN = "archive.example/golden-log"
ARCHIVE_ID = sha256(b"coffer golden log").digest()[:16]
SEEDS = [sha256(b"coffer golden log signing seed" + number).digest() for number in (b"", b" 2")]
FIRST_MS = 1767225600000  # 2026-01-01T00:00:00Z
LENGTHS = (0, 1, 7, 8, 9, 100, 33, 16)
LINEAGE = sha256(b"coffer golden log lineage").digest()[:16]
SEGMENT_BYTES = 950
EPOCH = b'{"code":"log.epoch_begun","epoch":1,"holder":"golden","v":1,"why":"an example"}'


def entry(number: int) -> Entry:
    """The n-th record's content."""
    ids = sha256(b"golden entry %d" % number).digest()
    body = (sha256(b"golden body %d" % number).digest() * 4)[: LENGTHS[number]]
    kind = Kind.STUDY_KEY_CREATED if number == 0 else Kind.OBJECT
    flags = Flags.UNINDEXED if number == 5 else 0
    return Entry(kind, ids[:16], flags, ids, body)


def make(path: Path) -> None:
    """Write an archive into a folder that holds none; a second key signs from three records on."""
    old, new = (CheckpointSigner(Secret(seed)) for seed in SEEDS)
    ArchiveFolder.prepare(path)
    folder = ArchiveFolder(path, ARCHIVE_ID, ORIGIN, old.vkey(ORIGIN))
    begin(folder, partial(old.sign_note, ORIGIN))
    folder.commit()
    clock = iter(range(FIRST_MS, FIRST_MS + 60_000, 1000))
    log = LogWriter(
        folder, sign=old.sign_statement, now_ms=lambda: next(clock), segment_bytes=SEGMENT_BYTES, lineage=LINEAGE
    )
    for number in range(3):
        log.append([entry(number)])

    def hand_over(last: Checkpoint) -> Callable[[bytes], bytes]:
        endorse(folder, old, new, last)
        return new.sign_statement

    log.hand_over(partial(old.sign_note, ORIGIN), lambda note: None, hand_over)
    log.append([entry(3), entry(4)])
    for number in range(5, len(LENGTHS) - 1):
        log.append([entry(number)])
    log.checkpoint(partial(new.sign_note, ORIGIN))
    log.begin_epoch(EPOCH)
    log.append([entry(len(LENGTHS) - 1)])
    log.close()
    with folder.segment_files.path(folder.segment_files.numbers()[-1]).open("ab") as file:
        file.write(bytes(64))  # room for the next group


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
