"""Events of the key that signs checkpoints: its rotation, ordered and carried out.

Rule: keys are named as C2SP verifier keys, which are public.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Count, Head, Reason, Text, doc
from coffer.archive.format.record import Kind

__all__ = ["SigningKeyOrdered", "SigningKeyRotated"]

_Vkey = Annotated[Text, doc("the verifier key of the new signing key")]


class SigningKeyOrdered(Event, frozen=True, kw_only=True):
    """Another signing key was created and ordered to take the place of the current one."""

    code = "signing_key.ordered"

    vkey: _Vkey
    reason: Reason
    by: By


class SigningKeyRotated(Event, frozen=True, kw_only=True):
    """Another key signs checkpoints from now on, endorsed by the one before."""

    code = "signing_key.rotated"
    kind = Kind.SIGNING_KEY_ROTATED

    vkey: _Vkey
    old_vkey: Annotated[Text, doc("the verifier key of the signing key before")]
    generation: Annotated[Count, doc("the number of the signing key: 1 is the archive's first")]
    endorsed: Annotated[Head, doc("the tree from which on the new key signs")]
