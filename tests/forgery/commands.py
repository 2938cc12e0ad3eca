"""The commands that the documents name, run in this process on the live archive: each says whether it finds something.

They are the commands themselves, exit codes included. What they look at in a process of its own is looked at in this
one, by the same code: otherwise a hundred thousand cases would start half a million processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import remembered_checkpoint
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.scrub import Scrub
from coffer.archive.verify.verify import Verifier
from coffer.index import keyless_check
from coffer.keys.errors import CofferError, IntegrityError, UnavailableError
from coffer.keys.inspect import remembered
from coffer.server.anchor.trust import Outside
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.maintenance import offline
from coffer.server.maintenance.keyed_check import inspect_with_keys
from tests.forgery.state import keyring_note
from tests.forgery.world import World

UNANCHORED: Final = 17  # verify: no finding, and nothing from outside to compare with
DEFECT: Final = 70  # an error that nobody foresaw
ANCHORS: Final = ("none", "vkey", "mark")


class DefectError(AssertionError):
    """A command ended by an error that nobody foresaw: neither a finding nor a refusal."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and whether it compares with what it is told from outside. `finds` says whether it found something.

    `is_part`: only a part of it is done, which may find less than the command does.
    """

    name: str
    anchors: tuple[str, ...]
    finds: Callable[[World, str], bool]
    is_part: bool = False


def _ended(world: World, anchor: str, *args: str) -> int:
    done = CliRunner().invoke(main, ["--config", str(world.config(anchor)), *args])
    if done.exit_code == DEFECT or not (done.exception is None or isinstance(done.exception, SystemExit)):
        raise DefectError(f"coffer {' '.join(args)} ended with {done.exit_code}: {done.exception!r}\n{done.output}")
    return done.exit_code


def _command(name: str, anchors: tuple[str, ...] = ("mark",)) -> Command:
    words = name.split()

    def finds(world: World, anchor: str) -> bool:
        return _ended(world, anchor, *words) not in {0, UNANCHORED}

    return Command(name, anchors, finds)


def _scrubs(world: World, _: str) -> bool:
    """One whole pass of what a server does in the background."""
    found: list[object] = []
    try:
        folder = ArchiveFolder.open(world.live)
        note = keyring_note(world.live)
        scrub = Scrub(
            folder, remembered=lambda: remembered_checkpoint(note, folder), now_ms=lambda: 1, pace=lambda _: None,
            on_finding=found.append,
        )  # fmt: skip
        passes = scrub.position.passes
        while scrub.position.passes < passes + 2 and scrub.segment().segment:
            pass
        return bool(found) or bool(FindingStore(folder.scrub).open_entries())
    except IntegrityError:
        return True
    except (UnavailableError, OSError):
        return False  # a folder is gone: a server says that it did not continue, and tries again


def _first_row(world: World, anchor: str) -> bool:
    """The part of `verify --level decrypt` that looks at the rows of keyring and index, without and with the keys."""
    try:
        config = _config(world.config(anchor))
        folder = ArchiveFolder.open(config.archive)
        seen, rows = offline.inspect_keyring(folder), offline.inspect_index(folder)
        return bool(seen.findings or rows or inspect_with_keys(config, rows=seen.readable))
    except (CofferError, OSError):
        return False  # the command itself says


@cache
def _config(file: Path) -> Config:
    return load_config(file)


def _first_finding(world: World, anchor: str) -> bool:
    """The part of `verify` that needs neither keyring nor index, up to its first finding: most cases end here."""
    try:
        config = _config(world.config(anchor))
        folder = ArchiveFolder.open(config.archive)
        outside = Outside.of(config, folder)
        found = chain(outside.contradictions(folder), Verifier(folder, outside=outside.mark).findings())
        return next(iter(found), None) is not None
    except (CofferError, OSError):
        return False  # the command itself says


VERIFY: Final = (
    _command("verify --level headers", ANCHORS), _command("verify --level bodies"), _command("verify --level decrypt"),
)  # fmt: skip
FIRST: Final = Command(VERIFY[1].name, ("mark",), _first_finding, is_part=True)
ROWS: Final = Command(VERIFY[2].name, ("mark",), _first_row, is_part=True)
AUDIT: Final = _command("keys audit")
SHOW: Final = _command("recover show")
SCRUB: Final = Command("scrub", ("mark",), _scrubs)
FIND: Final = _command("find")
COMMANDS: Final = (*VERIFY, AUDIT, SHOW, FIND)  # and the scrub, which writes what it finds


@contextmanager
def in_this_process() -> Iterator[None]:
    """Let the commands look at keyring and index here and not in a process of their own."""

    def seen(folder: Path, key_ids: Collection[bytes] = ()) -> remembered.RememberedState:
        return remembered._read(folder, key_ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "read_remembered", seen)
        patch.setattr(offline, "check_index", keyless_check._complaint)
        yield
