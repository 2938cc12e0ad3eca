"""Orders to sign: answered by whatever signs next, and withdrawn where nobody does."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.keys.clock import clock_ms
from coffer.keys.errors import UnavailableError
from coffer.keys.mailbox import orders
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.keyops.settlement_job import SettlementJob
from coffer.server.mailbox import sign_order
from tests.archive.events.samples import ANY
from tests.captured_logs import capture_logs


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[WritableArchive]:
    config = Config(
        archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"),
        storage=Storage(reserve_bytes=0),
    )  # fmt: skip
    create_archive(config)
    with open_writer(config) as opened:
        yield opened


def test_an_order_is_answered_by_a_checkpoint_over_all_that_was_there(engine: WritableArchive) -> None:
    engine.record_event(ANY)
    asking = threading.Thread(target=sign_order.ask, args=(engine.keyring, engine.folder))
    asking.start()
    while not orders.waiting(engine.keyring):
        assert asking.is_alive(), "it did not wait"
    assert asking.is_alive()
    engine.sign_checkpoint()
    asking.join(10)
    assert not asking.is_alive()
    assert engine.log.signed_size == engine.log.next_seq == 1
    assert orders.waiting(engine.keyring) == []


def test_an_order_is_answered_where_nothing_is_new(engine: WritableArchive) -> None:
    orders.give(engine.keyring, 0)
    assert engine.sign_checkpoint() is None
    assert orders.waiting(engine.keyring) == []


def test_an_order_stays_while_nothing_can_be_signed(engine: WritableArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise UnavailableError("no disk")

    engine.record_event(ANY)
    order = orders.give(engine.keyring, 0)
    monkeypatch.setattr(engine.keyring, "remember_checkpoint", fails)
    with pytest.raises(UnavailableError, match="no disk"):
        engine.sign_checkpoint()
    assert orders.waiting(engine.keyring) == [order]


def test_an_order_that_nobody_answers_is_withdrawn(engine: WritableArchive) -> None:
    with pytest.raises(UnavailableError, match="has signed nothing for 0 s") as caught:
        sign_order.ask(engine.keyring, engine.folder, patience_seconds=0.3)
    assert "coffer status" in caught.value.hint()
    assert orders.waiting(engine.keyring) == []


def test_an_order_that_was_left_behind_counts_no_more_after_a_while(engine: WritableArchive) -> None:
    orders.give(engine.keyring, 1_000_000)
    assert sign_order.is_waited_for(engine.keyring, 1_000_000 + 60_000)
    assert not sign_order.is_waited_for(engine.keyring, 1_000_000 + 120_000)
    engine.sign_checkpoint()
    assert orders.waiting(engine.keyring) == []


def test_an_order_that_cannot_be_followed_is_told_once_and_tried_with_pauses(
    engine: WritableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fails() -> None:
        tried.append("signed")
        raise UnavailableError("no disk")

    job = SettlementJob(engine)
    monkeypatch.setattr(engine, "sign_checkpoint", fails)
    orders.give(engine.keyring, clock_ms())
    with capture_logs() as told:
        for _ in range(20):
            job.turn()
        job._sign()
    monkeypatch.undo()
    assert len(tried) == 2
    assert [line["event"] for line in told].count("no checkpoint was signed") == 1
