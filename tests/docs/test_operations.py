"""The pages of docs/operations, followed to the letter: every line of every `sh` block is run, in order.

Paths of the pages stand for folders of the test. A section of the disasters begins with a backed-up archive from which
something was taken away, and ends with every object there, or with those that the page says are left.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from tests.server.filled import flip, run, told
from tests.server.three_studies import UIDS, configure, found, put

PAGES = Path(__file__).parents[2] / "docs" / "operations"
PLACES = {
    "/srv/coffer.key": "data.key",
    "/srv/coffer": "data",
    "/srv": "srv",
    "/etc/coffer": "etc",
    "/mnt/backup": "target",
    "/mnt/vault": "vault",
    "/mnt/other": "other",
    "/media/officer": "officer",
}


def section(page: str, title: str = "") -> list[str]:
    """The commands of a page, or of its section with this title."""
    text = (PAGES / page).read_text(encoding="utf-8")
    if title:
        text = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def follow(lines: list[str], **words: str) -> None:
    """Run these lines; `words` are what an administrator puts in the place of words in capitals."""
    assert lines
    for line in lines:
        typed = [words.get(word, word) for word in shlex.split(line)]
        typed = [_here(word) for word in typed]
        if typed[0] == "coffer":
            run(*typed[1:])
        else:
            subprocess.run(typed, check=True)


def _here(word: str) -> str:
    for place, name in PLACES.items():
        if word == place or word.startswith(f"{place}/"):
            return str(Path.cwd() / name) + word[len(place) :]
    return word


def settings(*more: str) -> None:
    here = Path.cwd()
    table = (f"target = '{here / 'target'}'", f"keys = '{here / 'vault'}'", "minimum = 1", *more)
    configure(
        "[integrity]", f"mark = '{here / 'state' / 'mark'}'", "[keys]", "key_file = 'data.key'", "[backup]", *table
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two studies with one snapshot, its shares, and a copy of its key file."""
    base = tmp_path_factory.mktemp("operations")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        for name in ("target", "vault", "state", "srv", "etc", "officer", "other"):
            Path(name).mkdir()
        settings()
        run("init")
        put(UIDS[0])
        put(UIDS[1], patient_id="P-99")
        run("keys", "split", "-n", "2", "-k", "2", "-o", "shares")
        for number, path in enumerate(sorted(Path("shares").iterdir()), 1):
            shutil.move(path, f"officer/share-{number}")
        shutil.copy("data.key", "officer/coffer.key")
        run("backup", "run")
        Path("vkey").write_text(ArchiveFolder.open(Path("data")).vkey)
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    settings()
    yield tmp_path / "base"
    run("verify", "--level", "decrypt")
    assert found() == sorted(UIDS[:2])


def gone(*paths: str) -> Callable[[], None]:
    def remove() -> None:
        for path in paths:
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()

    return remove


def lost_target() -> None:
    flip(max(Path("target").glob("*/pieces/*/*"), key=lambda path: path.stat().st_size), 1000)
    assert run("backup", "verify", "--all", code=1)
    lost = next(Path("target").glob("*"))
    shutil.rmtree(lost)
    run("backup", "run")


LOSSES = {
    "The archive folder is gone": gone("data"),
    "The index is gone": gone("data/index"),
    "The keyring is gone": gone("data/keyring"),
    "One segment is gone": gone("data/segments/00000001.seg"),
    "The key file is gone": gone("data.key"),
    "The target is damaged": lost_target,
}


@pytest.mark.parametrize("title", LOSSES)
def test_a_disaster_is_over_after_its_section(base: Path, title: str) -> None:
    LOSSES[title]()
    follow(section("disasters.md", title))


def test_a_snapshot_that_is_older_than_the_mark(base: Path) -> None:
    put(UIDS[2])
    shutil.rmtree("data")
    run("restore", "latest", "data")
    records = told("recover", "show", code=1)["records"]
    follow(section("disasters.md", "The snapshot is older than the mark"), RECORDS=str(records))


def test_another_machine_and_path(base: Path) -> None:
    follow(section("disasters.md", "Another machine, another path, another user"))
    assert ArchiveFolder.open(Path("srv/moved")).vkey == Path("vkey").read_text()


def test_the_page_on_backup(base: Path) -> None:
    follow(section("backup.md"))
    settings("recipients = 'etc/recipients'")
    run("backup", "run")
    run("restore", "latest", "srv/sealed", "--identity", "officer/meyer.identity")


def test_the_page_on_restoring(base: Path) -> None:
    shutil.rmtree("data")
    Path("data.key").unlink()
    follow(section("restore.md"), VKEY=Path("vkey").read_text())
    assert list(Path("srv/files").rglob("*.dcm"))


def test_no_section_of_the_disasters_is_left_out() -> None:
    titles = re.findall(r"^## (.*)$", (PAGES / "disasters.md").read_text(encoding="utf-8"), re.MULTILINE)
    others = {"The snapshot is older than the mark", "Another machine, another path, another user"}
    assert set(titles) == {*LOSSES, *others}
