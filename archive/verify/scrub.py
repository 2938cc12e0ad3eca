"""Read the whole log again and again, slowly: what rots is found while a copy still has it.

Rule: a pass goes through all segments in order and joins them to the signed root, as a verification does. Its position
is written once a minute; after a restart it goes on there, and only the headers of one segment are read twice. It
never changes the log. Clock and waiting are injected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from coffer.archive.format.chain import Chain, read_segment_header
from coffer.archive.format.merkle import Frontier
from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.verify.join import Claim, Joined
from coffer.archive.verify.report import Finding, Level, Task, missing
from coffer.archive.verify.scan import scan
from coffer.keys.disk import opening
from coffer.keys.disk.durable import replace
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, IntegrityError, UnreadableError

_SAVE_MS = 60_000
_BATCH_BYTES = 4 << 20
_LONGEST = 64 << 20  # a line for each segment


@dataclass(slots=True)
class Place:
    """Where the scrub is: the segment, the byte offset up to which its bodies are read, the chain before it.

    `verified` tells for each segment when it was last read to its end (ms since 1970 UTC).
    """

    segment: int = 1
    offset: int = 0
    size: int = 0
    head: bytes = b""
    edge: tuple[bytes, ...] = ()
    is_whole: bool = True
    passes: int = 0
    verified: dict[int, int] = field(default_factory=dict)

    def serialize(self) -> bytes:
        """JSON with a sum, one form."""
        told = {
            "segment": self.segment, "offset": self.offset, "size": self.size, "head": self.head.hex(),
            "edge": [node.hex() for node in self.edge], "is_whole": self.is_whole, "passes": self.passes,
            "verified": {str(n): ms for n, ms in sorted(self.verified.items())},
        }  # fmt: skip
        return checksummed_json.serialize(told)


def parse_place(data: bytes) -> Place:
    """What `serialize` wrote. Raises FormatError."""
    try:
        told = checksummed_json.parse(data)
        place = Place(
            int(told["segment"]), int(told["offset"]), int(told["size"]), bytes.fromhex(told["head"]),
            tuple(bytes.fromhex(node) for node in told["edge"]), bool(told["is_whole"]), int(told["passes"]),
            {int(n): int(ms) for n, ms in told["verified"].items()},
        )  # fmt: skip
        if place.segment < 1 or min(place.offset, place.size, place.passes) < 0 or len(place.head) not in {0, 32}:
            raise FormatError("the scrub is nowhere in this log")
        if any(len(node) != 32 for node in place.edge) or len(place.edge) not in {0, place.size.bit_count()}:
            raise FormatError("the scrub's tree is none")
        return place
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError("the scrub's position cannot be read") from error


@dataclass(frozen=True, slots=True)
class Looked:
    """What one step read: segment (0: none), bodies and their bytes, findings; whether it began in the middle."""

    segment: int
    bodies: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    is_resumed: bool = False


class StoppedError(Exception):
    """Raised through a scan by whoever paces it, to end it between two batches."""


class Scrub:
    """One scrub of one archive. Not thread-safe; `pace` may raise StoppedError, which ends what is under way."""

    def __init__(
        self,
        folder: ArchiveFolder,
        *,
        witness: Callable[[], Checkpoint | None],
        now_ms: Callable[[], int],
        pace: Callable[[int], None],
        tell: Callable[[Finding], None],
        calls: Syscalls = SYSTEM,
    ) -> None:
        """`pace` gets the bytes that were just read and returns when more may be read.

        `tell` gets each finding at once, before the position moves past it; what it keeps must be durable on return.
        """
        self._folder = folder
        self._witness = witness
        self._now_ms = now_ms
        self._pace = pace
        self._tell = tell
        self._done = 0
        self._calls = calls
        self._saved_ms = 0
        self._path = folder.scrub / "place.json"
        try:
            self.place = parse_place(opening.read(self._path, _LONGEST))
        except (FileNotFoundError, IntegrityError):
            self.place = Place()  # nothing is lost but the knowledge of when what was read

    def segment(self) -> Looked:
        """Read the next segment, or what is left of it. Durable on return."""
        place, numbers = self.place, self._folder.segment_numbers()
        number = next((n for n in numbers if n >= place.segment), None)
        if number is None:
            self._next_pass(numbers)
            return Looked(0)
        found: list[Finding] = []
        is_resumed, is_last, self._done = number == place.segment and place.offset > 0, number == numbers[-1], 0
        if place.segment < number:
            self._found(found, missing(place.segment, number - 1))
        claims = self._claims(found)
        report = scan(self._task(number, claims, is_last=is_last), None, self._progressed, self._tell)
        joined = Joined(self._chain(), claims, place.is_whole)
        for finding in joined.add(report):
            self._found(found, finding)
        for finding in joined.finish(number) if is_last else ():
            self._found(found, finding)
        self._move_on(number, joined)
        if is_last:
            self._next_pass(numbers)
        self.save()
        return Looked(number, report.counts.bodies, report.counts.bytes, [*report.findings, *found], is_resumed)

    def _found(self, found: list[Finding], finding: Finding) -> None:
        self._tell(finding)
        found.append(finding)

    def _move_on(self, number: int, joined: Joined) -> None:
        place, chain = self.place, joined.chain
        place.size, place.head = chain.next_seq, chain.head
        place.is_whole = joined.is_whole and chain.next_seq == chain.tree.size
        place.edge = chain.tree.edge if place.is_whole else ()
        place.verified[number] = self._now_ms()
        place.segment, place.offset = number + 1, 0

    def save(self) -> None:
        """Write where it is; durable on return."""
        self._saved_ms = self._now_ms()
        replace(self._path, self.place.serialize(), calls=self._calls)

    def oldest_ms(self) -> int | None:
        """When the segment that waits longest was last read, or made if it never was; None for an empty log."""
        times = [self.place.verified.get(n) or self._created_ms(n) for n in self._folder.segment_numbers()]
        return min(times, default=None)

    def _task(self, number: int, claims: Sequence[Claim], *, is_last: bool) -> Task:
        make = partial(Task, self._folder.segment_path(number), self._folder.lock, self._folder.archive_id, number)
        cuts = tuple(sorted({c.size for c in claims}))
        offset = self.place.offset if number == self.place.segment else 0
        return make(
            is_last=is_last, level=Level.BODIES, cuts=cuts, from_offset=offset, is_cold=True, batch_bytes=_BATCH_BYTES
        )

    def _claims(self, found: list[Finding]) -> list[Claim]:
        claims = []
        try:
            signed = read_checkpoint(self._folder)
            if signed is not None:
                claims.append(Claim(signed.size, signed.root))
            witness = self._witness()  # after the checkpoint: the keyring is told first
            if witness is not None and not any((c.size, c.root) == (witness.size, witness.root) for c in claims):
                claims.append(Claim(witness.size, witness.root, "the checkpoint that the keyring remembers"))
        except IntegrityError as error:
            self._found(found, Finding(0, 0, None, f"the signed checkpoint: {error}"))
        return claims

    def _chain(self) -> Chain:
        place = self.place
        if place.segment == 1 or not place.head:
            return Chain.start(self._folder.archive_id)
        return Chain(place.size, place.head, Frontier(place.size, list(place.edge)))

    def _progressed(self, count: int) -> None:
        before, self._done = self._done, self._done + count
        fresh = self._done - max(before, self.place.offset)
        if fresh > 0:
            self.place.offset = self._done
            if self._now_ms() - self._saved_ms >= _SAVE_MS:
                self.save()
            self._pace(fresh)

    def _next_pass(self, numbers: Sequence[int]) -> None:
        kept = {n: ms for n, ms in self.place.verified.items() if n in numbers}
        self.place = Place(passes=self.place.passes + 1, verified=kept)

    def _created_ms(self, number: int) -> int:
        try:
            with opening.opened(self._folder.segment_path(number)) as file:
                return read_segment_header(file.fileno()).created_ms
        except (IntegrityError, UnreadableError, OSError):
            return 0
