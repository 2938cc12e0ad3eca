"""Certificates of erasure, as signed notes: which key was destroyed, when, by whom, and what in the log proves it.

Rule: pure. A certificate is checked against a verifier key and its own contents: the signature, the inclusion of every
record that it names, and whether times and records support its statements. It names studies by keyed hashes. A study
that is not erased yet gets another type and another first line, and `check` applies the rules of that type (FORMAT.md,
"Certificates of erasure").
"""

import json
from collections.abc import Iterable
from typing import Final, Self

import msgspec

from coffer.archive.format.entry import OWN_LOG
from coffer.archive.format.record import Kind, RecordHeader, parse_header
from coffer.archive.tree.checkpoint import verified_checkpoint
from coffer.archive.tree.key_history import KeyHistory
from coffer.archive.tree.proof_bundle import Inclusion
from coffer.keys.crypto.signing import body_of
from coffer.keys.errors import FormatError, IntegrityError

__all__ = [
    "EFFECTIVE",
    "NOT_PROMISED",
    "SCHEDULED",
    "SHARES",
    "TITLES",
    "Certificate",
    "CertifiedKey",
    "Epoch",
    "EpochOpener",
    "RecordProof",
    "Step",
    "runs",
]

EFFECTIVE: Final = "coffer/erasure/v4"
SCHEDULED: Final = "coffer/scheduled-erasure/v4"
TITLES: Final = {
    EFFECTIVE: "ERASED: the keys of this study are destroyed, and so is everything that ever opened their epochs.",
    SCHEDULED: "NOT ERASED YET: a shred is scheduled. Older copies of the keys may still open this study.",
}
NOT_PROMISED: Final = (
    "Copies of keyring and key file from before that nobody registered, or that an officer said were destroyed.",
    "Shares that an officer said were burned and were not, and copies of shares.",
    "Memory of other hosts and processes that had opened the study, and keys that were copied out of it.",
    "What had left the archive before: exports, retrievals, prints.",
    "What a provider keeps by itself: backups of an HSM, of a key service, of a file system with the key file.",
    "The same study where it is stored again: it then has another key.",
    "The host's clock: all times are as it told them.",
)
SHARES: Final = "shares"
_SHREDDED: Final = "shredded"
_REKEYED: Final = "rekeyed"
_NO_KEY: Final = bytes(16).hex()
_HINT = "ask the sender for the file exactly as coffer wrote it"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who requested or approved the erasure, when (ms since 1970 UTC), and the number of the record of it."""

    what: str
    ms: int
    officer: str
    account: str
    record: int


class CertifiedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of the study: its id in hex, why and since when it is gone, the key that replaced it, until when backups
    may hold it, its last epoch, the record of its end, and the records of objects under it ("0-4 7")."""

    key: str
    why: str
    successor: str
    gone_ms: int
    backups_until_ms: int
    last_epoch: int
    record: int
    objects: str


class EpochOpener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One secret of a provider, or one group of shares, that could ever open an epoch: the kind of provider, or
    `shares`; its id in hex; a name that people know it by; its receipt, None while it still opens the epoch; and what
    the receipt cannot prove, or why there is none."""

    kind: str
    id: str
    name: str
    receipt_ms: int | None
    effective_ms: int | None
    record: int | None
    caveat: str


class Epoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One epoch that a key may have been under, and everything that could ever open it."""

    epoch: int
    openers: tuple[EpochOpener, ...]

    @property
    def effective_ms(self) -> int | None:
        """Since when nothing opens it; None if something does."""
        ends = [each.effective_ms for each in self.openers]
        return None if None in ends else max((end or 0 for end in ends), default=None)


class _Endorsed(msgspec.Struct, frozen=True):
    """The one field of a certificate that is read before its signature is verified."""

    endorsements: tuple[str, ...] = ()


class RecordProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record's header and its path to the checkpoint's root, in hex."""

    record: str
    hashes: tuple[str, ...]


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate's fields in the order in which they are written; `effective_ms` is None while only scheduled,
    `copies_until_ms` while a registered copy has one of the keys (0: none ever had). All records that it names are of
    one log."""

    type: str
    archive: str
    log: int
    issued_ms: int
    officer: str
    account: str
    study: str
    study_uid: str
    reason: str
    request: str
    steps: tuple[Step, ...]
    scheduled_ms: int
    backups_until_ms: int
    copies_until_ms: int | None
    effective_ms: int | None
    keys: tuple[CertifiedKey, ...]
    epochs: tuple[Epoch, ...]
    proofs: tuple[RecordProof, ...]
    checkpoint: str
    endorsements: tuple[str, ...] = ()
    not_promised: tuple[str, ...] = NOT_PROMISED

    @property
    def is_effective(self) -> bool:
        """Whether it states that the study is erased."""
        return self.type == EFFECTIVE

    def serialize(self) -> bytes:
        """The text that is signed: the title, then JSON."""
        fields = json.dumps(msgspec.to_builtins(self), indent=1, ensure_ascii=False)
        return f"{TITLES[self.type]}\n{fields}\n".encode()

    @classmethod
    def open(cls, note: bytes, vkey: str) -> Self:
        """The certificate in a note, verified with `vkey`, a trusted signing key of the archive, and checked by itself.

        Raises FormatError if it is not a certificate, IntegrityError if the key in force at its checkpoint did not sign
        it, or if it contradicts itself.
        """
        body = body_of(note)
        keys = KeyHistory.of(vkey, _endorsements_in(body))
        by = keys.signers(note)
        found = cls._parse(body)
        if found.archive != keys.origin:
            raise IntegrityError("the certificate is of another archive", hint=_HINT)
        keys.require_in_force(by, verified_checkpoint(found.checkpoint.encode(), keys).size)
        found.check(vkey)
        return found

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        _, _, fields = body.partition(b"\n")
        try:
            found = msgspec.json.decode(fields, type=cls)
            same = found.type in TITLES and found.serialize() == body
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise FormatError("this is not a certificate of an erasure", hint=_HINT) from error
        if not same or found.not_promised != NOT_PROMISED:
            raise FormatError("the certificate is not in canonical form", hint=_HINT)
        return found

    def check(self, vkey: str) -> None:
        """Raise IntegrityError unless its statements are consistent and its records are under its checkpoint."""
        _must(self.log == OWN_LOG, "its records are of another log")
        heads = self._proved(vkey)
        named = {each.record for each in self.steps} | {each.record for each in self.keys}
        named |= {each.record for epoch in self.epochs for each in epoch.openers if each.record is not None}
        _must(named == set(heads), "it proves other records than it names")
        self._check_keys(heads)
        self._check_steps(heads)
        self._check_epochs(heads)
        _must(self.backups_until_ms == max(each.backups_until_ms for each in self.keys), "the holding window differs")
        if not self.is_effective:
            _must(self.effective_ms is None, "it is only scheduled, but states when it became effective")
            return
        ends = [each.effective_ms for each in self.epochs]
        _must(None not in ends, "something still opens an epoch that held the key")
        _must(self.copies_until_ms is not None, "a registered copy still has one of the keys")
        ended = (self.backups_until_ms, self.copies_until_ms or 0, *(end or 0 for end in ends))
        effective = max(self.scheduled_ms, *ended)
        _must(self.effective_ms == effective, "it became effective at another time")
        _must(effective <= self.issued_ms, "it was issued before it was effective")

    def _proved(self, vkey: str) -> dict[int, RecordHeader]:
        """The headers that the proofs prove, by record number."""
        heads: dict[int, RecordHeader] = {}
        note, endorsements = self.checkpoint.encode(), tuple(each.encode() for each in self.endorsements)
        for each in self.proofs:
            try:
                record, path = bytes.fromhex(each.record), tuple(map(bytes.fromhex, each.hashes))
            except ValueError as error:
                raise FormatError("a proof of the certificate is not hexadecimal", hint=_HINT) from error
            Inclusion(record, path, note, endorsements).check(vkey)
            header = parse_header(record)
            _must(record.hex() == each.record, "a proof is not in canonical form")
            _must(not heads or header.seq > max(heads), "its proofs are not in order")
            heads[header.seq] = header
        return heads

    def _check_keys(self, heads: dict[int, RecordHeader]) -> None:
        before: set[str] = set()
        _must(bool(self.keys), "it names no key")
        for each in self.keys:
            head, what = heads[each.record], f"key {each.key[:8]}"
            _must(each.why in {_SHREDDED, _REKEYED} and each.key not in before, f"{what} is gone for no known reason")
            _must(head.study_key_id.hex() == each.key, f"{what}: its record is about another key")
            if each.why == _SHREDDED:
                _must(head.kind == Kind.SHRED_SCHEDULED and not each.successor, f"{what}: its record is not a shred")
                _must(each.gone_ms == self.scheduled_ms <= head.time_ms, f"{what} was shredded at another time")
            else:
                _must(each.successor in before, f"{what} was replaced by a key that is not shown to be gone")
                _must(head.kind == Kind.STUDY_REKEYED, f"{what}: its record is not a rekey")
            before.add(each.key)

    def _check_steps(self, heads: dict[int, RecordHeader]) -> None:
        words = ["asked", *["approved"] * (len(self.steps) - 1)]
        _must([each.what for each in self.steps] == words, "it does not say who requested or approved it")
        _must(self.steps[-1].record == self.keys[0].record, "it does not say who took the last step")
        for each in self.steps:
            head = heads[each.record]
            _must(head.kind in {Kind.STATE, Kind.SHRED_SCHEDULED}, f"record {each.record} is not an officer's step")
            _must(each.ms <= head.time_ms, f"{each.what}: it is later than its record")

    def _check_epochs(self, heads: dict[int, RecordHeader]) -> None:
        last = max(each.last_epoch for each in self.keys)
        _must([each.epoch for each in self.epochs] == list(range(1, last + 1)), "it does not list every epoch")
        used: set[int] = set()
        for epoch in self.epochs:
            what = f"epoch {epoch.epoch}"
            _must(any(each.kind != SHARES for each in epoch.openers), f"{what}: it names nothing that opened it")
            _must(len({each.id for each in epoch.openers}) == len(epoch.openers), f"{what}: it names something twice")
            for each in epoch.openers:
                if each.record is None:
                    _must(each.receipt_ms is None and each.effective_ms is None, f"{what}: a receipt without a record")
                    continue
                head = heads[each.record]
                kind = Kind.STATE if each.kind == SHARES else Kind.EPOCH_DESTROYED
                is_end = head.kind == kind and head.study_key_id.hex() == _NO_KEY
                _must(is_end and each.record not in used, f"{what}: a record does not show the end of what opened it")
                _must((each.receipt_ms or 0) <= head.time_ms, f"{what}: a receipt is later than its record")
                _must(each.effective_ms is not None, f"{what}: a receipt without an effective time")
                used.add(each.record)


def _endorsements_in(body: bytes) -> list[bytes]:
    """The endorsements that lead to the signing key, read before anything in it is trusted; none if unreadable."""
    try:
        found = msgspec.json.decode(body.partition(b"\n")[2], type=_Endorsed)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return []
    return [each.encode() for each in found.endorsements]


def runs(numbers: Iterable[int]) -> str:
    """Ascending record numbers as text: runs of them, separated by spaces ("0-4 7")."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] + 1 == number:
            found[-1][1] = number
        else:
            found.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _must(condition: bool, what: str) -> None:
    if not condition:
        raise IntegrityError(f"the certificate does not hold: {what}", hint=_HINT)
