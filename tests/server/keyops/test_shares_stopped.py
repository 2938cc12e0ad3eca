"""Splitting and recovering, stopped before every call that changes a disk: no share is unknown, it can be ended."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from coffer.archive.events.event import Event
from coffer.archive.events.shares import KeyRecovered, SharesGivenUp, SharesMade
from coffer.index.instance.identity import PartId
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.keyring.overview import Overview, overview
from coffer.keys.providers.key_file import generate_keyfile
from coffer.keys.shares.text import parse
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.server.access.principal import Principal
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Dimse, Http, Keys, Storage
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.keyops.share_files import split_key
from coffer.server.keyops.share_recovery import drill, read_shares, recover
from tests.server.stopped import in_memory
from tests.services import services

E = TypeVar("E", bound=Event)
CHANGES = ("open", "writev", "rename", "mkdir", "link", "unlink")
WHO = Principal.person("Meyer", "pacs")
STOPPED = 77
tmp_path = in_memory


def config_of(base: Path) -> Config:
    return Config(
        archive=base / "archive",
        dimse=Dimse(port=1),
        http=Http(enabled=False),
        keys=Keys(key_file=base / "key"),
        storage=Storage(reserve_bytes=0),
        integrity=Integrity(mark=base / "mark"),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a study's key, and shares of its epoch."""
    base = tmp_path_factory.mktemp("made")
    create_archive(config_of(base))
    with open_writer(config_of(base)) as engine:
        services(engine).committer.study_key(PartId("1.2.3"))
    split_key(config_of(base), 2, 3, base / "first", WHO)
    return base


def stopped(number: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that dies before its `number`th change; whether it died."""
    child = os.fork()  # a fresh interpreter would cost a second each time
    if child == 0:
        left = [number]

        def stopping(owner: type, name: str) -> None:
            real = getattr(owner, name)

            def call(*args: object, **options: object) -> object:
                if left[0] == 0:
                    os._exit(STOPPED)
                left[0] -= 1
                return real(*args, **options)

            setattr(owner, name, staticmethod(call) if owner is SystemCalls else call)

        try:
            for name in CHANGES:
                stopping(SystemCalls, name)
            stopping(LmdbKeyringStore, "put")
            work()
            os._exit(0)
        finally:
            os._exit(70)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, STOPPED), code
    return code == STOPPED


def every_stop(made: Path, tmp_path: Path, work: Callable[[Path], object], check: Callable[[Path], None]) -> int:
    """Stop the work before each of its changes, on a fresh copy each, and check what is left; how many there were."""
    for number in range(100):
        base = tmp_path / str(number)
        shutil.copytree(made, base)
        died = stopped(number, lambda base=base: work(base))  # type: ignore[misc]
        check(base)
        shutil.rmtree(base)
        if not died:
            return number
    raise AssertionError("the changes did not come to an end")


def look(base: Path) -> Overview:
    return overview(config_of(base).archive / "keyring")


def groups_on_disk(base: Path) -> set[bytes]:
    """The groups of all shares that lie anywhere, hidden folders and files that are being written included."""
    paths = [path for path in base.rglob("*coffer-share-*") if path.read_text().endswith(".\n")]
    return {parse(path.read_text(), path.name).of.group for path in paths}


def events(base: Path, of: type[E]) -> list[E]:
    """The events of a class, which the next process that writes has put into the log."""
    with open_writer(config_of(base)) as engine:
        told = [each.event for each in engine.events(frozenset({of.kind}))]
    return [event for event in told if isinstance(event, of)]


def test_a_splitting_that_is_stopped_anywhere_is_known_and_ended_by_the_same_call(made: Path, tmp_path: Path) -> None:
    stops: dict[str, int] = {"hidden": 0, "whole": 0}

    def check(base: Path) -> None:
        config, target = config_of(base), base / "stick"
        known = {of.group for of in look(base).groups}
        assert groups_on_disk(base) <= known
        stops["hidden"] += (base / ".stick.new").exists()
        stops["whole"] += target.exists()
        before = groups_on_disk(base) if target.exists() else None
        done = split_key(config, 2, 2, target, WHO)
        after = look(base)
        assert done.resumed == (before is not None)
        assert groups_on_disk(base) == (before or groups_on_disk(base)) == {of.group for of in after.groups}
        assert len(after.groups) == 2, "this one and the first"
        assert not after.unfinished
        assert sorted(path.name for path in base.iterdir()) == ["archive", "first", "key", "mark", "stick"]
        proof, _ = drill(config, read_shares(sorted(target.iterdir())), WHO, lambda: None)
        assert (proof.archive, proof.opened) == (True, 1)
        told = events(base, SharesMade)
        assert {bytes.fromhex(each.group) for each in told} >= {of.group for of in after.groups}
        assert {(each.by.name, each.by.account) for each in told} == {("Meyer", "pacs")}

    count = every_stop(made, tmp_path, lambda base: split_key(config_of(base), 2, 2, base / "stick", WHO), check)
    assert count > 12
    assert stops["hidden"] > 8
    assert stops["whole"] > 1


def stopped_with_whole_shares(made: Path, tmp_path: Path) -> Path:
    """A copy in which a splitting died right before it said that its shares are whole."""
    for number in range(100):
        base = tmp_path / f"base {number}"
        shutil.copytree(made, base)
        assert stopped(number, lambda base=base: split_key(config_of(base), 2, 2, base / "stick", WHO))  # type: ignore[misc]
        if (base / "stick").exists() and look(base).unfinished:
            return base
    raise AssertionError("no stop left whole shares that are not said to be whole")


def test_whole_shares_that_somebody_took_away_stay_known(made: Path, tmp_path: Path) -> None:
    base = stopped_with_whole_shares(made, tmp_path)
    (base / "stick").rename(base / "in a safe")
    split_key(config_of(base), 2, 2, base / "stick", WHO)
    assert {of.group for of in look(base).groups} == groups_on_disk(base)
    assert len(groups_on_disk(base)) == 3
    assert not look(base).unfinished
    assert not events(base, SharesGivenUp)


@pytest.mark.parametrize("there", ["nothing", "another"])
def test_a_recovery_that_is_stopped_anywhere_is_ended_by_the_same_call(there: str, made: Path, tmp_path: Path) -> None:
    def lose(base: Path) -> Path:
        config_of(base).keys.key_file.unlink(missing_ok=True)
        if there == "another":
            generate_keyfile(base / "rescue", epoch=9)
        return base

    def again(base: Path) -> None:
        shares = sorted((base / "first").iterdir())
        recover(config_of(base), read_shares(shares[:2]), base / "rescue", WHO, lambda: None)

    def check(base: Path) -> None:
        again(base)
        again(base)
        (base / "rescue").rename(base / "key")
        (told,) = events(base, KeyRecovered)
        assert (told.epoch, told.by.name) == (1, "Meyer")
        with open_reading(config_of(base)) as engine:
            assert [each.provider for each in engine.keyring.epochs()] == ["keyfile"]
        assert not list(base.glob(".*.new"))

    template = tmp_path / "template"
    shutil.copytree(made, template)
    assert every_stop(lose(template), tmp_path, again, check) > (6 if there == "nothing" else 4)
