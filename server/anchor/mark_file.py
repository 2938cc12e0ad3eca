"""The file with an archive's mark: read, raised after each checkpoint, and made only when somebody asks for it.

Rule: replaced atomically and never lowered by a writer. A mark that is missing or cannot be read stays so until an
administrator makes it anew, and is reported until then. A mark that cannot be raised stops nothing.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.mark import LONGEST_MARK, Mark
from coffer.keys.disk import durable, opening
from coffer.keys.disk.reading import unreadable
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import CofferError, ConfigError, FormatError, HistoryError, IntegrityError, NotFoundError
from coffer.server.anchor.place import is_same_volume, mark_path
from coffer.server.config.settings import Config
from coffer.server.observe.logs import get_logger

__all__ = ["MarkFile"]

_log = get_logger()
_MAKE = "coffer mark renew --reason TEXT makes one, when you know that the archive is the newest"


class MarkFile:
    """The mark of one archive, at a path outside its folder. Written by one thread at a time."""

    def __init__(self, path: Path, archive: Path, archive_id: bytes, calls: Syscalls = SYSTEM) -> None:
        self.path = path
        self._archive = archive
        self._archive_id = archive_id
        self._calls = calls
        self._failure = ""

    @classmethod
    def of(cls, config: Config, archive_id: bytes) -> "MarkFile":
        """That of the configured archive, which has this id."""
        return cls(mark_path(config, archive_id), config.archive, archive_id)

    def read(self) -> Mark:
        """The mark as it is. Raises NotFoundError, UnreadableError; FormatError if it is not what was written, or of
        another archive."""
        try:
            mark = Mark.parse(opening.read(self.path, LONGEST_MARK))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"there is no mark outside the archive folder: {self.path} is missing", hint=_MAKE
            ) from error
        except OSError as error:
            raise unreadable(f"the mark outside the folder, {self.path},", error) from error
        except IntegrityError as error:
            raise FormatError(
                f"the mark outside the folder, {self.path}, cannot be used: {error}", hint=_MAKE
            ) from error
        if mark.archive_id != self._archive_id:
            raise FormatError(f"the mark outside the folder, {self.path}, is of another archive", hint=_MAKE)
        return mark

    def find(self) -> Mark | None:
        """The mark, or None if there is none that can be used; `concerns` says why."""
        with suppress(CofferError):
            return self.read()
        return None

    def concerns(self) -> list[str]:
        """Why the mark does not protect the archive as it could, a sentence each."""
        try:
            self.read()
        except CofferError as error:
            unseen = "so an older state of the whole archive would not be noticed"
            first = "move it away, then " if self.path.is_dir() else ""  # a folder is in nobody's way but ours
            return [f"{error}, {unseen}: {first}coffer mark renew --reason TEXT"]
        found = [f"the mark outside the folder was not raised: {self._failure}"] if self._failure else []
        if is_same_volume(self.path, self._archive):
            found.append(
                "the mark is on the archive's own disk, so whoever writes one may write the other: set [integrity] mark"
            )
        return found

    def begin(self, mark: Mark) -> None:
        """Make the first mark of a new archive, durable on return; one that is there and the same is kept.

        Raises ConfigError if the mark of another archive is there, UnavailableError.
        """
        try:
            if replace(self.read(), lineage=mark.lineage) == mark:  # an earlier call drew another one
                return
        except NotFoundError:
            pass
        except CofferError as error:
            raise ConfigError(
                f"{self.path} cannot become the mark of this archive: {error}",
                hint="name another place in [integrity] mark",
            ) from error
        self.write(mark)

    def advance(self, mark: Mark, begun: Checkpoint | None = None) -> bool:
        """Raise the mark to what is durable in the archive; durable on return, which says whether its lineage is in the
        mark now. One that is missing, unreadable or higher stays as it is. So does one of another lineage, unless it
        names `begun`, all that the log had when this process opened it: what is behind that, nobody else wrote. A
        failure is logged and becomes a concern."""
        try:
            held = self.read()
        except CofferError:
            return False  # `concerns` says so until somebody decides
        if held.size > mark.size:
            return False
        if held.lineage != mark.lineage and held.checkpoint != begun:
            self._failed(HistoryError("it names another continuation of the archive", hint=_MAKE))
            return False
        raised = replace(
            mark,
            keyring_generation=max(held.keyring_generation, mark.keyring_generation),
            epoch=max(held.epoch, mark.epoch),
        )
        try:
            if raised != held:
                self.write(raised)
        except CofferError as error:
            self._failed(error)
            return False
        self._failure = ""
        return True

    def succeed(self, vkey: str) -> None:
        """Let the mark name the signing key that follows; its endorsement is durable in the archive. Durable on return;
        otherwise as `advance`."""
        try:
            held = self.read()
        except CofferError:
            return
        try:
            if held.vkey != vkey:
                self.write(replace(held, vkey=vkey))
        except CofferError as error:
            self._failed(error)

    def _failed(self, error: CofferError) -> None:
        if not self._failure:
            _log.error(
                "the mark outside the folder was not raised",
                name="mark.raise_failed",
                cause=str(error),
                remedy=error.hint(),
            )
        self._failure = str(error)

    def write(self, mark: Mark) -> None:
        """Put a mark in the place of whatever is there, durable on return. Raises UnavailableError, ConfigError for a
        folder."""
        if self.path.is_dir():
            raise ConfigError(
                f"the place of the mark, {self.path}, is a folder",
                hint="move it away, or name another place in [integrity] mark; then run the command again",
            )
        folder = self.path.parent
        above = next(each for each in folder.parents if each.is_dir()) if folder != folder.parent else folder
        durable.make_folders(folder, above, calls=self._calls)
        durable.replace(self.path, mark.serialize(), calls=self._calls)
