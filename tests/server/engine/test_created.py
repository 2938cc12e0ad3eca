"""A new archive is signed while it is empty, so that a missing checkpoint never means that nothing was signed yet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_note, remembered_checkpoint
from coffer.archive.tree.checkpoint_history import read_entries
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import HistoryError
from coffer.server.config.settings import Config, Http, Keys
from coffer.server.engine import create
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_for_service, open_writer
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.maintenance.offline import inspect_keyring


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"))


def forget(config: Config) -> None:
    """Remove the keyring's memory, as whoever can write the folder can: the row is in the clear."""
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
    keyring.amend([], [b"W"])
    keyring.close()


def lose_latest(config: Config) -> None:
    (config.archive / "checkpoints" / "latest").unlink()


def lose_history(config: Config) -> None:
    (config.archive / "checkpoints" / "history").unlink()


def require_signed(config: Config) -> None:
    """The empty log is signed in all three places."""
    folder = ArchiveFolder.open(config.archive)
    seen = inspect_keyring(folder)
    assert [(entry.checkpoint, entry.note) for entry in read_entries(folder)] == [(seen.remembered, read_note(folder))]
    assert seen.remembered is not None
    assert seen.remembered.size == 0
    assert list(Verifier(folder, remembered=seen.remembered).findings()) == []


def test_the_empty_log_is_signed(config: Config) -> None:
    create_archive(config)
    require_signed(config)
    with open_writer(config) as archive:
        assert archive.sign_checkpoint() is None


@pytest.mark.parametrize("stop", ["begin", "commit"])
def test_a_stopped_creation_is_resumed(config: Config, monkeypatch: pytest.MonkeyPatch, stop: str) -> None:
    def stopped(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(*((create, "begin") if stop == "begin" else (ArchiveFolder, "commit")), stopped)
        with pytest.raises(InterruptedError):
            create_archive(config)
    create_archive(config)
    require_signed(config)


def test_a_torn_first_note_is_written_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveFolder, "commit", stopped)
        with pytest.raises(InterruptedError):
            create_archive(config)
    history = config.archive / "checkpoints" / "history"
    history.write_bytes(history.read_bytes()[:-9])
    lose_latest(config)
    create_archive(config)
    require_signed(config)


@pytest.mark.parametrize("lose", [lose_latest, lose_history, forget])
def test_what_is_missing_was_taken_away(config: Config, lose: Callable[[Config], None]) -> None:
    """A writer refuses, a server reads on, and a verification reports it."""
    create_archive(config)
    lose(config)
    with pytest.raises(HistoryError) as refused:
        open_writer(config).close()
    assert "coffer recover show" in refused.value.hint()
    with open_for_service(config) as archive:
        assert isinstance(archive.log.refusal, HistoryError)
    folder = ArchiveFolder.open(config.archive)
    seen = inspect_keyring(folder)
    assert [*seen.findings, *Verifier(folder, remembered=seen.remembered).findings()]


def test_a_keyring_with_a_note_of_another_key_is_refused(config: Config, tmp_path: Path) -> None:
    create_archive(config)
    other = Config(archive=tmp_path / "other", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key2"))
    create_archive(other)
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
    keyring.remember_checkpoint(read_note(ArchiveFolder.open(other.archive)))
    with pytest.raises(HistoryError):
        remembered_checkpoint(None, folder)
    keyring.close()
    with pytest.raises(HistoryError, match="keyring is not the one that wrote this log"):
        open_writer(config).close()
