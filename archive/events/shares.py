"""Events of what lies elsewhere and helps to open the keyring: key shares, made, given up, burned, drilled, and used to
recover a key; and copies of the keyring or of what opens it.

Rule: no share is ever in an event; a group is recorded as the bytes of its keyring row before a share of it exists. A
copy is named by its place, as it was typed.
"""

from typing import Annotated, Literal

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Count, Epoch, Hex4, Hex8, Keepers, Ms, Provider, Reason, Row, Text, doc

__all__ = ["CopyGone", "CopyRegistered", "KeyRecovered", "SharesBurned", "SharesDrilled", "SharesGivenUp", "SharesMade"]

_GroupRow = Annotated[Row, doc("the row of the group of shares")]


class _GroupEvent(Event, frozen=True, kw_only=True):
    group: Annotated[Hex8, doc("the id of the group of shares")]
    epoch: Epoch
    by: By


class _SplitEvent(_GroupEvent, frozen=True, kw_only=True):
    shares: Annotated[Count, doc("how many shares the group has")]
    needed: Annotated[Count, doc("how many of them give the key")]


class SharesMade(_SplitEvent, frozen=True, kw_only=True):
    """An epoch's key was split into shares, which are about to be written."""

    code = "shares.made"

    group_row: _GroupRow


class SharesGivenUp(_SplitEvent, frozen=True, kw_only=True):
    """A split was interrupted, and what it had written of its shares was removed."""

    code = "shares.given_up"


class SharesBurned(_SplitEvent, frozen=True, kw_only=True):
    """An officer stated that shares were collected and burned."""

    code = "shares.burned"

    group_row: _GroupRow
    numbers: Annotated[tuple[Count, ...], doc("the numbers of the shares that were stated, in ascending order")]
    burned_row: Annotated[Row, doc("the row of all burned shares of the group, with these")]
    reason: Reason


class _UseEvent(_GroupEvent, frozen=True, kw_only=True):
    wrong_shares: Annotated[Count, doc("how many of the shares given were wrong")]


class SharesDrilled(_UseEvent, frozen=True, kw_only=True):
    """Shares were tried, and what their key opens was counted."""

    code = "shares.drilled"

    opened: Annotated[Count, doc("how many study keys the shares opened")]
    study_keys: Annotated[Count, doc("how many study keys the archive has")]


class KeyRecovered(_UseEvent, frozen=True, kw_only=True):
    """An epoch's key was recovered from shares, and wrapped by another provider."""

    code = "key.recovered"

    provider: Provider
    keepers: Keepers


class _CopyEvent(Event, frozen=True, kw_only=True):
    copy: Annotated[Hex4, doc("the id of the copy")]
    of: Annotated[Literal["keyring", "provider"], doc("what was copied: the keyring, or what opens its epochs")]
    place: Annotated[Text, doc("where the copy is, as it was typed")]
    newest: Annotated[Epoch, doc("the newest epoch that it can have")]
    by: By


class CopyRegistered(_CopyEvent, frozen=True, kw_only=True):
    """A copy was registered: until its end, no erasure is effective whose key it can yield."""

    code = "copy.registered"

    feed: Annotated[Count, doc("the newest entry of the keyring's feed that it can have; 0: it is older than it says")]
    ends_ms: Annotated[Ms | None, doc("when it ends; null: when somebody reports that it is destroyed")]


class CopyGone(_CopyEvent, frozen=True, kw_only=True):
    """Somebody reported that a copy was destroyed."""

    code = "copy.gone"

    reason: Reason
