"""Queries and plans of all lines: begun, run in turns, answered in parts.

Rule: a line has one search at a time; the next one, its end or the line's end drops it. Each has a budget of processor
time, after which it ends with 0xA700 and says what to narrow. Nothing here waits for a search.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from coffer.index.query.locate import Located
from coffer.keys.errors import TooCostlyError
from coffer.server.access.principal import Principal
from coffer.server.services.bundle import ReaderServices
from coffer.server.services.retrieve import Planning
from coffer.server.workers.checks import BrokenRule
from coffer.server.workers.client import Client
from coffer.server.workers.messages import Find, More, Places, Plan, Rows
from coffer.server.workers.search import Search
from coffer.server.workers.turns import Turn, Turns

__all__ = ["Searches"]

_FIRST_ROWS: Final = 8  # soon, for a person at a screen
_ROWS: Final = 128
_PLACES: Final = 512

Deliver = Callable[[Client, Search, bytes | None], None]


class Searches:
    """All searches; used by the coordinator's thread. `deliver` is called by the search threads with a part of an
    answer, or None if an internal error ended the search."""

    def __init__(self, services: ReaderServices, deliver: Deliver, delayed: Callable[[], None] = lambda: None) -> None:
        """`delayed` is called each time that a search goes behind those of another host."""
        self._services = services
        self._deliver = deliver
        self._turns = Turns(delayed)
        self._ending = threading.Event()

    def start(self) -> None:
        """Start the search threads."""
        self._turns.start()

    def ask(self, client: Client, request: Find | Plan | More) -> None:
        """Begin a search, or continue the last one; its answer is owed until it is delivered. Raises BrokenRule."""
        if not isinstance(request, More):
            self.drop(client)
            caller = client.rights.caller
            client.search = (
                self._find(client, request, caller)
                if isinstance(request, Find)
                else self._plan(client, request, caller)
            )
        if client.search is None:
            raise BrokenRule("it requested more without a search")
        client.is_owed = True
        client.search.want()
        self._turns.add(client.search)

    def take(self, turn: Turn) -> None:
        """Let something else take turns with the searches, as it costs its host as they do."""
        self._turns.add(turn)

    @staticmethod
    def drop(client: Client) -> None:
        """End the search of a line, whose answer is no longer wanted."""
        if client.search is not None:
            client.search.is_over = True
            client.search = None

    def end(self) -> None:
        """Answer every present and future search with a failure: the server is stopping."""
        self._ending.set()

    def stop(self) -> bool:
        """End the threads; returns whether they ended."""
        self._ending.set()
        return self._turns.stop()

    def _find(self, client: Client, asked: Find, caller: Principal) -> Search:
        finder = self._services.finder
        all_supported = True

        def begin() -> Iterator[bytes | None]:
            nonlocal all_supported
            matches = finder.find(asked.identifier, implicit=asked.implicit, model=asked.model, caller=caller)
            all_supported = matches.all_supported
            return matches.rows

        return Search(
            client.host,
            begin,
            lambda rows, is_last: Rows(rows, is_last, all_supported),
            lambda search, reply: self._deliver(client, search, reply),
            rooms=(_FIRST_ROWS, _ROWS),
            is_stopping=self._ending.is_set,
            budget_seconds=self._services.archive.config.dimse.query_cpu_seconds,
            too_costly=lambda: finder.too_costly(asked.identifier, implicit=asked.implicit),
        )

    def _plan(self, client: Client, asked: Plan, caller: Principal) -> Search:
        client.rights.plan()

        planning = Planning()

        def begin() -> Iterator[Located | None]:
            nonlocal planning
            planning = self._services.retriever.plan_in_steps(
                asked.identifier,
                implicit=asked.implicit,
                model=asked.model,
                caller=caller,
                destination=asked.destination,
            )
            return (None if one is None else replace(one.located, versions=()) for one in planning.steps)

        def pack(places: list[Located], is_last: bool) -> Places:
            client.rights.returned({place.study_key_id for place in places})
            return Places(places, is_last, planning.remark)

        return Search(
            client.host,
            begin,
            pack,
            lambda search, reply: self._deliver(client, search, reply),
            rooms=(_PLACES, _PLACES),
            is_stopping=self._ending.is_set,
            budget_seconds=self._services.archive.config.dimse.query_cpu_seconds,
            too_costly=lambda: TooCostlyError(
                "too costly: retrieve by study or by series", hint="retrieve by study or by series"
            ),
        )
