"""`coffer put`: import files, folders and the files that a DICOMDIR names."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coffer.keys.errors import CofferError, InputError, NotFoundError, UnavailableError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.engine.archive import WritableArchive
    from coffer.server.services.importing import Importer, Result
    from coffer.server.services.media import Found

_SHOWN = 20


@click.command(
    epilog="""\b
Examples:
  coffer put scan.dcm other.dcm
  coffer put /mnt/old-pacs                 the folder and everything below it
  coffer put /media/cdrom/DICOMDIR         the files the DICOMDIR names
  coffer put --json /mnt/old-pacs | jq .failed

\b
Files that are not DICOM are ignored, and named. Objects that are already stored are counted as duplicates and take no
space, so run an interrupted import again. put is a writer: stop the server first, or send to it by C-STORE.
Exit code 0 if all that is DICOM is stored; 12 if some is not, because it was refused or lacks what identifies it; 6 if
the archive could not store; 5 if there was no DICOM at all; 3, 6 or 13 if everything was stored and no checkpoint could
be signed over it: coffer checkpoint sign."""
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Files stored at the same time.")
@archive_options()
@json_option
@click.pass_obj
def put(chosen: Chosen, paths: tuple[Path, ...], jobs: int) -> None:
    """Store Part 10 files: single files, whole folders, or what a DICOMDIR names."""
    admitted = chosen.existing(Action.IMPORT)
    with admitted.open_writer() as archive, output.progress("storing", hidden=chosen.json) as bar:
        from coffer.server.services.bundle import WriterServices
        from coffer.server.services.importing import Importer
        from coffer.server.services.media import find_files

        importer = Importer(WriterServices.of(archive), admitted.principal)
        tally = _Tally()
        if bar.is_shown:
            bar.expect(sum(1 for _ in find_files(paths)))
        for result in _results(importer, paths, jobs, bar.expect):
            tally.add(result)
            bar.advance()
        unsigned = _sign(archive)
    tally.report(as_json=chosen.json)
    tally.raise_failure()
    if unsigned is not None:
        raise unsigned


def _sign(archive: WritableArchive) -> CofferError | None:
    """Sign what was stored, with the keys that were made for it; returns why not."""
    try:
        archive.keyring.claims.settle()
        archive.sign_checkpoint()
    except CofferError as error:
        return error
    return None


def _results(importer: Importer, paths: Sequence[Path], jobs: int, expect: Callable[[int], None]) -> Iterator[Result]:
    """The result of each file under the paths, then of each file named by a DICOMDIR that is itself in `paths`.

    `expect` is passed the number of results that follow a DICOMDIR, minus the one expected for the DICOMDIR itself.
    A DICOMDIR inside a folder names nothing that the walk does not find by itself.
    """
    from coffer.server.services.importing import Outcome, Result
    from coffer.server.services.media import find_files, read_media_directory

    named = {path for path in paths if path.is_file()}
    directories = []
    for result in _stored(importer, find_files(paths), jobs):
        if result.outcome is not Outcome.DIRECTORY:
            yield result
        elif result.path in named:
            directories.append(result.path)
        else:
            yield Result(result.path, Outcome.IGNORED, "a DICOMDIR; its files are read from the folder")
    for directory in directories:
        try:
            found = read_media_directory(directory)
            expect(len(found) - 1)
            yield from _stored(importer, found, jobs)
        except InputError as error:
            yield Result(directory, Outcome.FAILED, str(error))


def _stored(importer: Importer, files: Iterable[Found], jobs: int) -> Iterator[Result]:
    """Store several files at a time, so that they share the waits for the disk; results keep the files' order."""
    from coffer.server.services.importing import Outcome, Result

    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(jobs, thread_name_prefix="put") as pool:
        for found in files:
            if found.problem:
                yield Result(found.path, Outcome.FAILED, found.problem)
                continue
            waiting.append(pool.submit(importer.put, found.path))
            if len(waiting) >= 4 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(slots=True)
class _Tally:
    """The counts of one import, and the reasons for what was not stored."""

    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    problems: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count one file."""
        self.counts[result.outcome.value] += 1
        if result.reason:
            self.problems.append(result)
        else:
            self.size += result.size

    def report(self, *, as_json: bool) -> None:
        """Print the counts and the files that were not stored."""
        names = ("stored", "duplicate", "ignored", "skipped", "failed")
        if as_json:
            files = [{"path": str(p.path), "outcome": p.outcome.value, "reason": p.reason} for p in self.problems]
            output.as_json({**{n: self.counts[n] for n in names}, "bytes": self.size, "not_stored": files})
            return
        for name in ("failed", "skipped", "ignored"):
            self._list([p for p in self.problems if p.outcome.value == name], name)
        output.say(", ".join(f"{self.counts[n]} {n}" for n in names) + f"; {output.size(self.size)} of data sets")

    def _list(self, problems: Sequence[Result], name: str) -> None:
        for reason, count in Counter(p.reason for p in problems).most_common():
            output.say(f"{name}: {output.plain(reason)} ({count})")
            paths = [p.path for p in problems if p.reason == reason]
            for path in paths[:_SHOWN]:
                output.say(f"    {output.plain(str(path))}")
            if len(paths) > _SHOWN:
                output.say(f"    and {len(paths) - _SHOWN} more; --json lists all")

    def raise_failure(self) -> None:
        """Raise the error that determines the exit code, if DICOM was not stored or there was none."""
        failed = self.counts["failed"] + self.counts["skipped"]
        if any(p.is_shortage for p in self.problems):
            raise UnavailableError(
                f"the archive could not store {failed} files", hint="see `coffer status`, then run the command again"
            )
        if failed:
            raise InputError(
                f"{failed} files were not stored", hint="the reasons are listed above; the others are stored"
            )
        if not self.counts["stored"] + self.counts["duplicate"]:
            raise NotFoundError("no DICOM was found", hint="name the folder or the DICOMDIR of the files")
