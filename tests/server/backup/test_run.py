"""A backup's order, what of the host is in it, and how fast it may send."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from coffer.archive.copies.keyring_copies import KeyringCopies
from coffer.archive.copies.memory_target import MemoryTarget
from coffer.archive.copies.segments import read_part
from coffer.archive.copies.shelf import Shelf
from coffer.archive.events.fields import TreeHead
from coffer.archive.events.marks import MarkRenewed
from coffer.archive.events.officer import Officer
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.errors import UnavailableError
from coffer.keys.inspect.copying import copy_keyring
from coffer.server.backup.kept_settings import _differing, write_beside
from coffer.server.backup.parts import Host
from coffer.server.backup.run import Backup
from coffer.server.backup.targets import Paced
from coffer.server.config.load import load_config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_writer
from tests.server.filled import run
from tests.server.three_studies import configure

PASSWORD = "correct horse battery staple"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.chdir(tmp_path)
    configure("[access]", "# a comment with a secret: hunter2", "[integrity]", "mark = 'mark'")
    run("init")
    config = load_config(Path("coffer.toml"))
    yield Host(ArchiveFolder.open(config.archive), config, Path("coffer.toml"))
    run("verify", "--level", "decrypt")


class Watched(MemoryTarget):
    """Notes what is stored, in a list that several targets share; fails, or lets something happen, at a name."""

    def __init__(self, stored: list[str], fails_at: str = "") -> None:
        super().__init__()
        self.stored, self.fails_at = stored, fails_at

    def put(self, name: str, data: object) -> None:
        if self.fails_at and self.fails_at in name:
            raise UnavailableError("the target is gone")
        super().put(name, data)  # type: ignore[arg-type]
        self.stored.append(name.split("/")[1])


def test_the_keyring_is_there_before_anything_that_it_opens(host: Host) -> None:
    stored: list[str] = []
    Backup(host, Watched(stored), Watched(stored)).run()
    order = [name for name in dict.fromkeys(stored) if name != "turns"]
    assert order == ["keyring-pieces", "keyrings", "pieces", "snapshots"]


def test_the_newest_snapshot_has_the_last_id_whatever_the_clock_shows(host: Host) -> None:
    target, times = MemoryTarget(), [1767225600000, 1767225600000, 1767225500000, 1767225600999]
    made = [Backup(host, target, None, now_ms=lambda at=at: at).run().snapshot.id for at in times]  # type: ignore[misc]
    assert made == sorted(made) == Shelf(target, host.folder.archive_id).ids()


def test_without_the_keyring_nothing_is_sent(host: Host) -> None:
    stored: list[str] = []
    with pytest.raises(UnavailableError):
        Backup(host, Watched(stored), Watched(stored, "keyring")).run()
    assert set(stored) == {"turns"}


def sign(archive: WritableArchive) -> None:
    """Another record and another checkpoint."""
    head = TreeHead(records=0, root="0" * 64)
    me = Officer(name="Meyer", account="meyer")
    archive.record_event(MarkRenewed(old_mark=None, mark=head, reason="r", by=me))
    archive.sign_checkpoint()


def test_a_snapshot_ends_where_its_keyring_does_whatever_is_signed_meanwhile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the restored keyring would remember more than the restored log has, and nothing could be written."""

    vault, target = MemoryTarget(), MemoryTarget()
    with open_writer(host.config) as archive:

        def between(folder: Path, into: BinaryIO) -> bytes:
            sign(archive)
            note = copy_keyring(folder, into)
            sign(archive)
            return note

        monkeypatch.setattr("coffer.server.backup.run.copy_keyring", between)
        done = Backup(host, target, vault).run()
        signed = archive.log.signed_size
    assert done.keyring is not None
    assert done.snapshot.size == done.keyring.records < signed
    assert done.findings == ()
    copies = KeyringCopies(Shelf(vault, host.folder.archive_id))
    assert [each.records for each in copies.usable()] == [done.snapshot.size]


def test_settings_come_without_comments_and_password_hashes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    run("users", "add", "anna", "--role", "admin", "--account", "root")
    text = Path("users.toml").read_text()
    filled = text.replace('name = "anna"\n', f'name = "anna"\npassword = "$argon2id$v=19$m=8,t=1,p=1${"a" * 30}"\n')
    assert filled != text
    Path("users.toml").write_text(filled)
    target = MemoryTarget()
    made = Backup(host, target, None).run().snapshot
    shelf = Shelf(target, host.folder.archive_id)
    kept = {name: b"".join(read_part(shelf, made, f"settings/{name}") or ()) for name in ("coffer.toml", "users.toml")}
    assert b"archive = " in kept["coffer.toml"]
    assert b"anna" in kept["users.toml"]
    everything = b"".join(data for data, _ in target.objects.values())
    for secret in (b"argon2", b"hunter2", Path("data.key").read_bytes()[-32:]):
        assert secret not in everything


def test_settings_that_somebody_planted_are_shown_and_not_in_force(host: Host, tmp_path: Path) -> None:
    run("users", "add", "anna", "--role", "admin", "--account", "root")
    target, into = MemoryTarget(), tmp_path / "etc"
    into.mkdir()
    made = Backup(host, target, None).run().snapshot
    shelf = Shelf(target, host.folder.archive_id)
    config, users = write_beside(shelf, made, into)
    assert [path.name for path in sorted(into.iterdir())] == ["coffer.toml.restored", "users.toml.restored"]
    assert any(line.startswith("archive = ") for line in config.differs)
    assert not any(line.startswith("log.level = 'info'") for line in config.differs)
    shown = "\n".join(users.differs)
    assert "'anna'" in shown
    assert "'admin'" in shown
    with pytest.raises(UnavailableError, match="it exists already"):
        write_beside(shelf, made, into)


def test_the_settings_that_are_shown_are_bounded_and_printable() -> None:
    assert _differing(b"\xff") == ("it cannot be read as TOML: do not use it",)
    assert _differing(b"a = [") == ("it cannot be read as TOML: do not use it",)
    assert _differing(b'[dimse]\nhost = "\\u001b[2J"\nport = 11112\n') == ("dimse.host = '\\x1b[2J'",)
    many = "\n".join(f"k{number} = {number}" for number in range(600))
    assert _differing(many.encode())[-1] == "and 100 more: read the file"
    assert all(len(line) < 400 for line in _differing(b'x = "' + b"y" * 100_000 + b'"'))


def test_no_more_is_sent_in_a_second_than_was_allowed() -> None:
    now, waited = [0.0], list[float]()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    paced = Paced(MemoryTarget(), 1000, look=lambda: now[0], wait=wait)
    for number in range(4):
        paced.put(f"{number}", bytes(500))
    assert waited == [0.5, 0.5, 0.5]
    now[0] += 60
    paced.put("later", bytes(500))
    assert len(waited) == 3
