"""The words under which monitoring sees that a limit was reached: why we aborted, and what was bounded.

Rule: closed sets, the labels of metrics. A limit that fails an operation needs no word: `coffer_failures` shows it.
"""

from enum import StrEnum

__all__ = ["Abort", "Limit", "Rejected"]


class Rejected(StrEnum):
    """Why a newcomer was rejected, or another one ended for it; the label of `coffer_associations_rejected`."""

    APPLICATION_CONTEXT = "application-context"
    CALLING_AE = "calling-ae"
    CALLED_AE = "called-ae"
    USER_IDENTITY = "user-identity"
    LIMIT = "limit"
    RATE = "rate"
    FLOOD = "flood"
    IDLE = "idle"
    CONGESTION = "congestion"


class Abort(StrEnum):
    """Why we ended an association, or a connection before there was one; the label of `coffer_aborts`."""

    FIRST_PDU = "first-pdu"
    GAP = "gap"
    MESSAGE = "message"
    IDLE = "idle"
    LIFETIME = "lifetime"
    PDU_LENGTH = "pdu-length"
    CONTEXTS = "contexts"
    COMMAND_LENGTH = "command-length"
    IDENTIFIER_LENGTH = "identifier-length"
    PROTOCOL = "protocol"  # any other violation of PS3.7 or PS3.8
    ORDERED = "ordered"  # another association needs the place, or the server stops
    WITHDRAWN = "withdrawn"  # what let the peer in does so no longer
    INTERNAL = "internal"


class Limit(StrEnum):
    """A limit at which something waits, is dropped or goes another way; the label of `coffer_limits_reached`."""

    REQUEST_RATE = "request-rate"
    RESERVE = "reserve"
    MEMORY = "memory"
    QUERY_TURN = "query-turn"
    HTTP_REQUEST = "http-request"
    HTTP_ANSWER = "http-answer"
    HTTP_CONNECTIONS = "http-connections"
    HTTP_ADDRESS = "http-address"
    HTTP_RATE = "http-rate"
    WORKER_ANSWER = "worker-answer"
    WORKER_RULE = "worker-rule"
