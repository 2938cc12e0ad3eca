"""The table of limits in docs/security/limits.md, with the values that the code has.

Rule: a value is never typed here: it is that of a setting's default or of the constant that enforces it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.marked import with_part
from coffer.index.dicom import headers
from coffer.server.config.settings import Dimse, Limits
from coffer.server.dimse import listener, refusal
from coffer.server.dimse.protocol import command, negotiation, pdu
from coffer.server.dimse.protocol.negotiation import Rejection
from coffer.server.dimse.protocol.status import CANNOT_COUNT
from coffer.server.dimse.scp import retrieve_plan, session
from coffer.server.web import http
from coffer.server.workers import client, coordinator, rights, supervisor, turns

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "security" / "limits.md"
BEGIN: Final = "<!-- written by `python -m bench.limits --write` -->"
END: Final = "<!-- end of what bench.limits writes -->"


@dataclass(frozen=True, slots=True)
class Limit:
    """One row: what is limited and to what, by which setting ("": none), what happens, where it is seen."""

    what: str
    value: str
    setting: str
    reaction: str
    seen: str


def _bytes(count: int) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= size and count % size == 0:
            return f"{count // size:,} {unit}"
    return f"{count:,} bytes"


def _seconds(count: float) -> str:
    return f"{count:g} s"


def _abort(reason: int) -> str:
    return f"A-ABORT {pdu.PROVIDER}/{reason}"


def _rejected(rejection: Rejection) -> str:
    return f"A-ASSOCIATE-RJ {rejection.result}/{rejection.source}/{rejection.reason}"


def _counted(word: str) -> str:
    return f'`coffer_associations_rejected{{reason="{word}"}}`'


_ABORTED: Final = "log `association.aborted`"
_FAILED: Final = "`coffer_failures`, by service and status"
_BROKEN: Final = "log `worker.rule_broken`"


def _of_associations() -> list[Limit]:
    d, too_many = Dimse(), negotiation.TOO_MANY
    return [
        Limit("connection to complete A-ASSOCIATE-RQ", _seconds(d.handshake_seconds), "dimse.handshake_seconds",
              _abort(pdu.NOT_SPECIFIED), _ABORTED),
        Limit("wait for the next byte of a PDU or message", _seconds(d.gap_seconds), "dimse.gap_seconds",
              _abort(pdu.NOT_SPECIFIED), _ABORTED),
        Limit("silence between messages", _seconds(d.idle_seconds), "dimse.idle_seconds", _abort(pdu.NOT_SPECIFIED),
              _ABORTED),
        Limit("associations in all", f"{d.max_associations}", "dimse.max_associations",
              f"an idle one is ended, else {_rejected(too_many)}", f"{_counted('idle')}, {_counted(too_many.word)}"),
        Limit("associations of one address", f"{d.max_associations_per_peer}", "dimse.max_associations_per_peer",
              f"one that never did anything is ended, else {_rejected(too_many)}",
              f"{_counted('idle')}, {_counted(too_many.word)}"),
        Limit("requests read at a time only to be rejected by name", f"{listener._MOST_REFUSALS}", "",
              f"{_rejected(too_many)}, unread", _counted("flood")),
        Limit("rejected connections that linger", f"{refusal.MOST_LINGERING}", "", "closed at once",
              _counted("flood")),
        Limit("descriptors, threads, memory of the process", "what the system gives", "",
              _rejected(negotiation.CONGESTED), f"{_counted(negotiation.CONGESTED.word)}, `/readyz`"),
    ]  # fmt: skip


def _of_messages() -> list[Limit]:
    d, limits, query, invalid = Dimse(), Limits(), headers.QUERY_LIMITS, _abort(pdu.INVALID_VALUE)
    return [
        Limit("P-DATA-TF", _bytes(d.max_pdu), "dimse.max_pdu", f"{invalid}, unread", _ABORTED),
        Limit("A-ASSOCIATE-RQ", _bytes(pdu.MAX_ASSOCIATE_BYTES), "", f"{invalid}, unread", _ABORTED),
        Limit("presentation contexts", f"{negotiation._MAX_CONTEXTS}", "", invalid, _ABORTED),
        Limit("command set", _bytes(command.MAX_COMMAND_BYTES), "", invalid, _ABORTED),
        Limit("identifier", _bytes(session.MAX_IDENTIFIER_BYTES), "", invalid, _ABORTED),
        Limit("what is in an identifier", f"{query.elements:,} elements, {query.depth} levels, "
              f"{headers._MOST_VALUES:,} values of a key", "", "A900", _FAILED),
        Limit("data set of an object", _bytes(limits.max_object_bytes), "limits.max_object_bytes", "A700", _FAILED),
        Limit("objects in memory, all together", _bytes(limits.memory_total_bytes), "limits.memory_total_bytes",
              "to an encrypted spool file", ""),
        Limit("header that is read for the index", f"{_bytes(limits.header_bytes)}, {limits.header_elements:,} "
              f"elements, {limits.header_depth} levels, {_seconds(limits.header_seconds)}", "limits.header_*",
              "0000; indexed as far as it was read", "log, `coffer status`: not indexed"),
        Limit("deflated data set, inflated for the index", _bytes(headers._MOST_INFLATED), "",
              "0000; indexed as far as it was read; the bytes are stored deflated", "as above"),
        Limit("processor time of a query or of a retrieval's search", _seconds(d.query_cpu_seconds),
              "dimse.query_cpu_seconds", "A700", _FAILED),
        Limit("a query's turn before the next address's", f"{turns.SLICE_SECONDS * 1000:g} ms", "", "it waits", ""),
        Limit("objects of one C-MOVE or C-GET", f"{retrieve_plan._MOST_SUB_OPERATIONS:,}", "", f"{CANNOT_COUNT:04X}",
              _FAILED),
        Limit("wait for a C-MOVE destination", _seconds(d.destination_seconds), "dimse.destination_seconds",
              "counted as failed sub-operations", _FAILED),
    ]  # fmt: skip


def _of_http_and_workers() -> list[Limit]:
    stuck = _seconds(coordinator._STUCK_SECONDS)
    return [
        Limit("HTTP request, complete", _seconds(http._REQUEST_SECONDS), "", "closed", ""),
        Limit("HTTP answer, taken", _seconds(http._CONNECTION_SECONDS), "", "closed", ""),
        Limit("worker that leaves an answer unread", stuck, "", "its association ends", "log `line.stalled`"),
        Limit("silent worker", _seconds(2 * supervisor._PULSE_SECONDS), "", "started again", "log `worker.hung`"),
        Limit("keys of studies requested without storing", f"{rights._MOST_UNUSED}", "", "its association ends",
              _BROKEN),
        Limit("descriptors sent beside no message", f"{client._MOST_STRAYS:,}", "", "its association ends", _BROKEN),
    ]  # fmt: skip


def table() -> str:
    """The rows as Markdown."""
    rows = ["| What | Default | Setting | Reaction | Seen in |", "|---|---|---|---|---|"]
    for each in (*_of_associations(), *_of_messages(), *_of_http_and_workers()):
        setting = f"`{each.setting}`" if each.setting else "–"
        rows.append(f"| {each.what} | {each.value} | {setting} | {each.reaction} | {each.seen or '–'} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """The page with the table in its place. Ends the program if the page has no place for it."""
    return with_part(page, BEGIN, END, f"\n\n{table()}\n\n")


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into docs/security/limits.md")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
