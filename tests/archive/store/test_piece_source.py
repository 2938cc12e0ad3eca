"""A source in pieces: right bytes in any order, the next pieces fetched meanwhile, and few of them held."""

import random
import threading
from collections import Counter

import pytest

from coffer.archive.store.piece_source import PieceSource
from coffer.keys.errors import FormatError, UnreadableError

PIECE = 100
DATA = random.Random(1).randbytes(950)


class Fetching:
    """Gives the pieces of DATA and counts how often."""

    def __init__(self) -> None:
        self.count: Counter[int] = Counter()
        self.damaged: set[int] = set()
        self.seen = threading.Condition()

    def __call__(self, number: int) -> bytes:
        with self.seen:
            self.count[number] += 1
            self.seen.notify_all()
        if number in self.damaged:
            raise UnreadableError("damaged")
        return DATA[number * PIECE : (number + 1) * PIECE]


def test_any_range_is_what_lies_there() -> None:
    chance, fetching = random.Random(2), Fetching()
    with PieceSource(len(DATA), PIECE, fetching) as source:
        assert source.size == len(DATA)
        for _ in range(300):
            begin, end = sorted(chance.choices(range(len(DATA) + 1), k=2))
            assert source.read(begin, end - begin) == DATA[begin:end]
        with pytest.raises(FormatError):
            source.read(900, 51)


def test_who_begins_and_ends_with_the_last_piece_has_each_piece_fetched_once() -> None:
    fetching = Fetching()
    with PieceSource(len(DATA), PIECE, fetching) as source:
        source.read(0, 10)
        source.read(940, 10)
        assert b"".join(source.read(at, 10) for at in range(0, 950, 10)) == DATA
    assert fetching.count == Counter(range(10))


def test_in_order_the_next_pieces_are_fetched_before_anybody_asks() -> None:
    fetching = Fetching()
    with PieceSource(len(DATA), PIECE, fetching) as source:
        source.read(0, 1)
        assert fetching.count == Counter([0])  # who looks at one place fetches nothing else
        source.read(100, 1)
        with fetching.seen:
            assert fetching.seen.wait_for(lambda: set(fetching.count) == {0, 1, 2, 3, 4}, 10)


def test_a_piece_that_cannot_be_had_is_said_where_it_is_read() -> None:
    fetching = Fetching()
    fetching.damaged = {3}
    with PieceSource(len(DATA), PIECE, fetching) as source:
        assert source.read(0, 300) == DATA[:300]
        with pytest.raises(UnreadableError):
            source.read(250, 100)
        assert source.read(400, 550) == DATA[400:]


def test_nothing_is_fetched_after_the_end() -> None:
    ended = []
    source = PieceSource(len(DATA), PIECE, Fetching(), lambda: ended.append(1))
    source.read(0, 300)
    source.close()
    assert ended == [1]
    assert not [each for each in threading.enumerate() if each.name.startswith("coffer-copies")]
