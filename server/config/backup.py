"""The settings of backups.

Rule: as in `server.config.settings`, of which this is one table. It holds no secret: what an object store asks for
comes from where AWS's own tools find it.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Backup"]

Place = Annotated[str, Meta(max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=10_000)]


class Backup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where backups go, and how long they are kept ([backup](operations/backup.md))."""

    target: Annotated[
        Place,
        Meta(
            description="Where `coffer backup run` puts snapshots: an absolute path, or `s3://BUCKET/PREFIX` "
            "(`pip install 'coffer-dicom[s3]'`). Empty: say it with each command."
        ),
    ] = ""
    keys: Annotated[
        Place,
        Meta(
            description="Where copies of the keyring go, likewise: a place that whoever has the snapshots does not "
            'have. `"none"`: they are not copied.'
        ),
    ] = ""
    recipients: Annotated[
        Path,
        Meta(
            description="File with the public keys, one a line, that copies of the keyring are sealed to, as "
            "`coffer backup recipient new` makes them. Without it the copies are not sealed: their keys are wrapped "
            "as in the archive.",
            extra={"default": "none"},
        ),
    ] = Path()
    keep_last: Annotated[Count, Meta(description="How many of the newest snapshots `coffer backup prune` keeps.")] = 3
    keep_daily: Annotated[Count, Meta(description="Of how many days it keeps the last snapshot.")] = 14
    keep_weekly: Annotated[Count, Meta(description="Of how many weeks it keeps the last snapshot.")] = 8
    keep_monthly: Annotated[Count, Meta(description="Of how many months it keeps the last snapshot.")] = 12
    minimum: Annotated[
        int,
        Meta(ge=1, le=10_000, description="It refuses to leave fewer whole snapshots than this."),
    ] = 3
    keep_keys_days: Annotated[
        int,
        Meta(
            ge=0,
            le=3_650,
            description="Days that copies of the keyring are kept, at most `[keys] shred_hold_days`, because such a "
            "copy can open what was erased since. The newest copy stays. 0: just so many.",
        ),
    ] = 0
    limit_mb: Annotated[
        float,
        Meta(ge=0, le=100_000, description="Most megabytes a second that a backup sends to its targets. 0: no limit."),
    ] = 0.0
    lock_days: Annotated[
        Count,
        Meta(
            description="Days that an object store with object lock must keep what a run has stored or used again; "
            "set, renewed and checked by each run. 0: none is asked for."
        ),
    ] = 0
