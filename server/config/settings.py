"""Every setting of Coffer, with its type, bounds, default and meaning in one place.

Rule: a setting is defined here, or in the module of its table, or does not exist; `docs/configuration.md` is rendered
from these classes and a test compares the two. Values are checked when the file is read (`server.config.load`): every
`Config` is valid. It opens no file.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from coffer.server.config.access import Access
from coffer.server.config.backup import Backup
from coffer.server.config.doors import GIB, KIB, MIB, AeTitle, Dimse, Host, Http, Port, Seconds
from coffer.server.config.integrity import Integrity
from coffer.server.config.providers import AwsKms, Pkcs11, VariableName
from coffer.server.config.tls import SpkiHash, Tls

__all__ = [
    "Config",
    "Dimse",
    "Http",
    "Keys",
    "Limits",
    "Logging",
    "Patients",
    "Peer",
    "Retention",
    "Storage",
    "Versions",
]

Issuer = Annotated[str, Meta(pattern=r"^(?! )[^\\\x00-\x1f\x7f]{0,64}(?<! )$")]  # PS3.5 6.2: VR LO
CertificateName = Annotated[str, Meta(pattern=r"^[!-~]{0,253}$")]
Serve = Literal["newest", "first"]


class Peer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known application entity. Every C-MOVE destination must be listed. Repeat the table for each."""

    ae_title: Annotated[AeTitle, Meta(description="AE title of the peer, as C-MOVE requests name it.")]
    host: Annotated[Host, Meta(description="Name or address to connect to.")]
    port: Annotated[Port, Meta(description="TCP port to connect to.")]
    tls: Annotated[bool, Meta(description="Connect with TLS. Needs `[tls]`.")] = False
    tls_name: Annotated[
        CertificateName,
        Meta(
            description="Name or address that the peer's certificate must state as a subject alternative name. "
            "Empty: `host`."
        ),
    ] = ""
    tls_spki_sha256: Annotated[
        SpkiHash,
        Meta(
            description="SHA-256 of the peer's public key, as `coffer tls check` shows it: then nobody else's "
            "certificate will do, and its name is not compared. Empty: any certificate with the right name."
        ),
    ] = ""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one object, and all objects together, may cost. An object beyond a header limit is stored, but not
    indexed."""

    memory_object_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=64 * GIB,
            description="An incoming object larger than this after compression goes to an encrypted spool file.",
        ),
    ] = 64 * MIB
    memory_total_bytes: Annotated[
        int, Meta(ge=MIB, le=1024 * GIB, description="The same for all incoming objects together.")
    ] = 256 * MIB
    max_object_bytes: Annotated[
        int, Meta(ge=MIB, le=1 << 44, description="Larger data sets are refused with status 0xA700.")
    ] = 16 * GIB
    header_bytes: Annotated[
        int, Meta(ge=4 * KIB, le=GIB, description="Bytes of a data set that are read to find the indexed attributes.")
    ] = 16 * MIB
    header_depth: Annotated[int, Meta(ge=1, le=256, description="Levels of nested sequences that are read.")] = 64
    header_elements: Annotated[int, Meta(ge=100, le=10_000_000, description="Elements that are read.")] = 100_000
    header_seconds: Annotated[Seconds, Meta(description="Time that may be spent on the header of one object.")] = 1.0


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted and how it is stored."""

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
            description="Space on the archive's volume that is kept free for keyring, index and checkpoints. A C-STORE "
            "that would use it is refused with 0xA700, a large object already while it is being received.",
        ),
    ] = 256 * MIB
    scrub_days: Annotated[
        float,
        Meta(
            ge=0,
            le=3650,
            description="Days in which the server reads the whole log once in the background and verifies every byte. "
            "0: never.",
        ),
    ] = 30.0


class Keys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the key comes from that opens everything else. **If you lose it, you lose every stored object.**"""

    provider: Annotated[
        Literal["file", "pkcs11", "aws-kms"],
        Meta(
            description='Where the secrets of new key epochs are kept: `"file"`, a file of random bytes with mode '
            '0600; `"pkcs11"`, a hardware security module; `"aws-kms"`. Existing epochs stay where they are.'
        ),
    ] = "file"
    wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long a starting server waits for a provider that cannot be reached before it gives up.",
        ),
    ] = 120.0
    check_seconds: Annotated[
        Seconds, Meta(description="How often a running server checks that the provider still opens the current key.")
    ] = 30.0
    key_file: Annotated[
        Path,
        Meta(
            description="The key file. It must not be inside the archive folder, so that a copy of the archive does "
            "not contain the key.",
            extra={"default": "beside the archive folder, `<archive>.key`"},
        ),
    ] = Path()
    passphrase_env: Annotated[
        VariableName,
        Meta(
            description="Environment variable with a passphrase that is needed in addition to the key file. Empty: "
            "none.",
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
            description="A running server starts a new key epoch when the current one is older than this many days. 0: "
            "only `coffer keys rotate` does. **Each rotation changes the key file: back it up again.**",
        ),
    ] = 0
    shred_hold_days: Annotated[
        float,
        Meta(
            ge=0,
            le=3650,
            description="Days that backups of the keyring are kept, which is how long one may still contain the key of "
            "a shredded study: until then, no shred is reported as effective. Longer: a lost keyring can be recovered "
            "from older backups. Shorter: erasure is complete earlier. You cannot have both.",
        ),
    ] = 35.0
    shred_approvals: Annotated[
        int,
        Meta(
            ge=1,
            le=5,
            description="Officers who must approve before a study is shredded, including the one who requests it. From "
            "2 on, use `coffer shred request` and `coffer shred approve`.",
        ),
    ] = 1
    pkcs11: Pkcs11 = Pkcs11()
    aws: AwsKms = AwsKms()


class Retention(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a study must be kept. Until then `coffer shred` refuses it; nothing is ever deleted automatically."""

    years: Annotated[
        float,
        Meta(
            ge=0,
            le=200,
            description="Years from the study date during which a study must not be shredded. The latest date that any "
            "of its objects has or had counts, for an object without a valid date the day of receipt. 0: no such rule.",
        ),
    ] = 0.0


class Patients(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How patients are distinguished: by Patient ID and Issuer of Patient ID. This changes no byte of any object. After
    a change, the next start rebuilds the index."""

    default_issuer: Annotated[
        Issuer,
        Meta(
            description="Issuer of Patient ID for objects that state none. If empty, an object without issuer gets the "
            "only issuer that its Patient ID has in the same study; across studies it is a patient of its own."
        ),
    ] = ""
    default_issuer_by_ae: Annotated[
        dict[AeTitle, Issuer],
        Meta(
            description="The same for objects from one calling AE title, instead of `default_issuer`: "
            '`default_issuer_by_ae = { CT1 = "WARD" }`. Any caller can claim an AE title.'
        ),
    ] = {}


class Versions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when an instance arrives again with different content. Every version is kept. After a change, the
    next start rebuilds the index."""

    serve: Annotated[
        Serve,
        Meta(
            description='What queries and retrievals return: `"newest"`, the version that arrived last, or `"first"`, '
            "the one that arrived first; `coffer get --version` returns any."
        ),
    ] = "newest"
    serve_by_ae: Annotated[
        dict[AeTitle, Serve],
        Meta(
            description="The same for versions from one calling AE title, instead of `serve`: "
            '`serve_by_ae = { GATEWAY = "first" }`: versions from there replace nothing. Any caller can claim an AE '
            "title."
        ),
    ] = {}


class Logging(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged to standard error. Never patient data; UIDs only as short ids that cannot be linked without a key.
    Lines that cannot be written are lost and counted (`coffer_log_lines_lost_total`); nothing waits for them."""

    format: Annotated[
        Literal["text", "json"], Meta(description='`"text"` for people, `"json"` for a log collector.')
    ] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least important lines that are logged.")
    ] = "info"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Relative paths are relative to the folder of the file."""

    archive: Annotated[
        Path,
        Meta(
            description="The archive folder. `--archive` and `COFFER_ARCHIVE` override it.",
            extra={"default": "`archive-data` beside `coffer.toml`"},
        ),
    ]
    dimse: Dimse = Dimse()
    http: Http = Http()
    tls: Tls = Tls()
    peers: tuple[Peer, ...] = ()
    access: Access = Access()
    limits: Limits = Limits()
    storage: Storage = Storage()
    keys: Keys = Keys()
    retention: Retention = Retention()
    patients: Patients = Patients()
    versions: Versions = Versions()
    integrity: Integrity = Integrity()
    backup: Backup = Backup()
    log: Logging = Logging()
