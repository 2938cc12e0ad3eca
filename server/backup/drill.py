"""Prove that a snapshot can be restored: bring a share of it back, open it if there is a key, and write down what came.

Rule: reads from the targets alone, as after a loss of everything else. The result names no patient and no UID.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from coffer.archive.copies.segments import as_archive
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.copies.target import Target
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import open_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import find_note
from coffer.archive.verify.report import OpenRecord
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.recipient import Identity
from coffer.keys.disk import durable, opening
from coffer.keys.errors import HistoryError, IntegrityError, NotFoundError, UnreadableError
from coffer.keys.keyring import signing_key
from coffer.server.backup.restoring import bring_keyring, choose_keyring
from coffer.server.config.settings import Config
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.maintenance.deep_check import Unsealer

__all__ = ["Drill", "DrillResult", "signed"]

_TYPE: Final = "coffer/drill/v1"
_FEWEST: Final = 100


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What came back: the origin of the log, the snapshot, when (ms since 1970), the records whose chain was checked,
    the bodies that were brought, those that were opened with keys (None: no key was used), the share and its seed,
    whether the archive here has the same records (None: there is none here), and the findings."""

    origin: str
    snapshot: str
    at_ms: int
    records: int
    root: bytes
    bodies: int
    opened: int | None
    sample: float
    seed: int
    same: bool | None
    findings: tuple[str, ...]

    def serialize(self) -> bytes:
        """A title line for people, then JSON (archive/FORMAT-COPIES.md)."""
        title = "NOT RESTORABLE: see the findings." if self.findings else "RESTORABLE: this share of it came back."
        fields: dict[str, Any] = {
            "type": _TYPE,
            "archive": self.origin,
            "snapshot": self.snapshot,
            "at_ms": self.at_ms,
            "records": self.records,
            "root": self.root.hex(),
            "bodies": self.bodies,
            "opened": self.opened,
            "sample": self.sample,
            "seed": self.seed,
            "same": self.same,
            "findings": list(self.findings),
        }
        return f"{title}\n{json.dumps(fields, indent=1)}\n".encode()


@dataclass(slots=True)
class Drill:
    """A drill with one snapshot; `keys` is where copies of the keyring are (None: no key is used)."""

    config: Config
    shelf: Shelf
    snapshot: Snapshot
    keys: Target | None
    identity: Identity | None = None
    progress: Callable[[int], None] = lambda _: None
    now_ms: Callable[[], int] = clock_ms

    def run(self, sample: float, seed: int) -> DrillResult:
        """Bring back the chain of all records and a share of the bodies, chosen by `seed`; with `keys`, open these too.
        Of few records the share is larger than `sample`, so that it has about 100, or all: none would prove nothing.

        Raises KeyUnavailableError if the restored keyring does not open, UnavailableError if a target fails.
        """
        sample = max(sample, min(_FEWEST / max(self.snapshot.size, 1), 1.0))
        with as_archive(self.shelf, self.snapshot) as folder:
            level = VerifyLevel.BODIES if self.keys is None else VerifyLevel.DECRYPT
            options = Options(level, sample=sample, seed=seed)
            with self._opened(folder) if self.keys is not None else nullcontext() as opened:
                verifier = Verifier(folder, options, open_records=opened, progress=self.progress)
                findings = _found(verifier)
            signed_here = read_checkpoint(folder)
        counts = verifier.summary
        return DrillResult(
            folder.origin, self.snapshot.id, self.now_ms(), signed_here.size, signed_here.root, counts.bodies,
            None if self.keys is None else counts.opened, sample, seed, self._same(), tuple(findings),
        )  # fmt: skip

    @contextmanager
    def _opened(self, folder: ArchiveFolder) -> Iterator[Callable[[], Any]]:
        """Restore the keyring beside the snapshot's files and open it with the configured provider."""
        assert self.keys is not None
        durable.make_folder(folder.keyring)
        copy = choose_keyring(self.keys, self.snapshot)
        bring_keyring(self.keys, copy, self.snapshot.archive_id, folder.path, self.identity)
        keyring = open_keyring(folder, provider_of(self.config.keys, folder.archive_id), readonly=True)
        try:
            yield partial(nullcontext[OpenRecord], Unsealer(keyring))
        finally:
            keyring.close()

    def _same(self) -> bool | None:
        """Whether the archive that is configured here signed the very checkpoint of the snapshot."""
        if not opening.exists(Path(self.config.archive) / "archive.json"):
            return None
        here = ArchiveFolder.open(self.config.archive)
        if here.archive_id != self.snapshot.archive_id:
            return None
        try:
            return open_checkpoint(find_note(here, self.snapshot.size), here).root == self.snapshot.root
        except NotFoundError:
            return False


def _found(verifier: Verifier) -> list[str]:
    """What the verification finds, and what ends it: a piece that is missing or another one."""
    found: list[str] = []
    try:
        found.extend(each.what for each in verifier.findings())
    except (IntegrityError, UnreadableError) as error:
        found.append(str(error))
    return found


def signed(config: Config, result: DrillResult) -> bytes:
    """The result as a note, signed by the archive's key in force. Raises as opening the keyring; HistoryError if the
    archive here is another one."""
    folder = ArchiveFolder.open(config.archive)
    if folder.origin != result.origin:
        raise HistoryError("the archive here is not that of the snapshot", hint="name that archive with --archive")
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    try:
        return signing_key.current(keyring).sign_note(folder.origin, result.serialize())
    finally:
        keyring.close()
