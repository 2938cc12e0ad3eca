"""Events of access: the list of users that somebody worked under, and the audit trail: who did what with what.

Rule: the list, which lies outside the archive folder, is named by its hash, and nobody on it. The audit trail names
patients by their ID and studies by their UID, because an auditor asks by them, and nothing else of a patient but what a
query asked for. It outlives the erasure of what it names, so it is sealed under a key of its own.
"""

from typing import Annotated, Literal

import msgspec

from coffer.archive.events.event import Event
from coffer.archive.events.fields import Count, Flag, Hex32, Ms, Text, doc
from coffer.archive.format.record import Kind

__all__ = ["MOST_ACTS", "AccessRecorded", "Act", "Actor", "SopClassCount", "Subject", "UsersLoaded"]

MOST_ACTS = 512  # in one event, which has at most 1 MiB


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Actor(_Part, frozen=True, kw_only=True):
    """Who acted, as far as it was proved: `kind` is `peer`, `person`, `service` or `client`; the other fields are empty
    where there is nothing to say."""

    kind: Text
    name: Text = ""
    user: Text = ""
    account: Text = ""
    ae_title: Text = ""
    called_ae: Text = ""
    host: Text = ""
    proof: Text = ""


class SopClassCount(_Part, frozen=True, kw_only=True):
    """How many objects of a SOP class."""

    sop_class: Text
    objects: Count


class Subject(_Part, frozen=True, kw_only=True):
    """Objects of one patient in one study: the patient's ID and its issuer, the Study Instance UID (each empty where
    there is none, or none is known), and how many objects of which SOP classes."""

    patient: Text = ""
    issuer: Text = ""
    study: Text = ""
    classes: tuple[SopClassCount, ...] = ()


class Act(_Part, frozen=True, kw_only=True):
    """One act.

    `action` is a word of the access decision, `code` PS3.15's EventActionCode, `outcome` its EventOutcomeIndicator.
    `stage` is `begun` for what is about to be done and `done` for what was. `resource` and `target` are what the
    decision was asked about. `query` is the identifier of a query, base64, in the encoding `syntax` (a UID).
    """

    at_ms: Ms
    action: Text
    code: Literal["C", "R", "U", "D", "E"]
    stage: Literal["begun", "done"] = "done"
    outcome: Literal[0, 4, 8, 12] = 0
    reason: Text = ""
    who: Actor
    purpose: Text = ""
    resource: Text = ""
    target: Text = ""
    subjects: tuple[Subject, ...] = ()
    query: Text = ""
    syntax: Text = ""


_Act = Annotated[Act, msgspec.Meta(extra={"type": "act"})]


class AccessRecorded(Event, frozen=True, kw_only=True):
    """Acts of one moment, or of one group of records, as the audit trail keeps them."""

    code = "access.recorded"
    kind = Kind.AUDIT

    acts: Annotated[tuple[_Act, ...], msgspec.Meta(min_length=1), doc("what was done, in order")]


class UsersLoaded(Event, frozen=True, kw_only=True):
    """A server or a command began to work under a list of users: an earlier list that comes back is seen."""

    code = "users.loaded"
    version = 2

    users_hash: Annotated[
        Hex32 | None, doc("the SHA-256 of `users.toml`; null: no users, and everybody on the network may do everything")
    ]
    users: Annotated[Count, doc("how many users it has")]
    single_officer: Annotated[Flag, doc("whether one person may hold roles that exclude each other")]
    treatment_without_consent: Annotated[Flag, doc("whether consent is not asked for where patients are treated")]
