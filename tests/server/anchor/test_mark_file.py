"""Where the mark lies, when it is raised, and that it is never made again by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.mark import Mark
from coffer.keys.errors import ConfigError, FormatError, HistoryError, NotFoundError, UnavailableError
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.anchor.place import is_same_volume, mark_path
from coffer.server.config.integrity import Integrity
from coffer.server.config.load import check_text
from coffer.server.config.settings import Config, Http, Keys
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.engine.providers import open_keyring, provider_of
from tests.archive.events.samples import BY

ID = bytes(range(16))
NAME = f"{ID.hex()}.mark"
MARK = Mark(ID, "coffer/test", "coffer/test+00000000+AAAA", 17, bytes(32), 4, 0, bytes(16))


def config_of(tmp_path: Path, mark: Path = Path()) -> Config:
    return Config(
        archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"),
        integrity=Integrity(mark=mark),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "uid", "wanted"),
    [
        ({"XDG_STATE_HOME": "/state", "HOME": "/users/me"}, 0, f"/state/coffer/{NAME}"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/users/me"}, 1000, f"/users/me/.local/state/coffer/{NAME}"),
        ({"HOME": "/users/me"}, 1000, f"/users/me/.local/state/coffer/{NAME}"),
        ({"HOME": "/users/me"}, 999, f"SYSTEM/{NAME}"),
    ],
)
def test_the_default_place(tmp_path: Path, environment: dict[str, str], uid: int, wanted: str) -> None:
    system = tmp_path / "var"
    system.mkdir()
    found = mark_path(config_of(tmp_path), ID, environment=environment, uid=uid, system=system)
    assert str(found) == wanted.replace("SYSTEM", str(system))


def test_a_mark_of_the_system_is_read_by_anybody_and_a_missing_folder_by_nobody(tmp_path: Path) -> None:
    system, home = tmp_path / "var", {"HOME": "/users/me"}
    assert mark_path(config_of(tmp_path), ID, environment=home, uid=0, system=system).parts[1] == "users"
    system.mkdir()
    (system / NAME).touch()
    assert mark_path(config_of(tmp_path), ID, environment=home, uid=1000, system=system) == system / NAME


def test_the_configured_place(tmp_path: Path) -> None:
    assert mark_path(config_of(tmp_path, tmp_path / "here"), ID) == tmp_path / "here"
    _, problems = check_text("archive = 'data'\n[integrity]\nmark = 'data/x.mark'\n", tmp_path)
    assert "the mark is inside the archive folder" in str(problems[0])


def test_it_is_raised_and_never_lowered(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / "state" / NAME, tmp_path, ID)
    file.begin(MARK)
    file.begin(MARK)
    file.advance(replace(MARK, size=16, keyring_generation=9))
    assert file.read() == MARK
    file.advance(replace(MARK, size=18, keyring_generation=3))
    assert file.read() == replace(MARK, size=18)


def test_one_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / NAME, tmp_path, ID)
    file.advance(MARK)
    with pytest.raises(NotFoundError):
        file.read()
    assert "there is no mark" in file.concerns()[0]
    (tmp_path / NAME).write_bytes(b"something else")
    file.advance(MARK)
    assert (tmp_path / NAME).read_bytes() == b"something else"
    assert "cannot be used" in file.concerns()[0]
    with pytest.raises(ConfigError, match="cannot become the mark"):
        file.begin(MARK)


def test_one_of_another_archive_is_neither_used_nor_replaced(tmp_path: Path) -> None:
    MarkFile(tmp_path / NAME, tmp_path, ID).begin(MARK)
    other = MarkFile(tmp_path / NAME, tmp_path, bytes(16))
    with pytest.raises(FormatError, match="of another archive"):
        other.read()
    with pytest.raises(ConfigError):
        other.begin(replace(MARK, archive_id=bytes(16)))
    assert other.find() is None


def test_one_that_cannot_be_raised_is_a_concern_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UnavailableError("no space left")

    state = tmp_path / "state"
    file = MarkFile(state / NAME, tmp_path, ID)
    file.begin(MARK)
    with monkeypatch.context() as patch:
        patch.setattr(file, "write", full)
        file.advance(replace(MARK, size=18))
    assert file.read() == MARK
    assert "was not raised" in file.concerns()[0]
    file.advance(replace(MARK, size=19))
    assert not any("was not raised" in what for what in file.concerns())


def test_the_volume_of_what_does_not_exist_is_that_of_its_folder(tmp_path: Path) -> None:
    assert is_same_volume(tmp_path / "a" / "b", tmp_path)
    assert not is_same_volume(tmp_path, Path("/proc"))


def test_the_same_disk_is_told(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / NAME, tmp_path / "archive", ID)
    file.begin(MARK)
    (told,) = file.concerns()
    assert "on the archive's own disk" in told


def test_two_archives_cannot_share_a_mark(tmp_path: Path) -> None:
    create_archive(config_of(tmp_path, tmp_path / "mark"))
    other = config_of(tmp_path / "other", tmp_path / "mark")
    other.archive.parent.mkdir()
    with pytest.raises(ConfigError, match="of another archive"):
        create_archive(other)


def test_each_checkpoint_raises_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "state" / "mark")
    create_archive(config)
    file = MarkFile.of(config, ArchiveFolder.open(config.archive).archive_id)
    assert file.read().size == 0
    with open_writer(config) as archive:
        archive.renew_mark("a test", BY)
        assert file.read().size == archive.log.signed_size == 1
    assert "own disk" in file.concerns()[0]


def test_the_configured_key_must_be_the_archives(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "mark")
    create_archive(config)
    vkey = ArchiveFolder.open(config.archive).vkey
    outside = {"mark": tmp_path / "mark", "vkey": vkey}
    open_writer(replaced(config, integrity=Integrity(**outside))).close()
    outside["vkey"] = vkey.replace("+A", "+B")
    with pytest.raises(HistoryError, match="is none of this archive's"):
        open_writer(replaced(config, integrity=Integrity(**outside))).close()


def test_an_older_keyring_is_refused_by_the_mark_alone(tmp_path: Path) -> None:
    """It remembers the same checkpoint, and fewer changes of its keys."""
    config = config_of(tmp_path, tmp_path / "mark")
    create_archive(config)
    folder = ArchiveFolder.open(config.archive)
    file = MarkFile.of(config, folder.archive_id)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
    file.write(replace(file.read(), keyring_generation=keyring.changes() + 1))
    keyring.close()
    with pytest.raises(HistoryError, match="the keyring is older than the mark"):
        open_writer(config).close()
