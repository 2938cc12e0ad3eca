"""Promise: whatever is damaged, the message names the file and a remedy, and the remedy works when it is typed.

Adversary: a bad disk, a backup that left something out, an administrator's slip, at 3 in the morning. Crossed with
every file that an archive needs, and with the commands that somebody types first.
"""

import ast
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, generate_keyfile
from coffer.server.engine import create
from tests.conftest import ROOT
from tests.server.filled import run, study_files, told
from tests.typed_remedies import complaint

FILES: Final = {
    "key": "archive.key",
    "passphrase": "passphrase",
    "config": "coffer.toml",
    "mark": "mark",
    "archive": "archive/archive.json",
    "latest": "archive/checkpoints/latest",
    "history": "archive/checkpoints/history",
    "endorsements": "archive/checkpoints/endorsements",
    "keyring": "archive/keyring/data.mdb",
    "index": "archive/index/data.mdb",
    "segment": "archive/segments/00000001.seg",
}
COMMANDS: Final = {
    "status": ("status",),
    "verify": ("verify",),
    "put": ("put", "files"),
    "find": ("find",),
    "keys": ("keys", "list"),
    "recover": ("recover", "show"),
    "serve": ("serve",),
}
CONFIG: Final = """
archive = "archive"

[keys]
passphrase_file = "passphrase"

[integrity]
mark = "mark"
"""


def damage(path: Path) -> None:
    """Other bytes than Coffer wrote."""
    path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))


def cut(path: Path) -> None:
    """Half of it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Nothing in it."""
    path.write_bytes(b"")


def fold(path: Path) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """A named pipe in its place, at whose other end nobody writes."""
    path.unlink()
    os.mkfifo(path, 0o600)


def remove(path: Path) -> None:
    """It is gone."""
    path.unlink()


Codes = dict[str, int]  # of the commands that do not end with 0, by name
KEYED: Final = ("status", "put", "find", "serve")
ALL: Final = tuple(COMMANDS)
SIGNED: Final = {"verify": 1, "recover": 1}


def each(names: tuple[str, ...], code: int) -> Codes:
    """The same code for each of these commands."""
    return dict.fromkeys(names, code)


# What each command ends with, by what is damaged and how. A server starts where only stores are refused, so that it is
# not in the table there; what it answers then, `tests/peers` shows.
CASES: Final[dict[tuple[str, Callable[[Path], None]], Codes]] = {
    **{("key", fault): each(KEYED, 8) for fault in (damage, cut, empty, remove)},
    **{("key", fault): each(KEYED, 11) for fault in (fold, pipe)},
    ("passphrase", damage): each(KEYED, 8),
    ("passphrase", cut): each(KEYED, 8),
    **{("passphrase", fault): each(KEYED, 11) for fault in (empty, fold, pipe, remove)},
    **{("config", fault): each(ALL, 11) for fault in (damage, cut, empty, pipe, remove)},
    ("config", fold): each(ALL, 2),
    **{("mark", fault): {"verify": 17} for fault in (damage, cut, empty, fold, pipe, remove)},
    **{("archive", fault): each(ALL, 4) for fault in (damage, cut, empty)},
    **{("archive", fault): each(ALL, 3) for fault in (fold, pipe)},
    ("archive", remove): each(ALL, 5),
    **{("latest", fault): {**SIGNED, "put": 4} for fault in (damage, cut, empty)},
    **{("latest", fault): {**SIGNED, "put": 3} for fault in (fold, pipe)},
    ("latest", remove): {**SIGNED, "put": 13},
    **{("history", fault): {**SIGNED, "put": 13} for fault in (damage, empty)},
    **{("history", fault): {**SIGNED, "put": 3} for fault in (fold, pipe)},
    ("history", remove): {**SIGNED, "put": 13},
    **{("endorsements", fault): {**SIGNED, "put": 4, "keys": 4} for fault in (damage, cut)},
    **{("endorsements", fault): {**SIGNED, "put": 3, "keys": 3} for fault in (fold, pipe)},
    **{("keyring", fault): {**SIGNED, **each((*KEYED, "keys"), 3)} for fault in (damage, cut, empty, fold, pipe)},
    ("keyring", remove): {"recover": 1, **each((*KEYED, "keys"), 5)},
    **{("index", fault): {"verify": 1, **each(("status", "find"), 3)} for fault in (empty,)},
    **{("index", fault): {"verify": 1, **each(KEYED, 3)} for fault in (damage, fold, pipe)},
    ("index", remove): each(("status", "find"), 5),
    **{("segment", fault): {**SIGNED, "put": 13, "find": 6} for fault in (empty, remove)},
}
SERVES: Final = frozenset({"mark", "latest", "history", "endorsements", "segment"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An archive of one study, whose signing key was rotated once, with everything beside it in one folder."""
    folder, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    os.chdir(folder)
    Path("coffer.toml").write_text(CONFIG, encoding="utf-8")
    Path("passphrase").write_text("correct horse\n", encoding="utf-8")
    for name in ("coffer.toml", "passphrase"):
        Path(name).chmod(0o600)
    study_files(Path("files"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "generate_keyfile", partial(generate_keyfile, cost=CHEAPEST_FOR_TESTS))
        run("init")
    run("put", "files")
    run("keys", "rotate-signing", "--reason", "a test")
    yield folder
    os.chdir(before)


def ids(case: object) -> str:
    """The name of a fault or a file."""
    return getattr(case, "__name__", str(case))


def named(file: str, folder: Path) -> tuple[str, ...]:
    """What of a file's name has to be in a message, one of them."""
    path = FILES[file]
    if file == "passphrase":  # a wrong one may as well be the wrong key file
        return str(folder / path), str(folder / FILES["key"])
    if file == "segment":
        return "the log ends here", "the log ends at record", "another state of the log"
    if file == "archive":
        return str(folder / path), f"{folder / 'archive'} holds an archive, and its archive.json is missing"
    if file in {"latest", "history", "endorsements"}:
        return path.removeprefix("archive/"), "endorsements", "history"
    return str(folder / path), str(folder / path.removesuffix("/data.mdb")), "the keyring", "the index"


def require_told(folder: Path, file: str, name: str, code: int) -> None:
    """One command says what is wrong: with this exit code, the file's name, and a remedy that can be typed."""
    done = run("--config", str(folder / "coffer.toml"), *COMMANDS[name], code=None)
    said = f"{name} [{done.exit_code}]: {done.output}"
    assert done.exit_code == code, said
    assert done.exception is None or isinstance(done.exception, SystemExit), said
    assert complaint(done.output) is None, said
    if code not in {0, 1, 2, 17}:
        assert re.search(r"^remedy: \S", done.output, re.MULTILINE), said
    if code or (name == "status" and file in SERVES):
        assert any(each in done.output for each in named(file, folder)), said


@pytest.mark.parametrize(("file", "fault"), list(CASES), ids=ids)
def test_a_damaged_file_is_named_with_a_remedy_that_can_be_typed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, fault: Callable[[Path], None]
) -> None:
    codes = CASES[file, fault]
    for name in COMMANDS:
        if name == "serve" and name not in codes:
            continue
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        monkeypatch.chdir(folder)
        fault(folder / FILES[file])
        require_told(folder, file, name, codes.get(name, 0))


def hints() -> Iterator[tuple[str, str]]:
    """Every remedy in the sources, with its place; values that are put in read "0"."""
    for floor in ("keys", "archive", "index", "server"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "hint":
                    yield f"{path.relative_to(ROOT)}:{node.value.lineno}", in_words(node.value)


def in_words(node: ast.expr) -> str:
    """The text that an expression makes, as far as it stands there."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(in_words, node.values))
    if isinstance(node, ast.BinOp):
        return in_words(node.left) + in_words(node.right)
    return "0"


def test_every_remedy_in_the_sources_can_be_typed() -> None:
    found = {place: told_wrong for place, text in hints() if (told_wrong := complaint(text)) is not None}
    assert not found
    assert complaint("coffer mark renew") == "coffer mark renew needs --reason: coffer mark renew"
    assert complaint("run coffer repair --form COPY") is not None
    assert sum("coffer " in text for _, text in hints()) > 50


def copy_of(whole: Path, folder: Path) -> Path:
    """A copy of the site, with its archive, as somebody would type it."""
    shutil.copytree(whole, folder)
    return folder


def require_whole() -> None:
    """The archive in the working folder is whole, is written, and has every object."""
    run("put", "files")
    run("verify", "--level", "decrypt")
    run("recover", "show")
    assert told("status")["refused"] is None
    assert told("status")["objects"] == 3


def remedies() -> list[str]:
    """The commands that `coffer recover show` prints as remedies."""
    said = run("recover", "show", code=1).output.partition("remedies")[2]
    return [line.strip() for line in said.splitlines() if line.startswith("  coffer ")]


def typed(line: str, copy: Path) -> list[str]:
    """The words of a remedy, for a copy of the archive."""
    return line.partition("   ")[0].replace("COPY", str(copy / "archive")).split()[1:]


def drop(*names: str) -> Callable[[Path], None]:
    """Remove these parts of the archive."""

    def fault(folder: Path) -> None:
        for name in names:
            path = folder / "archive" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return fault


LOSSES: Final = {
    "segments": drop("segments"),
    "the last segment": drop("segments/00000001.seg"),
    "history": drop("checkpoints/history"),
    "latest": drop("checkpoints/latest"),
    "checkpoints": drop("checkpoints"),
    "a damaged history": lambda folder: damage(folder / FILES["history"]),
    "a damaged latest": lambda folder: damage(folder / FILES["latest"]),
    "tiles and history": drop("tiles", "checkpoints/history"),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_every_remedy_that_recover_show_prints_makes_the_archive_whole(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    copy = copy_of(whole, tmp_path / "copy")
    first = copy_of(whole, tmp_path / "first")
    LOSSES[lost](first)
    monkeypatch.chdir(first)
    offered = [line for line in remedies() if "accept-loss" not in line]
    assert any("recover from" in line for line in offered)
    for number, line in enumerate(offered):
        site = copy_of(whole, tmp_path / f"site-{number}")
        LOSSES[lost](site)
        monkeypatch.chdir(site)
        run(*typed(line, copy))
        require_whole()


def test_a_repair_brings_back_the_history_with_every_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, site = copy_of(whole, tmp_path / "copy"), copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    history = site / FILES["history"]
    notes = history.read_bytes()
    damage(history)
    run("repair", "--from", str(copy / "archive"))
    assert history.read_bytes()[: len(notes)] == notes
    assert list((site / "archive/lost+found").glob("history-*.notes"))
    require_whole()


def test_without_its_keyring_an_archive_offers_nothing_but_the_keyring(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    shutil.rmtree("archive/keyring")
    said = run("recover", "show", code=1).output
    assert f"as {site / 'archive/keyring'}" in said
    assert remedies() == ["coffer recover show             then shows whether anything else is missing"]
    shutil.copytree(whole / "archive/keyring", site / "archive/keyring")
    require_whole()


def test_without_archive_json_no_new_archive_is_offered_and_any_copy_of_it_helps(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    Path(FILES["archive"]).unlink()
    for words in (*COMMANDS.values(), ("init",)):
        said = run(*words, code=5).output
        assert "coffer init" not in said
        assert "put archive.json back" in said
    shutil.copy(whole / FILES["archive"], FILES["archive"])
    require_whole()


def test_archive_json_can_be_written_by_hand_as_the_documents_say(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    Path(FILES["archive"]).unlink()
    page = (ROOT / "docs/integrity.md").read_text(encoding="utf-8")
    form = page.partition("### archive.json is missing")[2].partition("```text\n")[2].partition("```")[0]
    origin = Path(FILES["latest"]).read_text(encoding="utf-8").splitlines()[0]
    first = Path(FILES["endorsements"]).read_text(encoding="utf-8").splitlines()[3]
    for blank, value in {"ID": origin.rpartition("/")[2], "ORIGIN": origin, "KEY": first}.items():
        assert form.count(f'"{blank}"') == 1
        form = form.replace(f'"{blank}"', f'"{value}"')
    Path(FILES["archive"]).write_text(form, encoding="utf-8")
    assert Path(FILES["archive"]).read_bytes() == (whole / FILES["archive"]).read_bytes()
    require_whole()


@pytest.mark.parametrize("fault", [remove, damage, fold])
def test_a_mark_is_made_anew_as_status_says(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    fault(Path("mark"))
    (degraded, *_) = told("status")["degraded"]  # type: ignore[misc]
    assert str(site / "mark") in degraded
    if "move it away" in degraded:
        Path("mark").rename("moved")
    assert "coffer mark renew --reason TEXT" in degraded
    done = run("mark", "renew", "--reason", "lost")
    assert "remedy: \n" not in done.output
    assert complaint(done.output) is None
    require_whole()


def test_status_says_when_nothing_is_stored_and_why(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    shutil.copytree("archive", "older")
    run("keys", "rotate-signing", "--reason", "a record more")
    shutil.rmtree("archive")
    shutil.copytree("older", "archive")  # put back with everything in it: only the mark knows
    refused = told("status")["refused"]
    assert isinstance(refused, dict)
    assert "the mark outside the folder" in refused["cause"]
    assert complaint(refused["remedy"]) is None
    assert "writing" in run("status").output
    run("put", "files", code=13)
    run("mark", "renew", "--reason", "this is the one that counts")
    require_whole()
