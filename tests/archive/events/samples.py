"""One event of each class, for the golden encodings and for tests that need any event."""

from typing import Final, TypeVar

from coffer.archive.events.clocks import ClockConfirmed, ClockDoubted, LogEpochBegun
from coffer.archive.events.epochs import EpochAbandoned, EpochDestroyed, EpochRotated
from coffer.archive.events.event import Event
from coffer.archive.events.fields import TreeHead
from coffer.archive.events.holds import HoldAdded, HoldRemoved
from coffer.archive.events.marks import MarkRenewed
from coffer.archive.events.officer import Officer
from coffer.archive.events.rekeys import RekeyOrdered, StudyRekeyed
from coffer.archive.events.repairs import LossAccepted, ObjectsRestored, SegmentRepaired, SegmentsTaken
from coffer.archive.events.shares import (
    CopyGone,
    CopyRegistered,
    KeyRecovered,
    SharesBurned,
    SharesDrilled,
    SharesGivenUp,
    SharesMade,
)
from coffer.archive.events.shreds import (
    CertificateIssued,
    ShredApproved,
    ShredCancelled,
    ShredRequested,
    StudyShredded,
    StudyShreddedAgain,
)
from coffer.archive.events.signing_keys import SigningKeyOrdered, SigningKeyRotated
from coffer.archive.events.users import UsersLoaded

E = TypeVar("E", bound=Event)
BY: Final = Officer("Meyer", "pacs")
STUDY, KEY, HASH, GROUP = "0a" * 16, "0b" * 16, "0c" * 32, "0d" * 8
_HOLD: Final = {"hold": "01020304", "token": STUDY, "reason": "Gericht: Käfer/7", "by": BY}
_REQUEST: Final = {"request": "05060708", "chosen": (STUDY, KEY), "reason": "request 17", "by": BY}
_EPOCH: Final = {"epoch": 2, "provider": "keyfile", "by": BY, "command": "coffer keys rotate"}
_SPLIT: Final = {"group": GROUP, "epoch": 2, "shares": 5, "needed": 3, "by": BY}
_HEADS: Final = {
    "found": TreeHead(records=9, root=HASH),
    "left": TreeHead(records=15, root="0e" * 32),
    "signed": TreeHead(records=15, root="0e" * 32),
    "remembered": None,
}
SAMPLES: Final[tuple[Event, ...]] = (
    HoldAdded(on="study", until="2031-12-31", **_HOLD),
    HoldRemoved(on="patient", until=None, **_HOLD),
    ShredRequested(**_REQUEST),
    ShredApproved(**_REQUEST),
    ShredCancelled(**_REQUEST),
    StudyShredded(
        study=STUDY,
        epoch=2,
        scheduled_ms=1_760_000_000_000,
        until_ms=1_762_592_000_000,
        instances=3,
        versions=4,
        other_patients=1,
        reason="request 17",
        request="05060708",
        officers=(BY, Officer("Schmidt", "root")),
    ),
    StudyShreddedAgain(study=STUDY),
    CertificateIssued(certificate=HASH, is_effective=True, keys=(KEY,), tells_uid=False, tells_reason=True, by=BY),
    EpochRotated(moved=7, resumed=False, keepers=("0001", "0002"), groups=(), **_EPOCH),
    EpochDestroyed(
        keeper=KEY,
        keeper_row="0001",
        caveat="destroy every backup",
        destroyed_ms=1_760_000_000_000,
        effective_ms=1_760_000_000_001,
        share_groups=(GROUP,),
        **_EPOCH,
    ),
    EpochAbandoned(reason="burnt", cause='the token "archive" is not there', share_groups=(), **_EPOCH),
    SharesMade(group_row="0003", **_SPLIT),
    SharesGivenUp(**_SPLIT),
    SharesBurned(group_row="0003", numbers=(1, 4), burned_row="0004", reason="moved", **_SPLIT),
    SharesDrilled(group=GROUP, epoch=2, wrong_shares=0, opened=6, study_keys=7, by=BY),
    KeyRecovered(group=GROUP, epoch=2, wrong_shares=1, provider="keyfile", keepers=("0001",), by=BY),
    RekeyOrdered(new_key=KEY, reason="a core dump", by=BY),
    StudyRekeyed(new_key=KEY, objects=0, first_record=None, last_record=None),
    SigningKeyOrdered(vkey="coffer/a+1+A", reason="yearly", by=BY),
    SigningKeyRotated(
        vkey="coffer/a+2+B", old_vkey="coffer/a+1+A", generation=2, endorsed=TreeHead(records=9, root=HASH)
    ),
    SegmentRepaired(segment=3, taken_records=(17, 18), kept="00000003.seg-damaged-0123456789abcdef"),
    SegmentsTaken(contradiction="the log ends at record 9", **_HEADS),
    LossAccepted(contradiction="", **_HEADS),
    ClockDoubted(wall_ms=2_075_360_000_000, expected_ms=1_760_000_000_000, last_record_ms=None),
    ClockConfirmed(confirmed_ms=1_760_000_000_002, doubted_ms=2_075_360_000_000, reason="NTP was down", by=BY),
    LogEpochBegun(epoch=1, holder="golden", why="an example"),
    MarkRenewed(old_mark=None, mark=TreeHead(records=9, root=HASH), reason="another disk", by=BY),
    ObjectsRestored(snapshot="20261201t020000z-0123456789ab", opened_by=("0" * 32,), files=3, by=BY),
    UsersLoaded(users_hash=HASH, users=12, single_officer=False, treatment_without_consent=True),
    CopyRegistered(copy="01020304", of="keyring", place="tape 17", newest=2, feed=9, ends_ms=1_762_592_000_000, by=BY),
    CopyGone(copy="01020304", of="provider", place="safe", newest=2, reason="in the shredder", by=BY),
)
ANY: Final = RekeyOrdered(new_key=KEY, reason="a test", by=BY)  # which nothing is decided by


def sample(of: type[E]) -> E:
    """The sample of a class."""
    return next(each for each in SAMPLES if isinstance(each, of))
