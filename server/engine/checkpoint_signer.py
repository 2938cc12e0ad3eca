"""Sign the checkpoints of an open archive, and rotate its signing key (docs/adr/0011-signing-key.md).

Rule: a rotation has four steps, each durable before the next begins: the next key enters the keyring with the event of
the order; the old key signs its last checkpoint; both keys sign the endorsement, kept beside the checkpoints; the next
key becomes current and the old one is removed, with an event. After a stop in between, the next writer resumes it.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from coffer.archive.events.fields import TreeHead
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.signing_keys import SigningKeyOrdered, SigningKeyRotated
from coffer.archive.format.group import LINEAGE_BYTES
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import writer
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.key_history import KeyHistory, endorse, read_key_history
from coffer.archive.tree.mark import Mark
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import hedged
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.errors import CofferError, UnavailableError
from coffer.keys.keyring import signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import orders
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.principal import Principal
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.mailbox import outbox, writer_process
from coffer.server.observe.logs import get_logger

__all__ = ["ArchiveSigner", "finish", "in_force", "mark_of", "new_lineage", "order", "signers_of", "wait_until_rotated"]

_log = get_logger()
_POLL_SECONDS: Final = 0.1
_WAIT_SECONDS: Final = 15.0


class ArchiveSigner:
    """Signs checkpoints of one archive. One per writer; thread-safe."""

    def __init__(
        self, folder: ArchiveFolder, keyring: Keyring, log: LogWriter, mark: MarkFile, *, raises_mark: bool = True
    ) -> None:
        """Without `raises_mark` the mark stays what it is until `renew_mark`."""
        self._folder = folder
        self._keyring = keyring
        self._log = log
        self._mark = mark
        self._raises_mark = raises_mark
        self._begun: Checkpoint | None = None
        self._lock = threading.Lock()  # no checkpoint is signed while the key changes

    def sign(self) -> Checkpoint | None:
        """Sign the log as it is; durable on return. None if nothing was added. Raises as `LogWriter.checkpoint`, and
        IntegrityError where somebody else wrote rows of the keyring, HistoryError where it was put back to an earlier
        state: nothing is signed over that.

        The keyring remembers the checkpoint before it is published, as a second copy; then the mark outside the folder
        is raised. Orders to sign are answered. The log is told why it was not signed.
        """
        try:
            return self._sign_whole()
        except CofferError as error:
            self._log.not_signed(error)
            raise

    def _sign_whole(self) -> Checkpoint | None:
        self._keyring.require_whole()
        with self._lock:
            asked = orders.waiting(self._keyring)
            finish(self._folder, self._keyring, self._mark)
            made = self._sign()
            self._raise_mark()
            orders.remove(self._keyring, asked)
            return made

    def rotate(self) -> bool:
        """Complete the rotation that was ordered, if any; returns whether there was one. Durable on return.

        Raises IntegrityError, UnavailableError; the next call then resumes it.
        """
        with self._lock:
            new = signing_key.pending(self._keyring)
            if new is None:
                return False
            self._keyring.require_kept()
            if not finish(self._folder, self._keyring, self._mark):
                old = signing_key.current(self._keyring)

                def endorsed(last: Checkpoint) -> Callable[[bytes], bytes]:
                    endorse(self._folder, old, new, last)
                    return new.sign_statement

                sign = partial(old.sign_note, self._folder.origin)
                self._log.hand_over(sign, self._keyring.remember_checkpoint, endorsed)
                finish(self._folder, self._keyring, self._mark)
            self._raise_mark()
            return True

    def part(self) -> None:
        """Part from every copy of the archive before anything is written: draw a lineage, which the mark durably has
        when the first group is tagged with it. All records that are there are signed first, so that the mark names
        them.

        If the mark cannot be raised, the lineage that it has goes on. Raises as `sign`.
        """
        if self._log.next_seq != self._log.signed_size:
            self.sign()
        with self._lock:
            reached, lineage = self._reached(), new_lineage(self._keyring)
            self._begun = None if reached is None else reached.checkpoint
            if reached is None or not self._raises_mark:
                return
            if self._mark.advance(replace(reached, lineage=lineage), self._begun):
                self._log.begin_lineage(lineage)

    def renew_mark(self) -> None:
        """Put a mark of the archive as it is signed in the place of whatever is there; durable on return. The caller
        has recorded why. Raises UnavailableError, IntegrityError."""
        with self._lock:
            if (reached := self._reached()) is not None:
                self._mark.write(reached)
                self._raises_mark = True

    def _raise_mark(self) -> None:
        if self._raises_mark and (reached := self._reached()) is not None:
            self._mark.advance(reached, self._begun)

    def _reached(self) -> Mark | None:
        """What is durable: the last checkpoint and the keyring."""
        signed, log = self._log.signed, self._log
        if signed is None:
            return None
        return mark_of(self._folder, self._keyring, signed, log.signed_epoch, log.lineage)

    def _sign(self) -> Checkpoint | None:
        signer = signing_key.current(self._keyring)
        return self._log.checkpoint(partial(signer.sign_note, self._folder.origin), self._keyring.remember_checkpoint)


def new_lineage(keyring: Keyring) -> bytes:
    """16 random bytes, which no two writers draw, not even on two clones of one machine."""
    now = clock_ms().to_bytes(8, "big")
    return hedged(keyring.archive_key(derive.HEDGE), derive.LINEAGE, os.urandom, LINEAGE_BYTES, now)


def mark_of(folder: ArchiveFolder, keyring: Keyring, signed: Checkpoint, epoch: int, lineage: bytes) -> Mark:
    """The mark of an archive whose last checkpoint is `signed`, at this epoch of the log, and whose groups have this
    lineage from there on. Its verifier key is that of
    the keyring, whose rows nobody else can write: endorsements lie in the folder, and another continuation has true
    ones too."""
    vkey, generation = signing_key.current(keyring).vkey(folder.origin), keyring.changes()
    return Mark(folder.archive_id, folder.origin, vkey, signed.size, signed.root, generation, epoch, lineage)


def finish(folder: ArchiveFolder, keyring: Keyring, mark: MarkFile) -> bool:
    """Make the next signing key current if it was already endorsed, durable on return; returns whether it was.

    The mark names the key first: so whoever has no key can tell its endorsement from that of a copy. Only the writer
    may call this: until then the old key must not sign. Raises IntegrityError.
    """
    new = signing_key.pending(keyring)
    if new is None:
        return False
    keys = read_key_history(folder)
    if keys.current != new.vkey(folder.origin):
        return False
    mark.succeed(keys.current)
    signing_key.promote(keyring, clock_ms(), outbox.enclosed(keyring, Occurrence(_rotated(keys), clock_ms())))
    _log.info("the signing key was rotated", name="signing_key.rotated", generation=len(keys.vkeys), vkey=keys.current)
    return True


def signers_of(keyring: Keyring) -> list[CheckpointSigner]:
    """The current signing key and the next one, if a rotation is under way."""
    found = (signing_key.current(keyring), signing_key.pending(keyring))
    return [each for each in found if each is not None]


def in_force(keyring: Keyring, folder: ArchiveFolder) -> CheckpointSigner:
    """The one of the keyring's signing keys that signs now: the next one once it is endorsed. If it is neither, the log
    refuses to be written. Raises IntegrityError, KeyUnavailableError."""
    found, now = signers_of(keyring), read_key_history(folder).current
    return next((each for each in found if each.vkey(folder.origin) == now), found[0])


def order(keyring: Keyring, folder: ArchiveFolder, reason: str, officer: Principal) -> str:
    """Create the next signing key with an event, durable on return; returns its verifier key.

    The writer process does the rest. A rotation that is under way is resumed.
    """

    def event(made: CheckpointSigner) -> WaitingEvent:
        ordered = SigningKeyOrdered(vkey=made.vkey(folder.origin), reason=reason.strip(), by=officer.officer)
        return outbox.enclosed(keyring, Occurrence(ordered, clock_ms()))

    return signing_key.begin(keyring, os.urandom, clock_ms(), event).vkey(folder.origin)


def wait_until_rotated(keyring: Keyring, folder: ArchiveFolder) -> None:
    """Wait for the writer process to carry out an order. Raises UnavailableError if it does not in time."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while signing_key.is_under_way(keyring):
        writer_process.require(folder, "the signing key is not changed yet")
        if time.monotonic() > deadline:
            who = writer(folder.lock) or "the next command that writes"
            raise UnavailableError(
                f"the signing key is not changed yet: {who} will do it",
                hint="the old key signs until then; coffer keys list shows the current one",
            )
        time.sleep(_POLL_SECONDS)


def _rotated(keys: KeyHistory) -> SigningKeyRotated:
    made = keys.endorsements[-1]
    return SigningKeyRotated(
        vkey=made.new,
        old_vkey=made.old,
        generation=made.generation,
        endorsed=TreeHead(records=made.size, root=made.root.hex()),
    )
