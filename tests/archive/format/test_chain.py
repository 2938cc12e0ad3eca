"""Following the chain in a segment that a writer cuts meanwhile."""

import pytest

from coffer.archive.format.chain import find_record, pass_over
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.format.walk import Walker
from coffer.archive.store.source import MemorySource
from tests.archive.conftest import SmallArchive, append, entry

START = SEGMENT_HEADER.size


@pytest.mark.parametrize("cut_at", range(6))
@pytest.mark.parametrize("more", [-1, 0, 30])
@pytest.mark.parametrize("bodies", [False, True])
def test_what_was_cut_since_the_size_was_asked_is_the_end(
    small: SmallArchive, cut_at: int, more: int, *, bodies: bool
) -> None:
    log = small.writer()
    offsets = [place.offset for place in append(log, [entry(n, 20_000 if n in {2, 3} else 40) for n in range(6)])]
    log.close()
    data = small.segments()[0].read_bytes()
    left = offsets[cut_at] + more
    source, whole = MemorySource(data[:left]), cut_at - (more < 0)
    batch, _ = Walker(source, bodies=bodies).batch(START, len(data), lambda _place, _at: True)
    assert batch.offsets == offsets[: max(whole, 0)]
    assert pass_over(source, START, len(data), 9) in offsets
    assert find_record(source, START + 1, len(data), 9) is None
