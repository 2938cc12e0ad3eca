"""What an examination found out about one thing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from coffer.keys.errors import CofferError

__all__ = ["Report", "Result", "State"]


class State(StrEnum):
    """How a thing is: well; well but for how long; broken; or it could not be looked at here."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNSEEN = "not seen"


@dataclass(frozen=True, slots=True)
class Result:
    """`about` names the thing, `what` says how it is, `remedy` what to do; nothing to do: empty."""

    about: str
    state: State
    what: str
    remedy: str = ""


class Report:
    """Collects results; what a check raises becomes one, so that the others are made all the same."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def add(self, about: str, state: State, what: str, remedy: str = "") -> None:
        """One more result."""
        self.results.append(Result(about, state, what, remedy))

    def concerns(self, about: str, found: list[str], otherwise: str) -> None:
        """A warning for each sentence, in which a remedy may stand behind the last colon; without any, all is well."""
        for each in found:
            self.add(about, State.WARNING, each)
        if not found:
            self.add(about, State.OK, otherwise)

    @contextmanager
    def about(self, thing: str) -> Iterator[None]:
        """What the block raises as an error of ours or of the system is that thing's failure."""
        try:
            yield
        except CofferError as error:
            self.add(thing, State.FAILED, str(error), error.hint())
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            self.add(thing, State.FAILED, f"{what}{error.strerror}", "check the path, its permissions and the volume")
