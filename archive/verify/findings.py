"""Findings that wait for an answer: one small file each, until somebody acknowledges them or they are mended.

Rule: a finding is written durably when it is made and goes away only by a command or by a clean second look. Files are
whole or not there, so that the server adds to them while an administrator answers.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from coffer.archive.store import checksummed_json
from coffer.archive.verify.report import Finding
from coffer.keys.disk import durable, opening
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError

_SUFFIX = ".finding"
_LONGEST = 64 << 10
_MOST = 1_000_000  # findings: who planted more is found without reading them
_KEPT = re.compile(r"[0-9A-Za-z._-]*")  # a name in lost+found


@dataclass(frozen=True, slots=True)
class Entry:
    """A finding, when it was made (ms since 1970 UTC), and when somebody acknowledged it (0: nobody did).

    `kept` names a file in lost+found that somebody should look at; nothing in the log shows any more what was found.
    """

    segment: int
    offset: int
    record: int | None
    what: str
    found_ms: int
    acknowledged_ms: int = 0
    kept: str = ""

    @property
    def name(self) -> str:
        """A short name to give on the command line; the same damage has the same name."""
        return f"{self.segment}-{self.offset}-{hashlib.sha256(self.what.encode()).hexdigest()[:6]}"


def _parse(data: bytes) -> Entry:
    """What `Ledger` wrote. Raises FormatError."""
    told: object = checksummed_json.parse(data)
    if not isinstance(told, dict) or set(told) != {one.name for one in fields(Entry)}:
        raise FormatError("a finding has other facts")
    numbers = (told["segment"], told["offset"], told["record"] or 0, told["found_ms"], told["acknowledged_ms"])
    texts = (told["what"], told["kept"])
    if any(type(one) is not int for one in numbers) or not all(isinstance(one, str) for one in texts):
        raise FormatError("a finding has other facts")
    if not _KEPT.fullmatch(told["kept"]):
        raise FormatError("what a finding names is not in lost+found")
    return Entry(**told)


class Ledger:
    """The findings in one folder."""

    def __init__(self, folder: Path, calls: Syscalls = SYSTEM) -> None:
        self._folder = folder
        self._calls = calls

    def entries(self) -> list[Entry]:
        """All of them, in the order of the log. Raises FormatError for a file that cannot be read, is not called after
        what is in it, or is no file."""
        found = []
        for name in sorted(self._names()):
            path = self._folder / name
            try:
                entry = _parse(opening.read(path, _LONGEST))
                if name != entry.name + _SUFFIX:
                    raise FormatError("it is another finding's")
                found.append(entry)
            except FileNotFoundError:
                continue  # mended a moment ago
            except IntegrityError as error:
                raise FormatError(
                    f"{opening.shown(path)} cannot be read", hint="move it away and run coffer verify"
                ) from error
        return sorted(found, key=lambda e: (e.segment, e.offset))

    def _names(self) -> list[str]:
        try:
            return [name for name in opening.names(self._folder, _MOST) if name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return []

    def open_entries(self) -> list[Entry]:
        """Those that nobody acknowledged."""
        return [e for e in self.entries() if not e.acknowledged_ms]

    def add(self, finding: Finding, now_ms: int, kept: str = "") -> Entry | None:
        """Keep a finding, durable on return; None where it is known already."""
        entry = Entry(finding.segment, finding.offset, finding.seq, finding.what, now_ms, kept=kept)
        if opening.exists(self._path(entry)):
            durable.resync(self._path(entry), calls=self._calls)  # a stop may have come before its name was stable
            return None
        self._write(entry)
        return entry

    def acknowledge(self, names: Collection[str], now_ms: int) -> list[Entry]:
        """Mark findings as known to somebody, all open ones where no name is given; durable on return.

        Raises NotFoundError.
        """
        entries = {e.name: e for e in self.entries()}
        unknown = [name for name in names if name not in entries]
        if unknown:
            raise NotFoundError(f"there is no finding {unknown[0]}", hint="coffer scrub show lists them")
        for known in (e for e in entries.values() if e.name in names and e.acknowledged_ms):
            durable.resync(self._path(known), calls=self._calls)
        waiting = [e for e in entries.values() if (e.name in names or not names) and not e.acknowledged_ms]
        answered = [replace(entry, acknowledged_ms=now_ms) for entry in waiting]
        for entry in answered:
            self._write(entry)
        return answered

    def settle(self, segments: Collection[int], left: Collection[Finding]) -> list[Entry]:
        """Drop the findings of segments that were looked at again, but for those that are still there.

        One about a file in lost+found is dropped once it was acknowledged: no second look can tell more.
        """
        still = {Entry(f.segment, f.offset, f.seq, f.what, 0).name for f in left}
        gone = [
            e
            for e in self.entries()
            if (e.acknowledged_ms if e.kept else e.segment in segments and e.name not in still)
        ]
        for entry in gone:
            durable.remove(self._path(entry), calls=self._calls)
        return gone

    def _path(self, entry: Entry) -> Path:
        return self._folder / (entry.name + _SUFFIX)

    def _write(self, entry: Entry) -> None:
        durable.replace(self._path(entry), checksummed_json.serialize(asdict(entry)), calls=self._calls)
