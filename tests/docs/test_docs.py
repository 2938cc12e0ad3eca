"""The documents tell the truth: links lead somewhere, commands and targets exist, nothing unfinished is left."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from coffer.server.cli import main
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.services.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from coffer.server.services.part10 import Part10, header_bytes

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
COFFER_COMMAND = re.compile(r"^(?:\$ )?coffer((?: +[^\s#|;&)]+)*)", re.MULTILINE)
MAKE_COMMAND = re.compile(r"^(?:\$ )?make((?: +[a-z][a-z-]*)+)", re.MULTILINE)
BINARY = {".lock", ".bin", ".dcm", ".seg", ".mdb", ".png"}


def tracked() -> list[Path]:
    """Every text file of the project that exists, as git lists them."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def documents() -> list[Path]:
    """All markdown of the project."""
    found = [p for p in ROOT.rglob("*.md") if not {".venv", "node_modules", "build", "archive-data"} & set(p.parts)]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(ROOT).parts))


def code_of(page: Path) -> str:
    """What stands in code blocks and code spans of a page, a line each."""
    return "\n".join(block or span for block, span in CODE.findall(page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors that headings of a page make."""
    heads = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


def test_every_document_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in documents()
        for target in LINK.findall(page.read_text(encoding="utf-8"))
    }
    alone = [p for p in documents() if p not in linked and p.parent in (ROOT, ROOT / "docs") and p.name != "README.md"]
    assert not alone


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for p in documents() for found in MAKE_COMMAND.findall(code_of(p)) for t in found.split()}
    assert named - targets == set()
    assert {"run", "test"} <= named


def application() -> click.Group:
    """The command line with all its commands."""
    assert isinstance(main, click.Group)
    return main


def resolve(words: list[str], group: click.Group) -> Iterator[str]:
    """Yield what is wrong with one command line of a document."""
    command: click.Command = group
    for word in words:
        if isinstance(command, click.Group) and word not in command.commands and hasattr(command, "default"):
            command = command.commands[command.default]  # its name may be left out
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
        if word.startswith("-"):
            if word.split("=")[0] not in options:
                yield f"{command.name} has no {word}"
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            if word in command.commands:
                command = command.commands[word]
            elif command.commands:
                yield f"{command.name} has no command {word}"
                return


def test_every_command_and_option_exists() -> None:
    app = application()
    wrong = []
    for page in documents():
        for line in COFFER_COMMAND.findall(code_of(page)):
            wrong += [f"{page.name}: coffer{line}: {w}" for w in resolve(line.split(), app)]
    assert not wrong


def test_every_command_is_documented() -> None:
    app = application()
    reference = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert [name for name in app.commands if f"coffer {name}" not in reference] == []


def test_the_conformance_statement_names_the_implementation_as_it_names_itself() -> None:
    page = (ROOT / "docs/conformance.md").read_text(encoding="utf-8")
    assert f"| Implementation Class UID | {IMPLEMENTATION_CLASS_UID}" in page
    assert f"| Implementation Version Name | {IMPLEMENTATION_VERSION_NAME} |" in page
    major, minor, *_ = version("coffer-dicom").split(".")
    assert f"COFFER_{major}_{minor}" == IMPLEMENTATION_VERSION_NAME
    associating = negotiation.request("A", "B", [Offer(1, negotiation.VERIFICATION, (negotiation.IMPLICIT_LE,))], 0)
    file = header_bytes(Part10("1.2", "1.3", negotiation.IMPLICIT_LE, b"", b"", 0))
    for made in (associating, file):
        assert IMPLEMENTATION_CLASS_UID.encode() in made
        assert IMPLEMENTATION_VERSION_NAME.encode() in made


def test_decisions_are_numbered_once() -> None:
    numbers = Counter(p.name[:4] for p in (ROOT / "docs/adr").glob("*.md"))
    assert numbers
    assert all(n.isdigit() for n in numbers)
    assert [n for n, count in numbers.items() if count > 1] == []


def test_nothing_unfinished_private_or_local_is_left() -> None:
    # The words are put together here so that this file does not find itself.
    unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|T" r"BD|lorem ip" r"sum)\b")
    local = re.compile(r"(?<![\w.])/(wo" r"rk|ro" r"ot|ho" r"me)/[a-z]")
    registry = re.compile(r"py" r"pi\.org|python" r"hosted|index-" r"url +[a-z]|trusted-" r"host +[a-z]")
    found = []
    for path in tracked():
        if path.suffix in BINARY - {".lock"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for what in (unfinished, local, registry):
            found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in what.finditer(text)]
    assert not found


def test_the_readme_leads_with_the_two_commands_and_keeps_its_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text.split("```")[1].strip().splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make run", "make test"]
    assert text.count("<!-- bench:begin -->") == text.count("<!-- bench:end -->") == 1
