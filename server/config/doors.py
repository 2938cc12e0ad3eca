"""The settings of the doors: where DICOM and HTTP listen, how long they wait, and what a caller may cost.

Rule: as in `server.config.settings`, of which these are two tables. No file is opened here.
"""

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["GIB", "KIB", "MIB", "AeTitle", "Dimse", "Host", "Http", "Port", "Seconds"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# PS3.5 6.2: VR AE is 1 to 16 characters of the default repertoire without backslash and control characters; leading
# and trailing spaces do not count, so a configured title has none.
AeTitle = Annotated[str, Meta(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Host = Annotated[str, Meta(min_length=1, max_length=253)]
Port = Annotated[int, Meta(ge=1, le=65535)]
PortOrNone = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Rate = Annotated[float, Meta(ge=1, le=1_000_000)]


class Dimse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The DICOM service: where it listens, what it is called, and how long it waits."""

    ae_title: Annotated[AeTitle, Meta(description="Coffer's own AE title, as the PACS must call it.")] = "COFFER"
    host: Annotated[
        Host,
        Meta(
            description="Name or address to listen on; `0.0.0.0` for all IPv4 addresses, `::` for all IPv4 and IPv6 "
            "addresses. Anything but loopback lets others on the network store and retrieve."
        ),
    ] = "127.0.0.1"
    port: Annotated[PortOrNone, Meta(description="TCP port to listen on without TLS. 0: none.")] = 11112
    tls_port: Annotated[
        PortOrNone,
        Meta(description="TCP port to listen on with TLS, by convention 2762 (PS3.8 9.1.1). 0: none. Needs `[tls]`."),
    ] = 0
    processes: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Processes that receive, seal and send objects, in front of the one that commits. "
            "0: one per core, at most 4.",
        ),
    ] = 0
    require_called_ae: Annotated[
        bool, Meta(description="Refuse associations that call another AE title than `ae_title`.")
    ] = False
    known_peers_only: Annotated[
        bool,
        Meta(
            description="Serve only callers whose AE title is listed under `[[peers]]`. The caller chooses its AE "
            "title: this prevents mistakes, not attacks."
        ),
    ] = False
    max_pdu: Annotated[
        int, Meta(ge=4 * KIB, le=MIB, description="Largest PDU that Coffer announces and accepts, in bytes.")
    ] = 128 * KIB
    max_associations: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Associations open at the same time. Beyond that an idle one is ended: first one that never "
            "did anything, then one of an address that holds more than the newcomer's. If there is none, the newcomer "
            "is rejected as busy.",
        ),
    ] = 50
    max_associations_per_peer: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="The same for one remote address, of which only associations that never did anything are "
            "ended.",
        ),
    ] = 32
    reserved_associations: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Places of `max_associations` that strangers never get, at most half of them. Known are the "
            "addresses of `[[peers]]` and of users, and callers with a user's certificate; while nobody is known, "
            "nothing is reserved.",
        ),
    ] = 10
    associations_per_second: Annotated[
        Rate,
        Meta(
            description="New associations a second from all strangers together; five times as many at once. Each "
            "costs processor time before anybody is proved to be there. Beyond it they are rejected as busy."
        ),
    ] = 200.0
    associations_per_second_per_peer: Annotated[
        Rate,
        Meta(
            description="The same for one remote address, known or not. A modality that opens an association for each "
            "object stays below this, because it waits for the answer each time."
        ),
    ] = 100.0
    requests_per_second: Annotated[
        Rate,
        Meta(
            description="Requests a second of one user, or of one address without user, in each receiving process; "
            "five times as many at once. Objects that are stored do not count. Beyond it the next request is read "
            "later: nothing is refused."
        ),
    ] = 200.0
    handshake_seconds: Annotated[
        Seconds, Meta(description="Time from the TCP connection to a complete A-ASSOCIATE-RQ.")
    ] = 10.0
    gap_seconds: Annotated[Seconds, Meta(description="Longest wait for the next byte inside one PDU or message.")] = (
        15.0
    )
    idle_seconds: Annotated[
        Seconds,
        Meta(
            description="Longest silence of an association between messages. Workstations keep theirs open for "
            "minutes, and each counts towards `max_associations`."
        ),
    ] = 600.0
    message_seconds: Annotated[
        Seconds,
        Meta(
            description="Time for one message, from its first byte to its last; a second more for each 16 KiB that "
            "have arrived, so that a large object may take hours and a message that drips may not."
        ),
    ] = 300.0
    association_seconds: Annotated[
        Seconds,
        Meta(
            description="Longest life of an association, which then ends between two messages. Modalities release "
            "theirs after minutes, and workstations with the working day; whoever stays longer is asked anew who it is."
        ),
    ] = 86_400.0
    destination_seconds: Annotated[
        Seconds, Meta(description="Longest wait for a C-MOVE destination to connect or to answer one C-STORE.")
    ] = 30.0
    query_cpu_seconds: Annotated[
        Seconds,
        Meta(
            description="Processor time that one C-FIND, or the search of one C-MOVE or C-GET, may take. Then it ends "
            "with 0xA700 and a comment that says how to narrow it. One second is enough for about 15,000 studies."
        ),
    ] = 20.0


class Http(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`. They show counts, no patient data."""

    enabled: Annotated[bool, Meta(description="Whether to listen at all.")] = True
    host: Annotated[Host, Meta(description="Name or address to listen on; `::` for all IPv4 and IPv6 addresses.")] = (
        "127.0.0.1"
    )
    port: Annotated[PortOrNone, Meta(description="TCP port to listen on without TLS. 0: none.")] = 11180
    tls_port: Annotated[PortOrNone, Meta(description="TCP port to listen on with TLS. 0: none. Needs `[tls]`.")] = 0
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Connections open at the same time. Beyond that one makes room: first one without a complete "
            "request, of the address that holds most, and one of a known peer last.",
        ),
    ] = 64
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="The same for one remote address, of which the longest without a complete request makes room. "
            "A scraper or probe needs one.",
        ),
    ] = 16
    requests_per_second: Annotated[
        Rate,
        Meta(
            description="Requests a second from one remote address; five times as many at once. Beyond it they are "
            "answered 429 before any page is made. Scrapers come every few seconds."
        ),
    ] = 20.0
