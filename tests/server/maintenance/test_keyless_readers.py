"""Keyring and index are read without a key in another process: an interpreter of its own, as the product starts it, or
as in most tests a fork of one that has loaded the readers (`tests.warm_readers`). Both answer the same."""

import json
import subprocess
from pathlib import Path

import pytest

from coffer.index.keyless_check import check_index
from coffer.keys.inspect.remembered import read_remembered
from tests.server.filled import run, study_files
from tests.warm_readers import READERS


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one study."""
    folder = tmp_path_factory.mktemp("readers")
    files = [str(file) for file in study_files(folder / "files")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("init", "--archive", "data")
        run("put", "--archive", "data", *files)
        run("verify", "--archive", "data")
    return folder / "data"


@pytest.mark.parametrize("starts", ["an interpreter", "a fork"])
def test_keyring_and_index_are_read_in_another_process(
    archive: Path, monkeypatch: pytest.MonkeyPatch, starts: str
) -> None:
    if starts == "an interpreter":
        for module in READERS:
            monkeypatch.setattr(module, "subprocess", subprocess)
    monkeypatch.chdir(archive.parent)
    for folder in (archive, Path("data")):  # it is read from where the caller is
        state = read_remembered(folder / "keyring", [bytes(16), bytes(range(16))])
        assert (state.complaint, state.readable, state.lacks) == (None, True, 2)
        assert state.note is not None
        assert b"\n\n" in state.note
    archive_id = bytes.fromhex(json.loads((archive / "archive.json").read_text(encoding="utf-8"))["archive_id"])
    assert check_index(archive / "index", archive_id) is None
    assert check_index(archive / "index", bytes(16)) == "it belongs to another archive"
    assert "there is no keyring" in (read_remembered(archive / "nothing").complaint or "")
    assert check_index(archive / "nothing", archive_id) is not None
