"""Every setting of Coffer, with its type, bounds, default and meaning in one place.

Rule: a setting exists here or not at all; `docs/configuration.md` is rendered from these classes and a test compares.
Values are checked where the file is read (`server.config.load`): a `Config` that exists is valid. It opens no file.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "AwsKms",
    "Config",
    "Dimse",
    "Http",
    "Keys",
    "Limits",
    "Log",
    "Patients",
    "Peer",
    "Pkcs11",
    "Retention",
    "Storage",
    "Versions",
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# PS3.5 6.2: VR AE is 1 to 16 characters of the default repertoire without backslash and control characters; leading
# and trailing spaces do not count, so a configured title has none.
AeTitle = Annotated[str, Meta(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Host = Annotated[str, Meta(min_length=1, max_length=253)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
VariableName = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")]
TokenLabel = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,32}$")]
Region = Annotated[str, Meta(pattern=r"^([a-z]{2}(-[a-z]+)+-[0-9]+)?$")]
Issuer = Annotated[str, Meta(pattern=r"^(?! )[^\\\x00-\x1f\x7f]{0,64}(?<! )$")]  # PS3.5 6.2: VR LO
Serve = Literal["newest", "first"]
Url = Annotated[str, Meta(pattern=r"^(https?://[!-~]{1,250})?$")]


class Dimse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The DICOM service: where it listens, what it calls itself, and how long it waits."""

    ae_title: Annotated[AeTitle, Meta(description="Coffer's own AE title, as the PACS must call it.")] = "COFFER"
    host: Annotated[
        Host,
        Meta(
            description="Name or address to listen on: one, or all of them with `0.0.0.0` (IPv4) or `::` (IPv4 and "
            "IPv6). Anything but loopback lets others on the network store and retrieve."
        ),
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port to listen on.")] = 11112
    processes: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Processes that receive, seal and hand out objects, in front of the one that commits. "
            "0: as many as there are cores, at most 4.",
        ),
    ] = 0
    require_called_ae: Annotated[
        bool, Meta(description="Refuse associations that call another AE title than `ae_title`.")
    ] = False
    known_peers_only: Annotated[
        bool,
        Meta(
            description="Serve only callers whose AE title stands under `[[peers]]`. An AE title is chosen by the "
            "caller: this prevents mistakes, not attacks."
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
            description="Associations open at the same time. Above it an idle one gives up its place: first one that "
            "never did anything, then one of an address that holds more than the newcomer's; where there is none, the "
            "newcomer is rejected as busy.",
        ),
    ] = 50
    max_associations_per_peer: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="The same for one remote address, where only associations that never did anything give up "
            "their place.",
        ),
    ] = 32
    handshake_seconds: Annotated[
        Seconds, Meta(description="Time from the TCP connection to a complete A-ASSOCIATE-RQ.")
    ] = 10.0
    gap_seconds: Annotated[Seconds, Meta(description="Longest wait for the next byte inside one PDU or message.")] = (
        15.0
    )
    idle_seconds: Annotated[
        Seconds,
        Meta(
            description="Longest silence of an association between messages. Workstations keep theirs for minutes, "
            "and each counts among `max_associations`."
        ),
    ] = 600.0
    destination_seconds: Annotated[
        Seconds, Meta(description="Longest wait for a C-MOVE destination to connect or to answer one C-STORE.")
    ] = 30.0
    query_cpu_seconds: Annotated[
        Seconds,
        Meta(
            description="Processor time that one C-FIND, or the search of one C-MOVE or C-GET, may take; then it ends "
            "with 0xA700 and a comment that says what to narrow. One second answers about 15,000 studies."
        ),
    ] = 20.0


class Http(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`. They hold no patient data, but counts."""

    enabled: Annotated[bool, Meta(description="Whether to listen at all.")] = True
    host: Annotated[
        Host, Meta(description="Name or address to listen on; `::` for every address of IPv4 and IPv6.")
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port to listen on.")] = 11180


class Peer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known application entity; every C-MOVE destination must be one. Repeat the table for each."""

    ae_title: Annotated[AeTitle, Meta(description="AE title of the peer, as it stands in C-MOVE requests.")]
    host: Annotated[Host, Meta(description="Name or address to connect to.")]
    port: Annotated[Port, Meta(description="TCP port to connect to.")]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one object, and all together, may cost. Beyond a header limit an object is stored, but not indexed."""

    memory_object_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=64 * GIB,
            description="An incoming object that takes more than this, compressed, goes to an encrypted spool file.",
        ),
    ] = 64 * MIB
    memory_total_bytes: Annotated[
        int, Meta(ge=MIB, le=1024 * GIB, description="The same for all incoming objects together.")
    ] = 256 * MIB
    max_object_bytes: Annotated[
        int, Meta(ge=MIB, le=1 << 44, description="A larger data set is refused with status 0xA700.")
    ] = 16 * GIB
    header_bytes: Annotated[
        int, Meta(ge=4 * KIB, le=GIB, description="Bytes of a data set that are read to find what is indexed.")
    ] = 16 * MIB
    header_depth: Annotated[int, Meta(ge=1, le=256, description="Nested sequences that are followed.")] = 64
    header_elements: Annotated[int, Meta(ge=100, le=10_000_000, description="Elements that are looked at.")] = 100_000
    header_seconds: Annotated[Seconds, Meta(description="Time that may be spent on the header of one object.")] = 1.0


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted and how it is laid down."""

    accept_unknown_sop_classes: Annotated[
        bool, Meta(description="Store private and unknown storage SOP classes too.")
    ] = True
    segment_bytes: Annotated[
        int, Meta(ge=MIB, le=1024 * GIB, description="A log segment is sealed when it has this size.")
    ] = GIB
    reserve_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 44,
            description="Space on the archive's volume that is kept free for keyring, index and checkpoints: a store "
            "that would touch it is refused with 0xA700, a large object while it still comes in.",
        ),
    ] = 256 * MIB
    scrub_days: Annotated[
        float,
        Meta(
            ge=0,
            le=3650,
            description="Days in which the server reads the whole log once, in the background, and checks every byte "
            "of it. 0: never.",
        ),
    ] = 30.0


class Pkcs11(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hardware security module over PKCS#11 (`pip install 'coffer-dicom[pkcs11]'`). The PIN is never in this file."""

    module: Annotated[
        Path,
        Meta(description="The HSM's own PKCS#11 library, a `.so` file.", extra={"default": "none"}),
    ] = Path()
    token: Annotated[TokenLabel, Meta(description="Label of the token.")] = ""
    pin_env: Annotated[VariableName, Meta(description="Environment variable that holds the user PIN. Empty: none.")] = (
        ""
    )
    pin_file: Annotated[
        Path | None,
        Meta(
            description="File whose first line is the user PIN (for example a systemd credential), instead of the "
            "variable.",
            extra={"default": "none"},
        ),
    ] = None


class AwsKms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AWS Key Management Service (`pip install 'coffer-dicom[aws]'`). Credentials come from where AWS's own tools find
    them: the instance's role, the environment, `~/.aws`; never from this file."""

    region: Annotated[Region, Meta(description="Region of the keys. Empty: as AWS's tools find it.")] = ""
    endpoint: Annotated[Url, Meta(description="A private endpoint. Empty: the region's public one.")] = ""
    deletion_days: Annotated[
        int,
        Meta(ge=7, le=30, description="Days between the order to destroy a key and its end; AWS allows 7 to 30."),
    ] = 30
    timeout_seconds: Annotated[
        Seconds, Meta(description="Longest wait for one answer; a request is tried three times.")
    ] = 5.0


class Keys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the key comes from that opens everything else. **Who loses it loses every stored object.**"""

    provider: Annotated[
        Literal["file", "pkcs11", "aws-kms"],
        Meta(
            description='Who keeps the secrets of new key epochs: `"file"`, a file of random bytes with mode 0600; '
            '`"pkcs11"`, a hardware security module; `"aws-kms"`. Each epoch that exists stays where it is.'
        ),
    ] = "file"
    wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long a starting server waits for a provider that cannot be reached, before it gives up.",
        ),
    ] = 120.0
    check_seconds: Annotated[
        Seconds, Meta(description="How often a running server asks whether the provider still opens the current key.")
    ] = 30.0
    key_file: Annotated[
        Path,
        Meta(
            description="The key file. It must not be inside the archive folder, so that who takes a copy of the "
            "archive does not take the key too.",
            extra={"default": "beside the archive folder itself, `<archive>.key`"},
        ),
    ] = Path()
    passphrase_env: Annotated[
        VariableName,
        Meta(
            description="Environment variable that holds a passphrase, needed besides the key file. Empty: none.",
        ),
    ] = ""
    passphrase_file: Annotated[
        Path | None,
        Meta(
            description="File whose first line is the passphrase (for example a systemd credential), instead of the "
            "variable.",
            extra={"default": "none"},
        ),
    ] = None
    rotate_days: Annotated[
        int,
        Meta(
            ge=0,
            le=3650,
            description="A running server makes a new key epoch when the present one is older than so many days. 0: "
            "only `coffer keys rotate` does. **A key file changes with each rotation: copy it again.**",
        ),
    ] = 0
    shred_hold_days: Annotated[
        float,
        Meta(
            ge=0,
            le=3650,
            description="Days that backups of the keyring are kept, which is how long a shredded study may still be in "
            "one: before, no shred is called effective. Longer: a lost keyring can be recovered from older backups. "
            "Shorter: erasure is complete earlier. It cannot be both.",
        ),
    ] = 35.0
    shred_approvals: Annotated[
        int,
        Meta(
            ge=1,
            le=5,
            description="Officers who must agree before a study is shredded, the one who asks for it included. From 2 "
            "on, `coffer shred request` asks and `coffer shred approve` agrees.",
        ),
    ] = 1
    pkcs11: Pkcs11 = Pkcs11()
    aws: AwsKms = AwsKms()


class Retention(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a study must be kept. Before, `coffer shred` refuses it; nothing is ever deleted by itself."""

    years: Annotated[
        float,
        Meta(
            ge=0,
            le=200,
            description="Years from the study date in which a study is not shredded: the latest one that any object of "
            "it has or had; an object without a valid date counts from the day of its receipt. 0: no such rule.",
        ),
    ] = 0.0


class Patients(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How patients are told apart: by Patient ID and Issuer of Patient ID. This changes no byte of any object. When it
    is changed, the next start fills the index anew."""

    default_issuer: Annotated[
        Issuer,
        Meta(
            description="Issuer of Patient ID of objects that name none. Without it, an object without issuer belongs "
            "to the one issuer that its Patient ID has in the same study, and across studies to a patient of its own."
        ),
    ] = ""
    default_issuer_by_ae: Annotated[
        dict[AeTitle, Issuer],
        Meta(
            description="The same for objects from one calling AE title, instead of `default_issuer`: "
            '`default_issuer_by_ae = { CT1 = "WARD" }`. Anyone can claim an AE title.'
        ),
    ] = {}


class Versions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when an instance comes again with other content. Every version is kept. When this is changed, the
    next start fills the index anew."""

    serve: Annotated[
        Serve,
        Meta(
            description='What queries and retrievals give: `"newest"`, the version that came last, or `"first"`, the '
            "one that came first; `coffer get --version` gives any."
        ),
    ] = "newest"
    serve_by_ae: Annotated[
        dict[AeTitle, Serve],
        Meta(
            description="The same for versions from one calling AE title, instead of `serve`: "
            '`serve_by_ae = { GATEWAY = "first" }` lets that one replace nothing. Anyone can claim an AE title.'
        ),
    ] = {}


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to standard error. Never patient data; UIDs only as short ids that a key makes unlinkable. Lines
    that cannot be written are lost and counted (`coffer_log_lines_lost_total`); nothing waits for them."""

    format: Annotated[
        Literal["text", "json"], Meta(description='`"text"` for people, `"json"` for a log collector.')
    ] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least important lines that are written.")
    ] = "info"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Relative paths are relative to the folder the file stands in."""

    archive: Annotated[
        Path,
        Meta(
            description="The archive folder. `--archive` and `COFFER_ARCHIVE` go before it.",
            extra={"default": "`archive-data` beside `coffer.toml`"},
        ),
    ]
    dimse: Dimse = Dimse()
    http: Http = Http()
    peers: tuple[Peer, ...] = ()
    limits: Limits = Limits()
    storage: Storage = Storage()
    keys: Keys = Keys()
    retention: Retention = Retention()
    patients: Patients = Patients()
    versions: Versions = Versions()
    log: Log = Log()
