"""Objects come in, studies are shredded and rows are moved while the searchable table is still being filled."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import coffer.index.index
import coffer.index.tables.catalogue
from coffer.index.index import Index
from coffer.index.tables.sealed_rows import Tables
from coffer.keys.errors import IntegrityError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.shred import schedule
from tests.index.conftest import Filler, entry, everything, version

STUDIES = 6


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], threading.Event]]:
    """Let the filling stop after so many studies until the event is set, with pages of one study."""
    monkeypatch.setattr(coffer.index.tables.catalogue, "_PAGE", 1)
    monkeypatch.setattr(coffer.index.index, "_LOAD_PATIENCE", 0.0)
    whole, opened = Tables.all_studies, threading.Event()

    def stop_after(count: int) -> threading.Event:
        def studies(tables: Tables) -> Iterator[Any]:
            for number, row in enumerate(whole(tables)):
                if number == count:
                    assert opened.wait(30)
                yield row

        monkeypatch.setattr(Tables, "all_studies", studies)
        return opened

    yield stop_after
    opened.set()


@pytest.mark.parametrize("after", range(STUDIES))
def test_what_comes_meanwhile_is_neither_lost_nor_counted_twice(
    index: Index,
    filler: Filler,
    keyring: Keyring,
    reopen: Callable[..., Index],
    gate: Callable[[int], threading.Event],
    after: int,
) -> None:
    for number in range(STUDIES):
        filler.add(f"1.{number}", f"1.{number}.1", f"1.{number}.1.1", name="Old^Name")
    index.close()
    opened = gate(after)
    filler.index = loading = reopen()
    assert loading.is_loaded is False
    for number in (0, 2, 4):  # in the table already, or not yet, by `after`
        filler.add(f"1.{number}", f"1.{number}.2", f"1.{number}.2.1", name="New^Name", modality="MR")
    filler.add("1.0", "1.0.2", "1.0.2.2", name="Newest^Name")
    filler.add("2.1", "2.1.1", "2.1.1.1")
    for name in ("1.1", "1.4", "1.5"):
        assert schedule(keyring, {filler.key(name).key_id: loading.study_token(name)}, now_ms=1, until_ms=2)
    loading.follow()
    loading.forget(filler.key("1.5").key_id, loading.study_token("1.5"))
    loading.flush()
    filler.add("2.2", "2.2.1", "2.2.1.1")
    opened.set()
    told = everything(loading)
    assert loading.is_loaded
    totals = loading.stats()
    assert (totals.studies, totals.series, totals.instances) == (5, 7, 8)
    loading.close()
    again = reopen()
    assert everything(again)[1:] == told[1:]
    assert (again.stats().studies, again.stats().series, again.stats().instances) == (5, 7, 8)


def test_an_index_that_is_emptied_meanwhile_stays_empty(
    index: Index, filler: Filler, reopen: Callable[..., Index], gate: Callable[[int], threading.Event]
) -> None:
    filler.add("1.1", "1.1.1", "1.1.1.1")
    index.close()
    opened = gate(0)
    filler.index = loading = reopen()
    loading.clear()
    opened.set()
    assert loading.is_loaded
    assert loading.stats().studies == 0
    filler.add("1.1", "1.1.1", "1.1.1.2")
    assert loading.stats().instances == 1


def test_it_can_be_closed_meanwhile(
    index: Index, filler: Filler, reopen: Callable[..., Index], gate: Callable[[int], threading.Event]
) -> None:
    for number in range(3):
        filler.add(f"1.{number}", f"1.{number}.1", f"1.{number}.1.1")
    index.close()
    opened = gate(1)
    loading = reopen()
    threading.Timer(0.2, opened.set).start()
    loading.close()
    assert reopen().stats().studies == 3


def test_damage_that_is_met_later_stops_stores_and_answers(
    index: Index, filler: Filler, reopen: Callable[..., Index], gate: Callable[[int], threading.Event]
) -> None:
    for number in range(3):
        filler.add(f"1.{number}", f"1.{number}.1", f"1.{number}.1.1")
    index.flush()
    store = index._tables.store
    (ref, sealed) = store.scan("study")[-1]
    store.write(0, [("study", ref, sealed[:-1] + bytes((sealed[-1] ^ 1,)))])
    index.close()
    opened = gate(1)
    loading = reopen()
    loading.require_writable()
    loading.apply(version(50), filler.key("1.0").key_id, entry("1.0", "1.0.1", "1.0.1.2"))
    opened.set()
    for ask in (lambda: everything(loading), loading.stats, loading.require_writable):
        with pytest.raises(IntegrityError):
            ask()
