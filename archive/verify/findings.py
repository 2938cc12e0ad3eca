"""Recorded findings: one small file each, until an administrator acknowledges them or they are repaired.

Rule: a finding is written durably when it is made and removed only by a command or by a later check without it. Files
are complete or absent, so the server can add findings while an administrator acknowledges others. Anybody who can write
the folder can write such a file; but an acknowledgement, which ends the warnings, counts only with a seal that takes
the archive's key.
"""

import hashlib
import hmac
import re
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from pathlib import Path

from coffer.archive.store import checksummed_json
from coffer.archive.verify.report import Finding
from coffer.keys.clock import LAST_MS
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.disk import durable, opening
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, IntegrityError, KeyUnavailableError, NotFoundError
from coffer.keys.memory.secret import Secret

_SUFFIX = ".finding"
_LONGEST = 64 << 10
_MOST = 1_000_000  # findings: if more files were planted, it is noticed without reading them
_KEPT = re.compile(r"[0-9A-Za-z._-]*")  # a file name in lost+found
_SEAL = re.compile(r"(?:[0-9a-f]{64})?")
_LAST = (1 << 63) - 1  # segment, offset, record: what a file's size can be


class Acknowledgement(Enum):
    """Whether somebody took responsibility for a finding. Only TRUE ends its warnings."""

    NONE = "not acknowledged"
    TRUE = "acknowledged"
    FOREIGN = "not acknowledged: what says so was written without the archive's key"
    UNCHECKED = "said to be acknowledged, which cannot be checked without the archive's key"


@dataclass(frozen=True, slots=True)
class RecordedFinding:
    """A finding, when it was made (ms since 1970 UTC), and when it was acknowledged (0: not yet).

    `kept` names a file in lost+found that an administrator should examine: the log itself no longer shows the problem.
    `seal` is the keyed hash of an acknowledgement, 64 hex digits, empty before.
    """

    segment: int
    offset: int
    record: int | None
    what: str
    found_ms: int
    acknowledged_ms: int = 0
    kept: str = ""
    seal: str = ""

    def serialize(self) -> bytes:
        """The file's bytes: checksummed JSON."""
        return checksummed_json.serialize(asdict(self))

    def sealed(self, key: Secret) -> "RecordedFinding":
        """This finding with the seal of its acknowledgement: HMAC-SHA-256 over its bytes without a seal."""
        bare = replace(self, seal="")
        return replace(bare, seal=hmac_sha256(key, bare.serialize()).hex())

    @property
    def name(self) -> str:
        """A short name for use on the command line; the same damage always has the same name."""
        return f"{self.segment}-{self.offset}-{hashlib.sha256(self.what.encode()).hexdigest()[:6]}"


def _parse(data: bytes) -> RecordedFinding:
    """Parse what `FindingStore` wrote. Raises FormatError."""
    values: object = checksummed_json.parse(data)
    if not isinstance(values, dict) or set(values) != {one.name for one in fields(RecordedFinding)}:
        raise FormatError("a finding has unknown fields")
    numbers = (values["segment"], values["offset"], 0 if values["record"] is None else values["record"])
    times = (values["found_ms"], values["acknowledged_ms"])
    if any(type(one) is not int for one in (*numbers, *times)):
        raise FormatError("a finding has values of the wrong type")
    if not all(isinstance(values[name], str) for name in ("what", "kept", "seal")):
        raise FormatError("a finding has values of the wrong type")
    if not all(0 <= one <= _LAST for one in numbers) or not all(0 <= one <= LAST_MS for one in times):
        raise FormatError("a finding has numbers that are impossible")
    if not _KEPT.fullmatch(values["kept"]):
        raise FormatError("a finding names a file that cannot be in lost+found")
    if not _SEAL.fullmatch(values["seal"]):
        raise FormatError("a finding has a seal of the wrong form")
    return RecordedFinding(**values)


class FindingStore:
    """The recorded findings in one folder."""

    def __init__(self, folder: Path, calls: Syscalls = SYSTEM, *, key: Secret | None = None) -> None:
        """`key` is the archive's for acknowledgements; without it none is believed and none can be made."""
        self._folder = folder
        self._calls = calls
        self._key = key

    def entries(self) -> list[RecordedFinding]:
        """All findings, in log order. Raises FormatError for a file that cannot be parsed, whose name does not match
        its content, or that is not a regular file."""
        found = []
        for name in sorted(self._names()):
            path = self._folder / name
            try:
                entry = _parse(opening.read(path, _LONGEST))
                if name != entry.name + _SUFFIX:
                    raise FormatError("its name is that of another finding")
                found.append(entry)
            except FileNotFoundError:
                continue  # repaired a moment ago
            except IntegrityError as error:
                raise FormatError(
                    f"{opening.shown(path)} cannot be read as a finding",
                    hint=f"mv {shlex.quote(opening.shown(path))} /var/tmp/ and run coffer verify; then find out who or "
                    "what writes to the archive folder",
                ) from error
        return sorted(found, key=lambda e: (e.segment, e.offset))

    def _names(self) -> list[str]:
        try:
            return [name for name in opening.names(self._folder, _MOST) if name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return []

    def acknowledgement(self, entry: RecordedFinding) -> Acknowledgement:
        """Whether a finding is acknowledged, as far as the key shows."""
        if not entry.acknowledged_ms:
            return Acknowledgement.NONE
        if self._key is None:
            return Acknowledgement.UNCHECKED
        is_true = hmac.compare_digest(entry.sealed(self._key).seal, entry.seal)
        return Acknowledgement.TRUE if is_true else Acknowledgement.FOREIGN

    def is_open(self, entry: RecordedFinding) -> bool:
        """Whether a finding still waits for an answer."""
        return self.acknowledgement(entry) is not Acknowledgement.TRUE

    def open_entries(self) -> list[RecordedFinding]:
        """The findings that are not acknowledged, or not known to be."""
        return [e for e in self.entries() if self.is_open(e)]

    def add(self, finding: Finding, now_ms: int, kept: str = "") -> RecordedFinding | None:
        """Record a finding, durable on return; None if it was recorded before."""
        entry = RecordedFinding(finding.segment, finding.offset, finding.seq, finding.what, now_ms, kept=kept)
        if opening.exists(self._path(entry)):
            durable.resync(self._path(entry), calls=self._calls)  # a crash may have come before its name was durable
            return None
        self._write(entry)
        return entry

    def acknowledge(self, names: Collection[str], now_ms: int) -> list[RecordedFinding]:
        """Mark findings as acknowledged, all open ones if no name is given; durable on return.

        Raises NotFoundError, and KeyUnavailableError without a key.
        """
        if self._key is None:
            raise KeyUnavailableError(
                "an acknowledgement needs the archive's key", hint="run coffer scrub acknowledge where the key is"
            )
        entries = {e.name: e for e in self.entries()}
        unknown = [name for name in names if name not in entries]
        if unknown:
            raise NotFoundError(f"there is no finding {unknown[0]}", hint="coffer scrub show lists them")
        for known in (e for e in entries.values() if e.name in names and not self.is_open(e)):
            durable.resync(self._path(known), calls=self._calls)
        waiting = [e for e in entries.values() if (e.name in names or not names) and self.is_open(e)]
        acknowledged = [replace(entry, acknowledged_ms=now_ms).sealed(self._key) for entry in waiting]
        for entry in acknowledged:
            self._write(entry)
        return acknowledged

    def settle(self, segments: Collection[int], left: Collection[Finding]) -> list[RecordedFinding]:
        """Remove the findings of `segments`, which were checked again, except those that are still `left`.

        A finding about a file in lost+found is removed once it is acknowledged: no later check can say more about it.
        """
        still = {RecordedFinding(f.segment, f.offset, f.seq, f.what, 0).name for f in left}
        gone = [
            e
            for e in self.entries()
            if (not self.is_open(e) if e.kept else e.segment in segments and e.name not in still)
        ]
        for entry in gone:
            durable.remove(self._path(entry), calls=self._calls)
        return gone

    def _path(self, entry: RecordedFinding) -> Path:
        return self._folder / (entry.name + _SUFFIX)

    def _write(self, entry: RecordedFinding) -> None:
        durable.replace(self._path(entry), entry.serialize(), calls=self._calls)
