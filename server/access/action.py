"""What can be asked for: every action there is, what it is about, and for which purpose.

Rule: each action stands here once, under the name that the log has for good. A command or a service that does something
else than these needs a name of its own, never a near one: the audit trail tells actions apart by nothing else.
"""

from dataclasses import dataclass
from enum import StrEnum

from coffer.server.access.principal import Kind, Principal

__all__ = ["ARCHIVE", "Action", "Asked", "Purpose", "Resource", "ResourceKind"]


class Action(StrEnum):
    """What somebody may ask for; the values appear in the log."""

    # Over the network, and the same at the command line
    ASSOCIATE = "associate"
    ECHO = "echo"
    STORE = "store"
    FIND = "find"
    RETRIEVE = "retrieve"
    MOVE = "move"  # what is retrieved goes to a third party
    # Objects in and out of files
    IMPORT = "import"
    EXPORT = "export"
    # The archive as a whole
    CREATE = "create"
    SERVE = "serve"
    CONFIGURE = "configure"
    INSPECT = "inspect"  # figures, lists of keys and holds: what the archive says of itself
    REINDEX = "reindex"
    # Evidence
    VERIFY = "verify"
    ACKNOWLEDGE = "acknowledge"
    SIGN = "sign"
    PROVE = "prove"
    REPAIR = "repair"
    RECOVER = "recover"
    ACCEPT_LOSS = "accept-loss"
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


class ResourceKind(StrEnum):
    """What sort of thing an action is about; the values appear in the log."""

    ARCHIVE = "archive"
    DESTINATION = "destination"
    ERASURE = "erasure"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is about: `name` is the AE title of a destination; `agreed` are the names of the officers who have
    agreed to an erasure so far. No UID and no patient's data: it may be logged."""

    kind: ResourceKind
    name: str = ""
    agreed: tuple[str, ...] = ()

    @classmethod
    def destination(cls, ae_title: str) -> "Resource":
        """Another application entity that is to get objects."""
        return cls(ResourceKind.DESTINATION, ae_title)

    @classmethod
    def erasure(cls, agreed: tuple[str, ...]) -> "Resource":
        """An erasure to which these officers have agreed."""
        return cls(ResourceKind.ERASURE, agreed=agreed)


ARCHIVE = Resource(ResourceKind.ARCHIVE)


class Purpose(StrEnum):
    """What for, in the words of HL7's PurposeOfUse; the values appear in the log."""

    TREATMENT = "TREAT"
    ADMINISTRATION = "HSYSADMIN"

    @classmethod
    def of(cls, principal: Principal) -> "Purpose":
        """What is taken for granted where nobody says a purpose: no door lets anybody say one yet."""
        return cls.TREATMENT if principal.kind is Kind.PEER else cls.ADMINISTRATION


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: who wants to do what, with what, what for, and when (milliseconds since 1970)."""

    principal: Principal
    action: Action
    resource: Resource
    purpose: Purpose
    at: int
