"""Promise: whatever is damaged, the message names the file and a remedy, and the remedy works when it is typed.

Adversary: a bad disk, a backup that left something out, an administrator's slip, at 3 in the morning. Crossed with
every file that an archive needs, and with the commands that somebody types first.
"""

import ast
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT
from tests.promises.damaged import COMMANDS, FILES, cut, damage, empty, fold, pipe, remove
from tests.server.filled import run
from tests.typed_remedies import complaint

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
    ("index", remove): each(("status", "find"), 6),
    ("segment", empty): {**SIGNED, "put": 3, "find": 6},
    ("segment", remove): {**SIGNED, "put": 13, "find": 6},
}
SERVES: Final = frozenset({"mark", "latest", "history", "endorsements", "segment"})


def ids(case: object) -> str:
    """The name of a fault or a file."""
    return getattr(case, "__name__", str(case))


def named(file: str, folder: Path) -> tuple[str, ...]:
    """What of a file's name has to be in a message, one of them."""
    path = FILES[file]
    if file == "passphrase":  # a wrong one may as well be the wrong key file
        return str(folder / path), str(folder / FILES["key"])
    if file == "segment":
        return "segment 1: ", "the log ends here", "the log ends at record", "another state of the log"
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


UNREADABLE: Final[dict[str, Codes]] = {
    "key": each(KEYED, 8),
    "passphrase": each(KEYED, 11),
    "config": each(ALL, 11),
    "mark": {"verify": 17},
    "archive": each(ALL, 11),
    "latest": {**SIGNED, "put": 6},
    "history": {**SIGNED, "put": 6},
    "keyring": {**SIGNED, **each((*KEYED, "keys"), 6)},
    "index": {"verify": 1, **each(KEYED, 6)},
}


@contextmanager
def somebody_without_rights(folder: Path) -> Iterator[None]:
    """Own the folder and run as an account to which file modes apply, while the block runs. For root that is another
    one, which may not run this Python: what a command does in processes of its own is left out then."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("file", UNREADABLE)
def test_a_file_that_this_account_may_not_read_is_named(
    whole: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)  # the test's own folder is closed to other accounts
        for name in COMMANDS:
            if name == "serve" and name not in UNREADABLE[file]:
                continue
            if name in {"verify", "recover", "serve"} and not os.geteuid():
                continue
            folder = Path(place, name)
            shutil.copytree(whole, folder)
            monkeypatch.chdir(folder)
            (folder / FILES[file]).chmod(0)
            with somebody_without_rights(folder):
                require_told(folder, file, name, UNREADABLE[file].get(name, 0))


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
