"""Join the reports of all segments to one log: chain, tree, footers, and the checkpoints that it must match.

Rule: pure. Segments come in order. A damaged segment is skipped by means of its footer: what that says about the tree
is proved, like everything else, by the signed roots after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from coffer.archive.format.chain import Chain
from coffer.archive.format.epoch import complaint
from coffer.archive.format.order import UNKNOWN
from coffer.archive.format.record import Kind
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.report import Finding, Report

MISPLACED = "the segment header belongs to another place or archive"
TIMES = "the segment's first record is not later than the one before it"


@dataclass(frozen=True, slots=True)
class Claim:
    """A signed or remembered statement: the first `size` records have the tree head `root`."""

    size: int
    root: bytes
    by: str = "a signed checkpoint"


@dataclass(slots=True)
class JoinedLog:
    """The log so far. `is_whole`: the tree is known; after damage without a footer it is not, until the next footer."""

    chain: Chain
    claims: list[Claim]
    is_whole: bool = True
    epoch: int | None = None  # of the segment before, 0 before the first; None if it is not known
    mark: Mark | None = None  # that outside the folder, if the archive must have come as far
    unopened: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # key id: segment, first record
    waiting: dict[bytes, int] = field(default_factory=dict)  # key id: the number of records that only it opens
    shredded: set[bytes] = field(default_factory=set)
    superseded: set[bytes] = field(default_factory=set)
    _by_size: dict[int, list[Claim]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the claims, which may be one for each minute of years."""
        for claim in self.claims:
            self._by_size.setdefault(claim.size, []).append(claim)

    def add(self, report: Report) -> Iterator[Finding]:
        """Add the next segment. Yields what is wrong with its position, and every claim that it disproves."""
        header, chain = report.header, self.chain
        if header is not None and (header.first_seq, header.prev_leaf) != (chain.next_seq, chain.head):
            yield Finding(report.number, 0, None, MISPLACED)
            self.is_whole = False
        yield from self._epoch(report)
        for run in report.runs:
            fits = self.is_whole and (run.span.begin, run.prev) == (chain.tree.size, chain.head)
            if fits:
                for height, node in run.span.nodes:
                    chain.tree.append(node, height)
            self.is_whole = fits
            chain.next_seq, chain.head = run.span.end, run.head
            if fits:
                yield from self.compare(report.number)
        yield from self._footer(report)
        yield from self._marked(report)
        for key_id, seqs in report.unopened.items():
            self.unopened.setdefault(key_id, (report.number, seqs[0]))
            self.waiting[key_id] = self.waiting.get(key_id, 0) + len(seqs)
        self.shredded |= report.shredded
        self.superseded |= report.superseded

    def _epoch(self, report: Report) -> Iterator[Finding]:
        """A new epoch begins with the record that says so and may go back in time; otherwise time goes on. What the
        records say counts, whatever the header says."""
        header, before = report.header, self.epoch
        kind, time_ms = report.begins or (None, UNKNOWN)
        if before is None or (header is None and kind is None):
            self.epoch = None if header is None else header.epoch
        elif header is None or (what := complaint(before, header.epoch, kind)) is None:
            self.epoch = before + (kind == Kind.LOG_EPOCH) if header is None else header.epoch
        else:
            self.epoch = before + (kind == Kind.LOG_EPOCH)
            yield Finding(report.number, 0, None, f"the segment {what}")
        if kind not in {None, Kind.LOG_EPOCH} and time_ms <= self.chain.order.time_ms:
            yield Finding(report.number, 0, None, TIMES)

    def _marked(self, report: Report) -> Iterator[Finding]:
        """Compare the epoch where the mark's last record lies with the one that the mark names."""
        mark, header = self.mark, report.header
        if mark is None or header is None or self.epoch is None:
            return
        if header.first_seq < mark.size <= self.chain.next_seq and mark.epoch != self.epoch:
            what = f"the mark outside the folder names epoch {mark.epoch} of the log here, and it is {self.epoch}"
            yield Finding(report.number, 0, mark.size - 1, what)

    def _footer(self, report: Report) -> Iterator[Finding]:
        footer, chain = report.footer, self.chain
        if footer is None:
            return
        chain.order.time_ms = footer.time_ms
        state = (chain.head, chain.tree.size, chain.tree.edge)
        if self.is_whole and (footer.head, footer.tree_size, footer.edge) == state:
            return
        if self.is_whole and not report.findings:
            yield Finding(report.number, report.stop, None, "the footer does not describe this segment's records")
        self.chain, self.is_whole = Chain.behind(footer), True
        yield from self.compare(report.number)

    def compare(self, number: int) -> Iterator[Finding]:
        """Compare the current tree with every claim about a tree of its size."""
        tree = self.chain.tree
        for claim in self._by_size.get(tree.size, ()):
            if claim.root != tree.root():
                what = f"the first {claim.size} records are not those that were signed"
                yield Finding(number, 0, claim.size - 1, what)

    def finish(self, last: int) -> Iterator[Finding]:
        """What only the end shows: claims beyond it, and keys that are missing although no record destroys them."""
        for claim in self.claims:
            if claim.size > self.chain.next_seq:
                what = f"the log ends here, but {claim.by} covers {claim.size} records"
                yield Finding(last, 0, self.chain.next_seq, what)
        for key_id, (number, seq) in self.unopened.items():
            if key_id not in self.shredded | self.superseded:
                what = f"the key of {self.waiting[key_id]} records is missing, and no record says that it was destroyed"
                yield Finding(number, 0, seq, what)
