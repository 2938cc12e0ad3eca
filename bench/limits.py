"""The table of limits in docs/security/limits.md, with the values that the code has.

Rule: a value is never typed here: it is that of a setting's default or of the constant that enforces it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.marked import with_part
from coffer.index.dicom import headers
from coffer.server.config.settings import Dimse, Http, Limits
from coffer.server.config.tls import Tls
from coffer.server.dimse import listener, refusal
from coffer.server.dimse.protocol import channel, command, negotiation, pdu
from coffer.server.dimse.protocol.negotiation import Rejection
from coffer.server.dimse.protocol.status import CANNOT_COUNT
from coffer.server.dimse.scp import retrieve_plan, session
from coffer.server.host.rate import BURST_SECONDS
from coffer.server.identity import withdrawal
from coffer.server.observe.reached import Abort, Rejected
from coffer.server.observe.reached import Limit as Reached
from coffer.server.tls import handshake
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


def _rate(count: float) -> str:
    return f"{count:g}; {count * BURST_SECONDS:,g} at once"


def _counted(word: Rejected) -> str:
    return f'`coffer_associations_rejected{{reason="{word}"}}`'


def _aborted(word: Abort) -> str:
    return f'`coffer_aborts{{reason="{word}"}}`'


def _reached(word: Reached) -> str:
    return f'`coffer_limits_reached{{limit="{word}"}}`'


def _failed_handshake(outcome: str) -> str:
    return f'`coffer_tls_handshakes{{outcome="{outcome}"}}`'


_FAILED: Final = "`coffer_failures`, by service and status"
_UNINDEXED: Final = "`coffer_unindexed_objects`, log, `coffer status`: not indexed"


def _of_associations() -> list[Limit]:
    d, too_many, silent = Dimse(), negotiation.TOO_MANY, _abort(pdu.NOT_SPECIFIED)
    return [
        Limit("connection to complete A-ASSOCIATE-RQ", _seconds(d.handshake_seconds), "dimse.handshake_seconds",
              "closed (PS3.8 AA-2)", _aborted(Abort.FIRST_PDU)),
        Limit("wait for the next byte of a PDU or message", _seconds(d.gap_seconds), "dimse.gap_seconds", silent,
              _aborted(Abort.GAP)),
        Limit("a whole message", f"{_seconds(d.message_seconds)}, and 1 s more for each "
              f"{_bytes(channel.LEAST_BYTES_A_SECOND)}", "dimse.message_seconds", silent, _aborted(Abort.MESSAGE)),
        Limit("silence between messages", _seconds(d.idle_seconds), "dimse.idle_seconds", silent,
              _aborted(Abort.IDLE)),
        Limit("life of an association", f"{d.association_seconds / 3600:g} h", "dimse.association_seconds",
              f"{silent}, between two messages", _aborted(Abort.LIFETIME)),
        Limit("operation under way when what let the peer in ends", _seconds(withdrawal.WITHDRAWAL_SECONDS), "",
              f"{silent} between two messages, else cut", _aborted(Abort.WITHDRAWN)),
        Limit("associations in all", f"{d.max_associations}", "dimse.max_associations",
              f"an idle one is ended, else {_rejected(too_many)}",
              f"{_counted(Rejected.IDLE)}, {_counted(too_many.word)}"),
        Limit("associations of one address", f"{d.max_associations_per_peer}", "dimse.max_associations_per_peer",
              f"one that never did anything is ended, else {_rejected(too_many)}",
              f"{_counted(Rejected.IDLE)}, {_counted(too_many.word)}"),
        Limit("associations of strangers", f"all but {d.reserved_associations}, at least half",
              "dimse.reserved_associations", f"a stranger's idle one is ended, else {_rejected(too_many)}",
              f"{_reached(Reached.RESERVE)}, {_counted(too_many.word)}"),
        Limit("new associations a second of one address", _rate(d.associations_per_second_per_peer),
              "dimse.associations_per_second_per_peer", f"{_rejected(too_many)}, unread", _counted(Rejected.RATE)),
        Limit("new associations a second of all strangers", _rate(d.associations_per_second),
              "dimse.associations_per_second", f"{_rejected(too_many)}, unread", _counted(Rejected.RATE)),
        Limit("requests a second of one user or address, stored objects apart", _rate(d.requests_per_second),
              "dimse.requests_per_second", "the next one is read later", _reached(Reached.REQUEST_RATE)),
        Limit("requests read at a time only to be rejected by name", f"{listener._MOST_REFUSALS}", "",
              f"{_rejected(too_many)}, unread", _counted(Rejected.FLOOD)),
        Limit("rejected connections that linger", f"{refusal.MOST_LINGERING}", "", "closed at once",
              _counted(Rejected.FLOOD)),
        Limit("descriptors, threads, memory of the process", "what the system gives", "",
              _rejected(negotiation.CONGESTED),
              f"{_counted(negotiation.CONGESTED.word)}, `coffer_short_of`, `/readyz`"),
    ]  # fmt: skip


def _of_messages() -> list[Limit]:
    d, limits, query, invalid = Dimse(), Limits(), headers.QUERY_LIMITS, _abort(pdu.INVALID_VALUE)
    return [
        Limit("P-DATA-TF", _bytes(d.max_pdu), "dimse.max_pdu", f"{invalid}, unread", _aborted(Abort.PDU_LENGTH)),
        Limit("A-ASSOCIATE-RQ", _bytes(pdu.MAX_ASSOCIATE_BYTES), "", f"{invalid}, unread",
              _aborted(Abort.PDU_LENGTH)),
        Limit("presentation contexts", f"{negotiation._MAX_CONTEXTS}", "", invalid, _aborted(Abort.CONTEXTS)),
        Limit("command set", _bytes(command.MAX_COMMAND_BYTES), "", invalid, _aborted(Abort.COMMAND_LENGTH)),
        Limit("identifier", _bytes(session.MAX_IDENTIFIER_BYTES), "", invalid, _aborted(Abort.IDENTIFIER_LENGTH)),
        Limit("what is in an identifier", f"{query.elements:,} elements, {query.depth} levels, "
              f"{headers._MOST_VALUES:,} values of a key", "", "A900", _FAILED),
        Limit("data set of an object", _bytes(limits.max_object_bytes), "limits.max_object_bytes", "A700", _FAILED),
        Limit("objects in memory, all together", _bytes(limits.memory_total_bytes), "limits.memory_total_bytes",
              "to an encrypted spool file", _reached(Reached.MEMORY)),
        Limit("header that is read for the index", f"{_bytes(limits.header_bytes)}, {limits.header_elements:,} "
              f"elements, {limits.header_depth} levels, {_seconds(limits.header_seconds)}", "limits.header_*",
              "0000; indexed as far as it was read", _UNINDEXED),
        Limit("deflated data set, inflated for the index", _bytes(headers._MOST_INFLATED), "",
              "0000; indexed as far as it was read; the bytes are stored deflated", _UNINDEXED),
        Limit("processor time of a query or of a retrieval's search", _seconds(d.query_cpu_seconds),
              "dimse.query_cpu_seconds", "A700", _FAILED),
        Limit("a query's turn before the next address's", f"{turns.SLICE_SECONDS * 1000:g} ms", "", "it waits",
              _reached(Reached.QUERY_TURN)),
        Limit("objects of one C-MOVE or C-GET", f"{retrieve_plan._MOST_SUB_OPERATIONS:,}", "", f"{CANNOT_COUNT:04X}",
              _FAILED),
        Limit("wait for a C-MOVE destination", _seconds(d.destination_seconds), "dimse.destination_seconds",
              "counted as failed sub-operations", _FAILED),
    ]  # fmt: skip


def _of_tls_and_http() -> list[Limit]:
    t, h = Tls(), Http()
    return [
        Limit("TLS handshake, complete", _seconds(t.handshake_seconds), "tls.handshake_seconds", "closed",
              _failed_handshake(handshake.SLOW)),
        Limit("TLS handshakes under way, in all", f"{t.max_handshakes}", "tls.max_handshakes",
              "the oldest of the address with most is closed", _failed_handshake(handshake.TOO_MANY)),
        Limit("TLS handshakes under way of one address", f"{t.max_handshakes_per_address}",
              "tls.max_handshakes_per_address", "its oldest is closed", _failed_handshake(handshake.TOO_MANY)),
        Limit("TLS handshakes a second of one address", _rate(t.handshakes_per_second), "tls.handshakes_per_second",
              "closed", _failed_handshake(handshake.TOO_MANY)),
        Limit("HTTP connections in all", f"{h.max_connections}", "http.max_connections",
              "one without a request is closed, strangers' first", _reached(Reached.HTTP_CONNECTIONS)),
        Limit("HTTP connections of one address", f"{h.max_connections_per_address}",
              "http.max_connections_per_address", "its longest without a request is closed",
              _reached(Reached.HTTP_ADDRESS)),
        Limit("HTTP requests a second of one address", _rate(h.requests_per_second), "http.requests_per_second",
              "429", _reached(Reached.HTTP_RATE)),
        Limit("HTTP request, complete", _seconds(http._REQUEST_SECONDS), "", "closed",
              _reached(Reached.HTTP_REQUEST)),
        Limit("HTTP answer, taken", _seconds(http._CONNECTION_SECONDS), "", "closed", _reached(Reached.HTTP_ANSWER)),
    ]  # fmt: skip


def _of_workers() -> list[Limit]:
    broken = f"{_reached(Reached.WORKER_RULE)}, log `worker.rule_broken`"
    return [
        Limit("worker that leaves an answer unread", _seconds(coordinator._STUCK_SECONDS), "", "its association ends",
              f"{_reached(Reached.WORKER_ANSWER)}, log `line.stalled`"),
        Limit("silent worker", _seconds(2 * supervisor._PULSE_SECONDS), "", "started again",
              "`coffer_restarts`, log `worker.hung`"),
        Limit("keys of studies requested without storing", f"{rights._MOST_UNUSED}", "", "its association ends",
              broken),
        Limit("descriptors sent beside no message", f"{client._MOST_STRAYS:,}", "", "its association ends", broken),
    ]  # fmt: skip


def rows() -> list[Limit]:
    """Every limit, in the order of the page."""
    return [*_of_associations(), *_of_messages(), *_of_tls_and_http(), *_of_workers()]


def table() -> str:
    """The rows as Markdown."""
    lines = ["| What | Default | Setting | Reaction | Seen in |", "|---|---|---|---|---|"]
    for each in rows():
        setting = f"`{each.setting}`" if each.setting else "–"
        lines.append(f"| {each.what} | {each.value} | {setting} | {each.reaction} | {each.seen} |")
    return "\n".join(lines)


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
