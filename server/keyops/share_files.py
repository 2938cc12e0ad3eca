"""Write the shares of a new group into a folder of their own: all or none, and none that the keyring does not know.

Rule: the group and its event are in the keyring before the first share is on any disk; the folder appears complete. A
split that was stopped is resumed by running the same command again: complete shares are kept, others are removed.
Shares are never inside the archive folder. Order, and the state after a stop in between: docs/keys.md.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coffer.archive.events.event import Event
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shares import SharesBurned, SharesGivenUp, SharesMade
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.shamir import Group, Share, combine
from coffer.keys.disk import durable, opening
from coffer.keys.disk.syscalls import SYSTEM, Syscalls, sync_folder
from coffer.keys.errors import ConfigError, InputError, IntegrityError, NotFoundError
from coffer.keys.keyring.keepers import Burned
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.shares import groups
from coffer.keys.shares.text import file_name, parse, render
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action
from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config
from coffer.server.keyops.key_change import changing_keys
from coffer.server.mailbox import outbox

__all__ = ["Split", "burn_shares", "split_key", "write_shares"]

_LONGEST = 64 << 10


@dataclass(frozen=True, slots=True)
class Split:
    """The shares of a group by file, and whether an earlier call had already written them."""

    shares: dict[Path, Share]
    resumed: bool

    @property
    def of(self) -> Group:
        """The group."""
        return next(iter(self.shares.values())).of


def split_key(config: Config, threshold: int, count: int, folder: Path, officer: Principal) -> Split:
    """Write shares of the current epoch's key into a new `folder`, mode 0600; durable on return, all or none,
    and their group is in the signed log.

    Works beside a running server, and may be stopped and repeated at any point. A folder that holds exactly such shares
    is left as it is. Raises ConfigError if it holds anything else or is inside the archive, InputError for impossible
    numbers, and as `changing_keys`.
    """
    policy_of(config).require(officer, Action.SPLIT)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  the link's own name is meant
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(config.archive)):
        raise ConfigError(
            f"{folder} is inside the archive", hint="choose a folder that no backup of the archive includes"
        )
    opening.distrust(folder.parent)  # others may have planted links beside it
    with changing_keys(config) as archive:
        keyring = archive.keyring
        if os.path.lexists(folder):
            made = _found(keyring, folder, threshold, count)
            sync_folder(folder.parent)  # the stop may have come between the rename and its sync
            groups.end(keyring, made.of)
            return made
        _clear(keyring, folder, officer)
        return _split(keyring, threshold, count, folder, officer)


def burn_shares(
    config: Config, group: str, numbers: Sequence[int], officer: Principal, reason: str
) -> tuple[Group, Burned]:
    """Record an officer's statement that these shares of a group were collected and burned; durable and signed on
    return.

    Returns the group and all of its shares burned by now. Works beside a running server. Raises NotFoundError for a
    group that the archive never had, InputError for a number that none of its shares has, and as `changing_keys`.
    """
    policy_of(config).require(officer, Action.BURN)
    with changing_keys(config) as archive:
        return _burn(archive.keyring, group, numbers, officer, reason)


def _burn(
    keyring: Keyring, group: str, numbers: Sequence[int], officer: Principal, reason: str
) -> tuple[Group, Burned]:
    of = next((each for each in keyring.share_groups() if each.group.hex() == group.strip().lower()), None)
    if of is None:
        raise NotFoundError(f"the archive has no group of shares {group}", hint="coffer keys list shows them")
    now = clock_ms()

    def event(burned: Burned) -> WaitingEvent:
        stated = SharesBurned(
            group=of.group.hex(),
            epoch=of.epoch,
            shares=of.count,
            needed=of.threshold,
            group_row=of.encode().hex(),
            numbers=tuple(sorted({*numbers})),
            burned_row=burned.encode().hex(),
            reason=reason.strip(),
            by=officer.officer,
        )
        return _enclosed(keyring, stated, now)

    return of, groups.burn(keyring, of, numbers, now, event)


def _split(keyring: Keyring, threshold: int, count: int, folder: Path, officer: Principal) -> Split:
    shares = keyring.make_shares(threshold, count)
    of, fresh = shares[0].of, _unfinished_name(folder)
    durable.make_folder(fresh, 0o700)  # first: while it exists, no share of the group has left it
    made = SharesMade(
        group=of.group.hex(),
        epoch=of.epoch,
        shares=of.count,
        needed=of.threshold,
        group_row=of.encode().hex(),
        by=officer.officer,
    )
    groups.begin(keyring, of, groups.place_of(folder), _enclosed(keyring, made, clock_ms()))
    write_shares(shares, fresh, folder)
    groups.end(keyring, of)
    return Split({folder / file_name(share): share for share in shares}, resumed=False)


def write_shares(shares: Sequence[Share], fresh: Path, folder: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Write shares into the empty folder `fresh`, mode 0600, then rename it to `folder`; durable on return, all or none
    under that name. Raises UnavailableError."""
    for share in shares:
        durable.write_new(fresh / file_name(share), render(share).encode(), 0o600, calls=calls)
    durable.move(fresh, folder, calls=calls)


def _found(keyring: Keyring, folder: Path, threshold: int, count: int) -> Split:
    """Return the shares in a folder if they are exactly the wanted ones, of one group of the current epoch."""
    other = ConfigError(f"{folder} already exists", hint="choose a new folder: shares of two groups must not mix")
    try:
        shares = {
            path: parse(_text(path), str(path)) for path in sorted(folder / name for name in opening.names(folder))
        }
        whole = combine({str(path): share for path, share in shares.items()})
    except (InputError, IntegrityError, OSError, UnicodeDecodeError):
        raise other from None
    of = whole.of
    wanted = (threshold, count, keyring.epoch, {*range(1, count + 1)})
    if (
        (of.threshold, of.count, of.epoch, {share.index for share in shares.values()}) != wanted
        or len(shares) != count
        or whole.wrong
        or of not in keyring.share_groups()
    ):
        raise other
    return Split(shares, resumed=True)


def _text(path: Path) -> str:
    return opening.read(path, _LONGEST).decode("utf-8")


def _clear(keyring: Keyring, folder: Path, officer: Principal) -> None:
    """Remove what stopped splits into this folder left, durably; then forget their groups.

    If there is no unfinished folder, the shares were complete and were taken away: then the group stays known.
    """
    fresh = _unfinished_name(folder)
    was_there = opening.is_folder(fresh)
    left = opening.names(fresh) if was_there else []
    for name in left:
        durable.remove(fresh / name)
    for of, place in groups.unfinished(keyring):
        if place != groups.place_of(folder) and not any(of.group.hex() in name for name in left):
            continue
        if was_there:
            given_up = SharesGivenUp(
                group=of.group.hex(), epoch=of.epoch, shares=of.count, needed=of.threshold, by=officer.officer
            )
            groups.give_up(keyring, of, _enclosed(keyring, given_up, clock_ms()))
        else:
            groups.end(keyring, of)


def _unfinished_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _enclosed(keyring: Keyring, event: Event, time_ms: int) -> WaitingEvent:
    return outbox.enclosed(keyring, Occurrence(event, time_ms))
