"""Promise: nothing outside an archive folder is read, written, run or removed because of what lies in it, and what lies
in it and is none of Coffer's neither hangs nor fills a command: it is told.

Adversary: who writes the disk. Somebody who can write to the archive folder, and to the folder that `coffer get` writes
into, and has no key: links, pipes, sockets, folders in place of files, holes of gigabytes, second names of files
outside, configurations, names that drive a terminal, entries by the thousand.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from coffer.archive.format import segment
from coffer.archive.format.record import Kind
from coffer.archive.repair.planted import planted
from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.scrub import ScrubPosition, parse_position
from coffer.keys.disk.durable import discard_folder
from coffer.keys.errors import FormatError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, generate_keyfile
from coffer.server.config.settings import Config, Keys, Storage
from coffer.server.engine.opening import open_writer
from tests.server.filled import free_port, run, study_files, told

HOLE = 3 << 30
MOST_MEMORY = 400 << 10  # KiB of resident memory that one more command may cost
OUR_CODES = {0, 1, 3, 4, 5, 6, 7, 8, 11, 12, 13}
COMMANDS = (("verify",), ("status",), ("put", "files"), ("keys", "list"), ("recover", "show"), ("scrub", "show"))


def attempt(*args: str) -> Result:
    """One command that may refuse, with a cause and a remedy, but does not end by a defect."""
    done = run(*args, code=None)
    assert done.exit_code in OUR_CODES, done.output
    assert "\x1b[2J" not in done.output
    if done.exit_code not in {0, 1}:
        assert "remedy: " in done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of one study, its key file and its coffer.toml, and files outside that matter."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        study_files(base / "files")
        ports = f"[dimse]\nport = {free_port()}\n[http]\nport = {free_port()}\n"
        (base / "coffer.toml").write_text(f"archive = 'data'\n{ports}[storage]\nreserve_bytes = 0\n")
        run("init")
        run("put", "files")
        run("checkpoint", "sign")
    outside = base / "outside"
    shutil.copytree(base / "data", outside / "parts")
    (outside / "secret").write_bytes(b"one line, as of a passphrase")
    (outside / "parts" / "spool" / "0123456789abcdef.spool").write_bytes(b"somebody's")
    (outside / "parts" / "tiles" / "x.new").write_bytes(b"somebody's")
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to plant things in."""
    shutil.copytree(made, tmp_path / "base", symlinks=True)
    monkeypatch.chdir(tmp_path / "base")
    return tmp_path / "base"


def outside(base: Path) -> dict[str, bytes]:
    """Everything beside the archive folder that nobody may change."""
    files = [base / "data.key", base / "coffer.toml", *(p for p in (base / "outside").rglob("*") if p.is_file())]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


LINKED_FILES = (
    "LOCK", "pending.json", "archive.json", ".archive.json.new", "keyring/LOCK", "keyring/lock.mdb", "keyring/data.mdb",
    "index/lock.mdb", "index/data.mdb", "index/.data.mdb.new", "checkpoints/latest", "checkpoints/.latest.new",
    "checkpoints/history", "checkpoints/endorsements", "segments/00000001.seg", "segments/00000002.seg",
    "segments/.00000002.seg.new", "scrub/place.json", "scrub/1-96-abcdef.finding", "spool/0123456789abcdef.sealed",
    "tiles/tile/0/000.p/4", "tiles/tile/0/000.p/5", "tiles/a.new",
)  # fmt: skip
READ_BY_VERIFY = {
    "archive.json", "keyring/data.mdb", "checkpoints/latest", "checkpoints/history", "checkpoints/endorsements",
    "segments/00000001.seg", "tiles/tile/0/000.p/4",
}  # fmt: skip
FOLDERS = ("segments", "checkpoints", "tiles", "keyring", "index", "spool", "scrub", "lost+found")


def put_in_place(path: Path) -> None:
    """Make the name free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def afresh(base: Path, name: str) -> Path:
    """The archive as it was made, and a name in it that is free."""
    shutil.rmtree(base / "data")
    shutil.copytree(base / "outside" / "parts", base / "data")
    put_in_place(base / "data" / name)
    return base / "data" / name


def test_a_link_in_place_of_a_file_reaches_nothing_and_is_told(base: Path) -> None:
    for number, name in enumerate(LINKED_FILES):
        path = afresh(base, name)
        path.symlink_to(base / ("data.key", "outside/secret")[number % 2])
        before = outside(base)
        if name != "archive.json":
            folder = ArchiveFolder.open(base / "data")
            assert any(f"{name} is a link" in finding.what for finding in planted(folder)), name
        attempt("put", "files")
        assert outside(base) == before, name


@pytest.mark.parametrize("to", ["data.key", "outside/secret"])
def test_a_second_name_of_a_file_outside_changes_nothing_in_it(base: Path, to: str) -> None:
    for name in ("LOCK", "keyring/LOCK", "keyring/lock.mdb", "index/lock.mdb", "checkpoints/history"):
        afresh(base, name).hardlink_to(base / to)
        before = outside(base)
        attempt("put", "files")
        assert outside(base) == before, name
    afresh(base, "keyring/LOCK").hardlink_to(base / "outside" / "secret")
    run("keys", "rotate")  # nobody is told who holds the lock, which is held all the same
    assert outside(base)["outside/secret"] == before["outside/secret"]


def test_a_link_in_place_of_a_folder_reaches_nothing_and_is_told(base: Path) -> None:
    for name in (*FOLDERS, ".tiles.old", ".index.old", "tiles/tile", "tiles/tile/0/000.p"):
        afresh(base, name).symlink_to(base / "outside" / "parts" / (name if name in FOLDERS else "tiles"))
        before = outside(base)
        assert any("link" in finding.what for finding in planted(ArchiveFolder.open(base / "data"))), name
        attempt("put", "files")
        if name in {"index", ".index.old"}:
            attempt("index", "rebuild")
        if "tiles" in name:
            attempt("recover", "accept-loss", "--to", "4")
        assert outside(base) == before, name


def test_a_log_behind_a_link_is_not_read(base: Path) -> None:
    for name in ("segments", "checkpoints"):
        afresh(base, name).symlink_to(base / "outside" / "parts" / name)
        assert "link" in run("verify", code=1 if name == "checkpoints" else None).output


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)
    os.chdir(here)


def test_what_is_no_file_hangs_nobody_and_is_told(base: Path) -> None:
    kinds: tuple[Callable[[Path], None], ...] = (a_pipe, a_pipe, a_socket, Path.mkdir)
    for number, name in enumerate(LINKED_FILES):
        kinds[number % len(kinds)](afresh(base, name))
        if name in READ_BY_VERIFY:
            assert attempt("verify").exit_code, name
        if name != "archive.json":
            assert any(name in finding.what for finding in planted(ArchiveFolder.open(base / "data"))), name
        attempt("put", "files")


@pytest.mark.parametrize(
    "name",
    ["checkpoints/history", "checkpoints/latest", "checkpoints/endorsements", "archive.json", "pending.json",
     "scrub/place.json", "scrub/1-96-abcdef.finding", "tiles/tile/0/000"],
)  # fmt: skip
def test_a_hole_of_gigabytes_is_not_read_into_memory(base: Path, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = base / "data" / name
    path.touch()
    os.truncate(path, HOLE)
    attempt("status")
    if not name.startswith("scrub/p"):
        assert attempt("verify").exit_code or attempt("scrub", "show").exit_code
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


def test_a_footer_that_asks_for_gigabytes_is_none() -> None:
    assert segment.footer_length(segment.FOOTER_TAIL.pack(1 << 30, bytes(32), segment.FOOTER_END)) is None
    most = segment.footer_size(segment.MOST_RECORDS)
    assert segment.footer_length(segment.FOOTER_TAIL.pack(most, bytes(32), segment.FOOTER_END)) == most < 64 << 20


def test_entries_by_the_thousand_and_a_far_number_are_told_in_few_lines(base: Path) -> None:
    data = base / "data"
    (data / "segments" / "99999999.seg").write_bytes(b"")
    for number in range(2000):
        (data / "spool" / f"planted-{number}").touch()
    for name in (b"\x1b[2J\x1b]0;owned\x07", b"\xff\xfe", "\N{RIGHT-TO-LEFT OVERRIDE}gpj".encode(), b"a\nb: fine"):
        (Path(os.fsdecode(os.fsencode(data / "scrub") + b"/" + name))).touch()
    done = attempt("verify")
    assert done.exit_code == 1
    assert done.output.count("\n") < 300
    assert "those up to 99999998 are missing" in done.output
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in done.output
    assert "scrub/a\\nb: fine" in done.output


@pytest.mark.parametrize(
    ("facts", "proof"),
    [
        ({"event": "x"}, "note:{}"),
        ({"what": "an officer agreed"}, "note:{}"),
        ({"what": "records repaired from a copy", "segment": -1}, "note:{}"),
        ({"what": "loss accepted", "because": "a\n b"}, "note:{}"),
        ({}, "segment:x:y"),
        ({}, "segment:1:../../data.key"),
        ({}, "other"),
    ],
)
def test_nobody_elses_words_become_a_signed_record(base: Path, facts: dict[str, object], proof: str) -> None:
    """`pending.json` holds no key: what is taken from it has one form, and what has not is told and left."""
    latest = (base / "data" / "checkpoints" / "latest").read_bytes()
    data = checksummed_json.serialize([{"facts": facts, "proof": proof.format(hashlib.sha256(latest).hexdigest())}])
    (base / "data" / "pending.json").write_bytes(data)
    run("put", "files")
    assert (base / "data" / "checkpoints" / "latest").read_bytes() == latest
    assert (base / "data" / "pending.json").read_bytes() == data
    assert "pending.json cannot be read; move it away" in run("verify", code=1).output


def test_summed_json_of_no_json_is_told(base: Path) -> None:
    for text in (b"x\n", b"[" * 200_000 + b"\n", b'{"a": 1e999999}\n', b"[1]\n", b"null\n"):
        for name in ("pending.json", "scrub/place.json", "scrub/1-96-abcdef.finding"):
            path = afresh(base, name)
            path.write_bytes(text + hashlib.sha256(text).hexdigest().encode() + b"\n")
            attempt("put", "files")
            attempt("scrub", "show")


def test_a_footer_and_a_place_of_a_tree_that_there_cannot_be_are_refused() -> None:
    footer = segment.Footer((96,), bytes(32), 5, (bytes(32),))
    with pytest.raises(FormatError, match="impossible tree"):
        segment.parse_footer(footer.serialize())
    for wrong in ({"size": 5, "edge": (bytes(32),)}, {"segment": 0}, {"offset": -1}, {"head": b"x"}):
        place = ScrubPosition()
        for name, value in wrong.items():
            setattr(place, name, value)
        with pytest.raises(FormatError):
            parse_position(place.serialize())


def deep(folder: Path) -> None:
    """More folders in each other than Python calls functions."""
    here = Path.cwd()
    folder.mkdir()
    os.chdir(folder)
    for _ in range(1300):
        Path("a").mkdir()
        os.chdir("a")
    os.chdir(here)


def test_folders_in_each_other_by_the_thousand_end_nothing(base: Path) -> None:
    data = base / "data"
    deep(data / "tiles" / "x")
    try:
        assert "is a folder where no tile lies" in attempt("verify").output
        attempt("status")
        attempt("put", "files")
        attempt("checkpoint", "sign")
    finally:
        discard_folder(data / "tiles" / "x")  # also for who removes this test's folder, and calls itself
    assert not (data / "tiles" / "x").exists()
    deep(data / ".index.old")
    run("index", "rebuild")
    assert not (data / ".index.old").exists()


def test_a_name_in_the_index_that_only_begins_like_ours_is_left_and_told(base: Path) -> None:
    data = base / "data"
    (data / "index" / ".data.mdb.new").write_bytes(b"left by a stop")
    (data / "index" / ".data.mdb.newx").mkdir()
    run("put", "files")
    assert sorted(p.name for p in (data / "index").iterdir()) == [".data.mdb.newx", "data.mdb", "lock.mdb"]
    assert "index/.data.mdb.newx is" in run("verify", code=1).output


# Code


def test_no_code_of_the_current_folder_is_run(base: Path) -> None:
    """Also not by the processes that share the work, which Python starts by a line of code."""
    keys = Keys(key_file=base / "data.key")
    config = Config(archive=base / "data", keys=keys, storage=Storage(segment_bytes=4000, reserve_bytes=0))
    with open_writer(config) as engine:
        for number in range(8):
            engine.record_event(Kind.STATE, {"what": f"{number} of some", "reason": "long " * 200})
    assert len(list((base / "data" / "segments").iterdir())) > 2
    ran = base / "ran"
    code = f"open({str(ran)!r}, 'a').write(__name__ + ' ')\nraise SystemExit(99)\n"
    for name in ("pickle", "multiprocessing", "os", "json", "struct", "socket", "signal", "msgspec", "lmdb"):
        (base / "data" / f"{name}.py").write_text(code)
    for name in ("keys", "archive", "index", "server", "concurrent", "encodings"):
        package = base / "data" / name
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(code)
    coffer = str(Path(sys.executable).with_name("coffer"))
    for args in (("verify", "--level", "decrypt", "--jobs", "2"), ("status",)):
        done = subprocess.run(
            [coffer, "--archive", ".", *args], cwd=base / "data", capture_output=True, text=True, check=False
        )
        assert not ran.exists(), (args, ran.read_text())
        assert done.returncode in {0, 1}, done.stderr
        assert "Traceback" not in done.stderr


# Configuration


EVIL = '[keys]\nprovider = "pkcs11"\n[keys.pkcs11]\nmodule = "/evil.so"\ntoken = "t"\npin_env = "P"\n'


def test_no_configuration_is_taken_from_an_archive_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "data" / "coffer.toml").write_text(EVIL)
    for where, args in (
        (base, ()),
        (base / "data", ("--archive", ".")),
        (base / "data" / "segments", ("--archive", "..")),
    ):
        monkeypatch.chdir(where)
        facts = told(*args, "config", "check")
        assert isinstance(facts["config"], dict)
        assert facts["config"]["keys"]["pkcs11"]["module"] != "/evil.so"
    done = run("--archive", str(base / "data"), "verify", code=1)
    assert "coffer.toml is not read" in done.output
    assert "move it to" in done.output
    monkeypatch.chdir(base / "data")
    passed = run("--archive", ".", "config", "check")
    assert "data/coffer.toml is not read: it is in an archive folder" in passed.stderr
    assert "evil" not in passed.output
    monkeypatch.chdir(base)
    assert "coffer.toml is not read" in run("status").output
    assert run("put", "files").exit_code == 0  # it stops nothing
    refused = run("--config", "data/coffer.toml", "status", code=11)
    assert "is in an archive folder" in refused.stderr
    assert "mv data/coffer.toml /etc/coffer/coffer.toml" in refused.stderr
    (base / "data" / "archive.json").rename(base / "elsewhere.json")  # who takes a part out does not get by
    assert run("--config", "data/coffer.toml", "status", code=11).exit_code


def test_a_provider_in_a_clear_row_loads_nothing_that_is_not_configured(base: Path) -> None:
    from coffer.keys.keyring import rows
    from coffer.keys.keyring.store import RowStore

    for kind in ("pkcs11", "aws-kms"):
        store = RowStore(base / "data" / "keyring")
        for key, value in store.scan(rows.EPOCH_PREFIX):
            row = rows.EpochRow.decode(value)
            store.put([(key, type(row)(**{f: getattr(row, f) for f in row.__slots__} | {"provider": kind}).encode())])
        store.close()
        assert f"a{'n' * (kind[0] == 'a')} {kind} provider, which is not configured" in run("find", code=11).stderr


# What is written into a folder of the user


def test_get_follows_no_link_that_others_planted(base: Path) -> None:
    uid = run("find", "--return", "StudyInstanceUID").output.split()[-1]
    run("get", "--study", uid, "--out", "good")
    files = sorted((base / "good").rglob("*.dcm"))
    for depth in range(3):
        out, target = base / f"out{depth}", base / "outside" / "secret"
        path = files[0].relative_to(base / "good")
        planted = out / Path(*path.parts[: depth + 1])
        planted.parent.mkdir(parents=True)
        planted.symlink_to(target if depth == 2 else base / "outside")
        before = outside(base)
        done = run("get", "--study", uid, "--out", str(out), code=6)
        assert outside(base) == before
        assert f"{1 if depth == 2 else len(files)} failed" in done.output
    dangling = base / "out3" / files[0].relative_to(base / "good")
    dangling.parent.mkdir(parents=True)
    dangling.symlink_to(base / "outside" / "new")
    assert "1 failed" in run("get", "--study", uid, "--out", "out3", code=6).output
    assert not (base / "outside" / "new").exists()


def test_the_key_of_an_archive_reached_by_a_link_is_beside_the_archive(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "archive").symlink_to(base / "data")
    assert run("--archive", str(tmp_path / "elsewhere" / "archive"), "find").exit_code == 0


# Files that hold secrets, or are believed


@pytest.fixture
def passphrase(base: Path) -> Path:
    path = base / "phrase"
    path.write_text("correct horse")
    path.chmod(0o600)
    generate_keyfile(base / "other.key", Secret(b"correct horse"), cost=CHEAPEST_FOR_TESTS)
    with (base / "coffer.toml").open("a") as file:
        file.write("[keys]\nkey_file = 'other.key'\npassphrase_file = 'phrase'\n")
    text = (base / "coffer.toml").read_text().replace("'data'", "'second'")
    (base / "coffer.toml").write_text(text)
    run("init")
    run("put", "files")
    return path


def test_a_passphrase_that_others_may_read_or_write_is_refused(passphrase: Path) -> None:
    for mode in (0o666, 0o640, 0o604, 0o620, 0o602, 0o710):
        passphrase.chmod(mode)
        done = run("find", code=11)
        assert f"is open to others (mode {mode:04o})" in done.stderr
        assert f"chmod 600 {passphrase}" in done.stderr
    passphrase.chmod(0o400)
    run("find")


def test_a_credential_of_systemd_may_be_readable_by_its_group(
    passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase.chmod(0o440)
    run("put", "files", code=11)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(passphrase.parent))
    if passphrase.stat().st_uid == 0:  # systemd makes it root's, with a right for the account
        run("put", "files")
    passphrase.chmod(0o444)
    run("put", "files", code=11)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_configuration_that_others_may_write_is_refused(
    base: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coffer.keys.disk.permissions._is_own_group", lambda _: False)
    (base / "coffer.toml").chmod(mode)
    assert "chmod go-w" in run("status", code=11).stderr
    (base / "coffer.toml").chmod(0o644)
    base.chmod(0o777)
    assert "others may write the folder of the config file" in run("status", code=11).stderr
    base.chmod(0o1777)  # as /tmp: others make files there, but replace none
    run("status")


def test_what_another_account_owns_is_refused_with_that_account(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is told to run as the service, not to take its files away."""
    if os.geteuid() == 0:
        os.chown(base / "coffer.toml", 65534, -1)
        done = run("status", code=11)
        assert "belongs to another account, nobody" in done.stderr
        assert "sudo -u nobody coffer" in done.stderr
        assert "chown" not in done.stderr
        os.chown(base / "coffer.toml", 0, -1)
        os.chown(base / "data.key", 65534, -1)
        done = run("find", code=11)
        assert "sudo -u nobody coffer" in done.stderr
        assert "chown" not in done.stderr
    else:
        monkeypatch.setattr("coffer.keys.disk.permissions.os.geteuid", lambda: os.getuid() + 1)
        assert "belongs to another account" in run("status", code=11).stderr


def test_where_a_configuration_is_looked_for(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coffer.server.config import find

    places = {"etc": tmp_path / "etc.toml", "home": tmp_path / "x" / "coffer" / "coffer.toml"}
    monkeypatch.setattr(find, "SYSTEM", places["etc"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    (tmp_path / "x" / "coffer").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def port(*args: str) -> object:
        config = told(*args, "config", "check")["config"]
        assert isinstance(config, dict)
        return config["dimse"]["port"], config["archive"]

    assert port() == (11112, str(empty / "archive-data"))
    for number, (path, where) in enumerate(
        [(places["etc"], tmp_path), (places["home"], tmp_path / "x" / "coffer"), (empty / "coffer.toml", empty)], 1
    ):
        path.write_text(f"dimse.port = {number}\n")
        assert port() == (number, str(where / "archive-data"))  # beside the file, never its own folder
    (tmp_path / "named.toml").write_text("dimse.port = 9\n")
    assert port("--config", str(tmp_path / "named.toml")) == (9, str(tmp_path / "archive-data"))
    assert port("--archive", "a") == (3, str(empty / "a"))
