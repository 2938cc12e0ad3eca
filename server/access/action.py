"""What can be requested: every action, the resource it concerns, and its purpose.

Rule: each action is listed here once, under the name that the log keeps for good. A command or a service that does
anything else needs a new name, never a similar one: the name is all that distinguishes actions in the audit trail.
"""

from dataclasses import dataclass
from enum import StrEnum

from coffer.server.access.principal import Principal, PrincipalKind

__all__ = ["ARCHIVE", "AccessRequest", "Action", "PurposeOfUse", "Resource", "ResourceKind"]


class Action(StrEnum):
    """What a principal may request; the values appear in the log."""

    # Over the network, and the same at the command line
    ASSOCIATE = "associate"
    ECHO = "echo"
    STORE = "store"
    FIND = "find"
    RETRIEVE = "retrieve"
    MOVE = "move"  # the objects go to a third party
    # Objects in and out of files
    IMPORT = "import"
    EXPORT = "export"
    # The archive as a whole
    CREATE = "create"
    SERVE = "serve"
    CONFIGURE = "configure"
    RELOAD = "reload"
    CHECK_TLS = "check-tls"
    INSPECT = "inspect"  # figures, lists of keys and holds
    REINDEX = "reindex"
    CONFIRM_CLOCK = "confirm-clock"
    # Evidence
    VERIFY = "verify"
    ACKNOWLEDGE = "acknowledge"
    SIGN = "sign"
    PROVE = "prove"
    REPAIR = "repair"
    RECOVER = "recover"
    ACCEPT_LOSS = "accept-loss"
    RENEW_MARK = "renew-mark"
    # Copies
    BACKUP = "backup"
    RESTORE = "restore"
    PRUNE = "prune"
    REHEARSE = "rehearse"  # a restore of a sample, to prove that backups can be restored
    MAKE_RECIPIENT = "make-recipient"
    # Keys
    AUDIT_KEYS = "audit-keys"
    ROTATE = "rotate"
    REKEY = "rekey"
    ROTATE_SIGNING = "rotate-signing"
    DESTROY_EPOCH = "destroy-epoch"
    PUBLISH_KEYS = "publish-keys"
    SPLIT = "split"
    DRILL = "drill"
    BURN = "burn"
    RECOVER_KEY = "recover-key"
    REGISTER_COPY = "register-copy"
    # What is kept, and what is erased
    HOLD = "hold"
    RELEASE = "release"
    PREVIEW_SHRED = "preview-shred"
    REQUEST_SHRED = "request-shred"
    APPROVE = "approve"
    CANCEL_REQUEST = "cancel-request"
    SHRED = "shred"
    FINISH_SHRED = "finish-shred"
    CERTIFY = "certify"
    # Who may do what
    MANAGE_USERS = "manage-users"
    LIST_USERS = "list-users"
    EXPLAIN = "explain"
    # Readiness with its reasons, and metrics
    MONITOR = "monitor"
    # What the roles provide for and no code does yet
    COMMIT_STORAGE = "commit-storage"
    EXPORT_DEIDENTIFIED = "export-deidentified"
    BREAK_GLASS = "break-glass"
    RECORD_CONSENT = "record-consent"
    REIDENTIFY = "reidentify"
    READ_AUDIT = "read-audit"
    REPLICATE = "replicate"


class ResourceKind(StrEnum):
    """The kind of resource an action concerns; the values appear in the log."""

    ARCHIVE = "archive"
    DESTINATION = "destination"
    ERASURE = "erasure"
    OBJECT = "object"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action concerns: `name` is the AE title of a destination, the SOP class of an object to be stored, or a
    user's name; `agreed` holds the names of the officers who have agreed to an erasure so far. It holds no UID of a
    patient's object and no patient data, so it may be logged."""

    kind: ResourceKind
    name: str = ""
    agreed: tuple[str, ...] = ()

    @classmethod
    def destination(cls, ae_title: str) -> "Resource":
        """Another application entity that is to receive objects."""
        return cls(ResourceKind.DESTINATION, ae_title)

    @classmethod
    def erasure(cls, agreed: tuple[str, ...]) -> "Resource":
        """An erasure to which these officers have agreed."""
        return cls(ResourceKind.ERASURE, agreed=agreed)

    @classmethod
    def arriving(cls, sop_class: str) -> "Resource":
        """An object of this SOP class that is to be stored."""
        return cls(ResourceKind.OBJECT, sop_class)

    @classmethod
    def user(cls, name: str) -> "Resource":
        """The entry of a user."""
        return cls(ResourceKind.USER, name)


ARCHIVE = Resource(ResourceKind.ARCHIVE)


class PurposeOfUse(StrEnum):
    """The purpose, as a code of HL7 PurposeOfUse; the values appear in the log."""

    TREATMENT = "TREAT"
    ADMINISTRATION = "HSYSADMIN"

    @classmethod
    def of(cls, principal: Principal) -> "PurposeOfUse":
        """The assumed purpose: no door accepts a stated one yet."""
        return cls.TREATMENT if principal.kind is PrincipalKind.PEER else cls.ADMINISTRATION


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One request to decide on: who wants to do what, to which resource, for which purpose, and when (milliseconds
    since 1970)."""

    principal: Principal
    action: Action
    resource: Resource
    purpose: PurposeOfUse
    at: int
