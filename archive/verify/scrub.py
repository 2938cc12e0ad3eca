"""Read the whole log over and over, slowly: bit rot is found while a copy still has the data.

Rule: a pass reads all segments in order and joins them to the signed root, as a verification does. Its position is
written once a minute; after a restart it is resumed there, and only the headers of one segment are read twice. It never
changes the log. Clock and waiting are injected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from coffer.archive.format import segment
from coffer.archive.format.chain import Chain, read_first_header
from coffer.archive.format.merkle import Frontier
from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, segment_numbers
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.verify.join import Claim, JoinedLog
from coffer.archive.verify.report import Finding, Task, VerifyLevel, missing
from coffer.archive.verify.scan import scan
from coffer.keys.clock import LAST_MS
from coffer.keys.disk import opening
from coffer.keys.disk.durable import replace
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError, UnreadableError

_SAVE_MS = 60_000
_BATCH_BYTES = 4 << 20
_LONGEST = 64 << 20  # a line for each segment
_LAST = (1 << 63) - 1  # what a file's size can be


@dataclass(slots=True)
class ScrubPosition:
    """The scrub's position: the segment, the byte offset up to which its bodies are read, the chain before it and the
    epoch of the log there (None: not known).

    `verified` is, for each segment, when it was last read to its end (ms since 1970 UTC).
    """

    segment: int = 1
    offset: int = 0
    size: int = 0
    head: bytes = b""
    edge: tuple[bytes, ...] = ()
    is_whole: bool = True
    epoch: int | None = 0
    passes: int = 0
    verified: dict[int, int] = field(default_factory=dict)

    def serialize(self) -> bytes:
        """Checksummed JSON in canonical form."""
        values = {
            "segment": self.segment, "offset": self.offset, "size": self.size, "head": self.head.hex(),
            "edge": [node.hex() for node in self.edge], "is_whole": self.is_whole, "epoch": self.epoch,
            "passes": self.passes,
            "verified": {str(n): ms for n, ms in sorted(self.verified.items())},
        }  # fmt: skip
        return checksummed_json.serialize(values)


def parse_position(data: bytes) -> ScrubPosition:
    """Parse what `serialize` wrote. Raises FormatError."""
    try:
        values = checksummed_json.parse(data)
        position = ScrubPosition(
            int(values["segment"]), int(values["offset"]), int(values["size"]), bytes.fromhex(values["head"]),
            tuple(bytes.fromhex(node) for node in values["edge"]), bool(values["is_whole"]),
            None if values["epoch"] is None else int(values["epoch"]), int(values["passes"]),
            {int(n): int(ms) for n, ms in values["verified"].items()},
        )  # fmt: skip
        numbers = (position.segment - 1, position.offset, position.size, position.passes, position.epoch or 0)
        if not all(0 <= one <= _LAST for one in (*numbers, *position.verified)):
            raise FormatError("the scrub's position is outside any log")
        if not all(0 <= ms <= LAST_MS for ms in position.verified.values()):
            raise FormatError("the scrub's times are impossible")
        if len(position.head) not in {0, 32}:
            raise FormatError("the scrub's position is outside any log")
        if any(len(node) != 32 for node in position.edge) or len(position.edge) not in {0, position.size.bit_count()}:
            raise FormatError("the scrub's tree is impossible")
        return position
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError("the scrub's position cannot be read") from error


@dataclass(frozen=True, slots=True)
class ScrubStep:
    """What one step read: segment (0: none), bodies and their bytes, findings; whether it began mid-segment."""

    segment: int
    bodies: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    is_resumed: bool = False


class StoppedError(Exception):
    """Raised by `pace` to end a scan between two batches."""


class Scrub:
    """One scrub of one archive. Not thread-safe; `pace` may raise StoppedError, which ends the current step."""

    def __init__(
        self,
        folder: ArchiveFolder,
        *,
        remembered: Callable[[], Checkpoint | None],
        now_ms: Callable[[], int],
        pace: Callable[[int], None],
        on_finding: Callable[[Finding], None],
        calls: Syscalls = SYSTEM,
    ) -> None:
        """`remembered` returns the checkpoint that the keyring remembers. `pace` is called with the number of bytes
        that were just read and returns when more may be read.

        `on_finding` is called with each finding before the position moves past it; what it stores must be durable on
        return.
        """
        self._folder = folder
        self._segments = folder.segment_store()
        self._remembered = remembered
        self._now_ms = now_ms
        self._pace = pace
        self._on_finding = on_finding
        self._done = 0
        self._calls = calls
        self._saved_ms = 0
        self._path = folder.scrub / "place.json"
        try:
            self.position = parse_position(opening.read(self._path, _LONGEST))
        except (FileNotFoundError, IntegrityError):
            self.position = ScrubPosition()  # only the times of earlier reads are lost

    def segment(self) -> ScrubStep:
        """Read the next segment, or the rest of the current one. The new position is durable on return."""
        position, numbers = self.position, segment_numbers(self._segments)
        number = next((n for n in numbers if n >= position.segment), None)
        if number is None:
            self._next_pass(numbers)
            return ScrubStep(0)
        found: list[Finding] = []
        is_resumed, is_last, self._done = number == position.segment and position.offset > 0, number == numbers[-1], 0
        if position.segment < number:
            self._found(found, missing(position.segment, number - 1))
        claims = self._claims(found)
        report = scan(self._task(number, claims, is_last=is_last), None, self._progressed, self._on_finding)
        joined = JoinedLog(
            self._chain(), claims, position.is_whole, position.epoch if number == position.segment else None
        )
        for finding in joined.add(report):
            self._found(found, finding)
        for finding in joined.finish(number) if is_last else ():
            self._found(found, finding)
        self._move_on(number, joined)
        if is_last:
            self._next_pass(numbers)
        self.save()
        return ScrubStep(number, report.counts.bodies, report.counts.bytes, [*report.findings, *found], is_resumed)

    def _found(self, found: list[Finding], finding: Finding) -> None:
        self._on_finding(finding)
        found.append(finding)

    def _move_on(self, number: int, joined: JoinedLog) -> None:
        position, chain = self.position, joined.chain
        position.size, position.head, position.epoch = chain.next_seq, chain.head, joined.epoch
        position.is_whole = joined.is_whole and chain.next_seq == chain.tree.size
        position.edge = chain.tree.edge if position.is_whole else ()
        position.verified[number] = self._now_ms()
        position.segment, position.offset = number + 1, 0

    def save(self) -> None:
        """Write the position; durable on return."""
        self._saved_ms = self._now_ms()
        replace(self._path, self.position.serialize(), calls=self._calls)

    def oldest_ms(self) -> int | None:
        """When the segment that has waited longest was last read, or its first record written if it never was; None for
        a log without records."""
        found = [self.position.verified.get(n) or self._begun_ms(n) for n in segment_numbers(self._segments)]
        return min((ms for ms in found if ms is not None), default=None)

    def _task(self, number: int, claims: Sequence[Claim], *, is_last: bool) -> Task:
        make = partial(Task.of, self._folder, number)
        cuts = tuple(sorted({c.size for c in claims}))
        offset = self.position.offset if number == self.position.segment else 0
        return make(
            is_last=is_last,
            level=VerifyLevel.BODIES,
            cuts=cuts,
            from_offset=offset,
            is_cold=True,
            batch_bytes=_BATCH_BYTES,
        )

    def _claims(self, found: list[Finding]) -> list[Claim]:
        claims = []
        try:
            signed = read_checkpoint(self._folder)
            claims.append(Claim(signed.size, signed.root))
            remembered = self._remembered()  # read after the checkpoint, because a writer updates the keyring first
            if remembered is not None and not any(
                (c.size, c.root) == (remembered.size, remembered.root) for c in claims
            ):
                claims.append(Claim(remembered.size, remembered.root, "the checkpoint that the keyring remembers"))
        except IntegrityError as error:
            self._found(found, Finding(0, 0, None, f"the signed checkpoint: {error}"))
        return claims

    def _chain(self) -> Chain:
        position = self.position
        if position.segment == 1 or not position.head:
            return Chain.start(self._folder.archive_id)
        return Chain(position.size, position.head, Frontier(position.size, list(position.edge)))

    def _progressed(self, count: int) -> None:
        before, self._done = self._done, self._done + count
        fresh = self._done - max(before, self.position.offset)
        if fresh > 0:
            self.position.offset = self._done
            if self._now_ms() - self._saved_ms >= _SAVE_MS:
                self.save()
            self._pace(fresh)

    def _next_pass(self, numbers: Sequence[int]) -> None:
        kept = {n: ms for n, ms in self.position.verified.items() if n in numbers}
        self.position = ScrubPosition(passes=self.position.passes + 1, verified=kept)

    def _begun_ms(self, number: int) -> int | None:
        """The time of a segment's first record; None for a segment without any, 0 if that cannot be read."""
        try:
            with self._segments.open(LOG, number) as source:
                if source.size == segment.HEADER.size:
                    return None
                first = read_first_header(source)
        except (IntegrityError, NotFoundError, UnreadableError):
            return 0
        return first.time_ms if first is not None else 0
