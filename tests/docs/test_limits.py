"""The table of docs/security/limits.md against the code: its values, settings, metrics and log lines, and its tests."""

import ast
import re

from bench.limits import PAGE, rows, written
from coffer.server.config.settings import Config
from coffer.server.observe.metrics import Metrics
from coffer.server.tls.gatekeeper import Gatekeeper
from coffer.server.tls.report import TlsCollector
from tests.conftest import ROOT
from tests.server.test_limits_are_counted import ROWS

DIMSE = "server/dimse/test_limits.py"
TIMES, AFTER = (
    f"{DIMSE}::test_whoever_uses_up_the_time_is_told_so",
    f"{DIMSE}::test_a_message_beyond_the_limits_is_aborted",
)
BEFORE = f"{DIMSE}::test_a_request_beyond_the_limits_is_aborted"
HTTP, PENDING = "server/web/test_http.py", "server/tls/test_handshakes_pending.py"
LISTENER, DOOR = "server/dimse/test_listener.py", "server/tls/test_door.py"
HEADERS, SEARCHES = "index/dicom/test_elements.py", "server/workers/test_searches.py"
REQUESTS = "server/workers/test_worker_requests.py"
TESTED = {
    "connection to complete A-ASSOCIATE-RQ": f"{DIMSE}::test_a_request_that_does_not_come_is_not_waited_for",
    "wait for the next byte of a PDU or message": TIMES,
    "a whole message": f"{DIMSE}::test_a_message_that_drips_ends_and_one_that_flows_does_not",
    "silence between messages": TIMES,
    "life of an association":
        f"{DIMSE}::test_an_association_that_works_ends_between_two_messages_when_its_life_is_over",
    "operation under way when what let the peer in ends":
        "promises/test_a_proof_that_ended.py::test_an_operation_that_does_not_end_is_cut",
    "associations in all": f"{LISTENER}::test_too_many_associations_are_told_so",
    "associations of one address": f"{DIMSE}::test_one_address_has_its_share_of_places",
    "associations of strangers": f"{DIMSE}::test_strangers_leave_the_reserved_places_to_known_peers",
    "new associations a second of one address":
        f"{DIMSE}::test_one_address_that_comes_too_often_is_rejected_and_another_is_not",
    "new associations a second of all strangers":
        f"{DIMSE}::test_strangers_who_come_too_often_are_rejected_and_known_peers_are_not",
    "requests a second of one user or address, stored objects apart":
        f"{DIMSE}::test_too_many_requests_are_answered_later_and_objects_are_stored_at_once",
    "requests read at a time only to be rejected by name":
        f"{LISTENER}::test_whoever_comes_in_a_flood_is_rejected_and_not_cut_off",
    "rejected connections that linger": f"{LISTENER}::test_whoever_comes_in_a_flood_is_rejected_and_not_cut_off",
    "descriptors, threads, memory of the process":
        "peers/test_shortages.py::test_a_shortage_passes_without_a_restart_and_costs_nothing_acknowledged",
    "P-DATA-TF": AFTER,
    "A-ASSOCIATE-RQ": BEFORE,
    "presentation contexts": BEFORE,
    "command set": AFTER,
    "identifier": AFTER,
    "what is in an identifier": f"{HEADERS}::test_identifier_limits",
    "data set of an object": "peers/test_statuses.py::test_stores_are_refused_with_a_cause",
    "objects in memory, all together": "peers/test_large.py::test_half_a_gibibyte_in_and_out_within_a_memory_budget",
    "header that is read for the index": f"{HEADERS}::test_the_element_and_time_limits_hold",
    "deflated data set, inflated for the index":
        f"{HEADERS}::test_a_deflate_bomb_is_bounded_and_a_deflated_header_read",
    "processor time of a query or of a retrieval's search":
        f"{SEARCHES}::test_a_query_that_spends_its_budget_fails_and_says_what_to_narrow",
    "a query's turn before the next address's":
        f"{SEARCHES}::test_hosts_take_turns_however_many_of_their_searches_wait",
    "objects of one C-MOVE or C-GET": "server/dimse/test_suboperations.py::test_more_than_can_be_counted_is_refused",
    "wait for a C-MOVE destination":
        "server/dimse/test_move_destination.py::test_what_the_destination_says_too_late_is_a_failure",
    "TLS handshake, complete": f"{DOOR}::test_a_silent_caller_keeps_nobody_out_and_is_cut_in_time",
    "TLS handshakes under way, in all": f"{PENDING}::test_in_a_crowd_the_address_that_holds_most_makes_room",
    "TLS handshakes under way of one address": f"{PENDING}::test_one_address_cuts_its_own_oldest",
    "TLS handshakes a second of one address":
        f"{DOOR}::test_whoever_begins_too_many_handshakes_is_cut_and_counted",
    "HTTP connections in all": f"{HTTP}::test_a_known_peer_makes_room_last_although_it_holds_most",
    "HTTP connections of one address": f"{HTTP}::test_one_address_has_its_share_of_connections",
    "HTTP requests a second of one address":
        f"{HTTP}::test_whoever_asks_too_often_is_told_so_and_others_are_served",
    "HTTP request, complete": f"{HTTP}::test_a_silent_client_is_sent_away",
    "HTTP answer, taken": f"{HTTP}::test_an_answer_that_nobody_takes_is_given_up",
    "worker that leaves an answer unread": f"{REQUESTS}::test_answers_that_are_not_taken_hold_nobody_up",
    "silent worker": "server/workers/test_workers.py::test_a_process_that_hangs_is_ended_and_started_again",
    "keys of studies requested without storing":
        f"{REQUESTS}::test_who_asks_for_the_keys_of_many_studies_must_store_in_them",
    "descriptors sent beside no message": f"{REQUESTS}::test_descriptors_do_not_pile_up",
}  # fmt: skip


def test_the_table_has_the_values_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run: python -m bench.limits --write"


def test_every_setting_that_it_names_exists() -> None:
    config = Config(archive=ROOT)
    named = [each.setting for each in rows() if each.setting]
    assert len(named) > 20
    for name in named:
        table, _, key = name.partition(".")
        known = getattr(config, table).__struct_fields__
        assert key in known or any(each.startswith(key.removesuffix("*")) for each in known if key.endswith("*")), name


def test_every_log_line_that_it_names_is_documented() -> None:
    named = set(re.findall(r"log `([a-z_.]+)`", PAGE.read_text(encoding="utf-8")))
    events = (ROOT / "docs" / "log-events.md").read_text(encoding="utf-8")
    assert named
    assert all(f"`{name}`" in events for name in named)


def exposed() -> set[str]:
    """What /metrics shows of a server: names, without `_total`, and names with one label."""
    metrics = Metrics()
    keeper = Gatekeeper(Config(archive=ROOT), {})
    metrics.registry.register(TlsCollector(keeper))
    shown = metrics.render().decode()
    for sock in (keeper.outlet, keeper._outlet_end):
        sock.close()
    found = set()
    for name, labels in re.findall(r"^(coffer_\w+?)(?:_total)?(\{[^}]*\})? ", shown, re.MULTILINE):
        found |= {name, name + labels}
    return found | set(re.findall(r"^# TYPE (coffer_\w+?)(?:_total)? ", shown, re.MULTILINE))


def test_every_limit_is_seen_in_a_metric_that_the_server_shows() -> None:
    known = exposed() | {"coffer_short_of", "coffer_restarts", "coffer_unindexed_objects"}  # of an open archive
    for each in rows():
        named = set(re.findall(r"`(coffer_\w+(?:\{[^}]*\})?)`", each.seen))
        assert named, f"{each.what} is seen nowhere"
        assert named <= known, each.what


def test_every_word_for_a_limit_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = {each for each in exposed() if each.startswith("coffer_limits_reached{")}
    assert len(known) > 10
    assert all(f"`{each}`" in page for each in known)


def test_every_row_has_a_test() -> None:
    assert set(TESTED) == {each.what for each in rows()}
    assert set(ROWS) < set(TESTED)  # tested where their mechanism is, and counted in a whole server
    for test in TESTED.values():
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
        functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
        assert name in functions, test
