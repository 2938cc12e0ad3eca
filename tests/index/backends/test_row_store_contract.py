"""The contract of `IndexRowStore`, held against every store, and through lost, late and reordered answers."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.memory_store import MemoryRowStore
from coffer.index.backends.row_store import EPOCH_KEY, TABLES, Change, IndexRowStore
from coffer.keys.errors import FencedError
from coffer.keys.memory.secret import Secret
from tests.index.backends.faulty import Asking, FaultyRowStore

KEY = Secret(bytes(32))
STORES: dict[str, Callable[[Path], IndexRowStore]] = {
    "lmdb": lambda folder: LmdbRowStore(folder, map_bytes=1 << 20),
    "memory": lambda _: MemoryRowStore(),
}


@pytest.fixture(params=STORES)
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexRowStore]:
    """Each store, empty."""
    made = STORES[request.param](tmp_path / "index")
    made.authenticate(KEY, os.urandom)
    yield made
    assert made.complaint() is None
    made.close()


@pytest.fixture(params=["direct", "faulty"])
def store(request: pytest.FixtureRequest, inner: IndexRowStore) -> IndexRowStore:
    """Each store, and each behind faults."""
    return inner if request.param == "direct" else Asking(FaultyRowStore(inner, Random(7)))


def key(number: int) -> bytes:
    return number.to_bytes(2, "big")


def all_rows(store: IndexRowStore, table: str, most: int, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Every row of a table, page by page."""
    found: list[tuple[bytes, bytes]] = []
    while page := store.scan(table, found[-1][0] if found else b"", most, prefix):
        found += page
    return found


class Model:
    """What the tables must hold."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, set[bytes]]] = {table: {} for table in TABLES}

    def make(self, changes: list[Change]) -> None:
        for table, where, value in changes:
            if value is None or table != "uid":
                self.tables[table].pop(where, None)
            if value is not None:
                self.tables[table].setdefault(where, set()).add(value)

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        found = self.tables[table]
        return [(where, value) for where in sorted(found) for value in sorted(found[where])]


def some_changes(random: Random) -> list[Change]:
    tables = [table for table in TABLES if table != "meta"]
    changes: list[Change] = []
    for _ in range(random.randrange(12)):
        value = None if random.random() < 0.3 else random.randbytes(random.choice([1, 16, 900]))
        if value is not None and len(value) > 16:
            changes.append(("instance", key(random.randrange(40)), value))
        else:
            changes.append((random.choice(tables), key(random.randrange(40)), value))
    return changes


@pytest.mark.parametrize("seed", range(4))
def test_it_holds_what_was_written(store: IndexRowStore, seed: int) -> None:
    random, model = Random(seed), Model()
    for _ in range(25):
        if random.random() < 0.05:
            store.clear(0)
            model = Model()
        changes = some_changes(random)
        store.write(0, changes)
        model.make(changes)
    for table in TABLES:
        expected = model.rows(table)
        found = [row for row in all_rows(store, table, random.choice([1, 3, 512])) if table != "meta"]
        assert found == expected
        if table == "meta":
            continue
        assert store.count(table) == len(expected)
        assert store.last(table) == (expected[-1][0] if expected else None)
        for prefix in (b"\0", key(7), key(99)):
            assert all_rows(store, table, 2, prefix) == [row for row in expected if row[0].startswith(prefix)]
        if table != "uid":
            known = dict(expected)
            asked = [key(random.randrange(45)) for _ in range(30)]
            assert store.get_many(table, asked) == [known.get(each) for each in asked]
            assert [store.get(table, each) for each in asked] == [known.get(each) for each in asked]
    for where in map(key, range(41)):
        assert store.values(where) == sorted(model.tables["uid"].get(where, ()))
    assert store.complaint() is None


def test_a_page_does_not_end_among_the_values_of_a_key(store: IndexRowStore) -> None:
    store.write(0, [("uid", key(number), bytes([value])) for number in range(3) for value in range(4)])
    pages = [store.scan("uid", b"", 2), store.scan("uid", key(0), 5)]
    assert [[(int.from_bytes(where), value[0]) for where, value in page] for page in pages] == [
        [(0, value) for value in range(4)],
        [(number, value) for number in (1, 2) for value in range(4)],
    ]


def test_an_empty_store_answers(store: IndexRowStore) -> None:
    assert (store.get("study", b"1"), store.get_many("study", [b"1", b"2"]), store.get_many("study", [])) == (
        None, [None, None], [],
    )  # fmt: skip
    assert (store.values(b"1"), store.scan("uid"), store.last("series"), store.count("instance")) == ([], [], None, 0)
    store.write(0, [])
    store.write(0, [("study", b"1", None), ("uid", b"1", None)])
    store.compact()
    assert store.complaint() is None


def test_it_grows(store: IndexRowStore) -> None:
    """Beyond what the file was opened for, in one write."""
    store.write(0, [("instance", key(number), number.to_bytes(2, "big") * 450) for number in range(3000)])
    assert store.count("instance") == 3000
    assert store.get_many("instance", [key(2999), key(3000)]) == [(2999).to_bytes(2, "big") * 450, None]


def test_changes_are_made_in_order(store: IndexRowStore) -> None:
    store.write(0, [("study", b"1", b"a"), ("uid", b"t", b"a"), ("uid", b"t", b"b")])
    store.write(0, [("uid", b"t", None), ("uid", b"t", b"c"), ("study", b"1", None), ("study", b"1", b"b")])
    assert (store.values(b"t"), store.get("study", b"1")) == ([b"c"], b"b")


def test_a_writer_that_was_replaced_changes_nothing(store: IndexRowStore) -> None:
    store.write(3, [("study", b"1", b"of 3")])
    store.write(5, [("study", b"1", b"of 5"), ("uid", b"t", b"1")])
    for late in (0, 3, 4):
        with pytest.raises(FencedError):
            store.write(late, [("study", b"1", b"late"), ("study", b"2", b"late")])
        with pytest.raises(FencedError):
            store.write(late, [])
        with pytest.raises(FencedError):
            store.clear(late)
    assert store.scan("study") == [(b"1", b"of 5")]
    assert store.get("meta", EPOCH_KEY) == (5).to_bytes(8, "big")
    store.write(5, [("study", b"2", b"of 5")])
    store.compact()
    store.clear(6)
    assert [store.count(table) for table in TABLES[1:]] == [0] * 4
    for late in (0, 5):
        with pytest.raises(FencedError):  # also after everything was removed
            store.write(late, [("study", b"1", b"late")])
    assert store.complaint() is None


def test_a_write_is_seen_whole_or_not_at_all(store: IndexRowStore) -> None:
    """Readers beside a writer: every answer is as of one write."""
    keys, ends, seen = [key(number) for number in range(20)], threading.Event(), set[bytes]()

    def read() -> None:
        while not ends.is_set():
            many = store.get_many("study", keys)
            assert len(set(many)) == 1, many
            page = store.scan("study")
            assert len({value for _, value in page}) == 1
            assert [where for where, _ in page] == keys
            seen.update(value for _, value in page)

    store.write(0, [("study", each, b"0") for each in keys])
    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for number in range(1, 40):
            store.write(0, [("study", each, b"%d" % number) for each in keys])
            assert store.get("study", keys[number % 20]) == b"%d" % number  # at once for whoever wrote it
        ends.set()
        for reader in readers:
            reader.result()
    assert seen <= {b"%d" % number for number in range(40)}


def test_writes_of_several_threads_are_all_made(inner: IndexRowStore) -> None:
    """Each repeats its writes until they are answered; none undoes another's."""
    faulty = FaultyRowStore(inner, Random(3), loses=0.5)
    store = Asking(faulty)

    def write(thread: int) -> None:
        for number in range(20):
            mine = thread.to_bytes(1, "big") + key(number)
            store.write(2, [("series", mine, b"first"), ("uid", b"all", mine)])
            store.write(2, [("series", mine, b"last" if number % 2 else None)])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, thread) for thread in range(4)]:
            done.result()
    assert faulty.lost > 10
    left = [thread.to_bytes(1, "big") + key(number) for thread in range(4) for number in range(1, 20, 2)]
    assert inner.scan("series") == [(each, b"last") for each in left]
    assert len(inner.values(b"all")) == 80


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    for epoch in (1, 2):
        store = LmdbRowStore(tmp_path / "index")
        store.authenticate(KEY, os.urandom)
        store.write(epoch, [("study", key(epoch), b"row")])
        store.close()
    again = LmdbRowStore(tmp_path / "index")
    again.authenticate(KEY, os.urandom)
    assert (again.count("study"), again.get("study", key(1))) == (2, b"row")
    with pytest.raises(FencedError):
        again.write(1, [])
    again.close()
