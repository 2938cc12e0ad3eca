"""What holders of key shares do together: read the shares, drill, and recover the key of an archive into a key file.

Rule: every use of the shares is recorded in the log, and signed. The keyring is opened with the key that the shares
gave, so that neither a drill nor a recovery needs a provider, and what objects to any other change is found here, too.
"""

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shares import KeyRecovered, SharesDrilled
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.shamir import Recovered, Share, combine
from coffer.keys.disk import durable
from coffer.keys.disk.permissions import require_secret
from coffer.keys.errors import (
    CofferError,
    ConfigError,
    InputError,
    IntegrityError,
    KeyUnavailableError,
    UnavailableError,
)
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.providers.base import KekProvider
from coffer.keys.providers.key_file import generate_keyfile
from coffer.keys.shares.recovery import Recovery, RecoveryProof
from coffer.keys.shares.text import parse
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action
from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config
from coffer.server.engine.providers import key_file_provider, open_keyring, passphrase_of, provider_of
from coffer.server.keyops.key_change import changing_keys
from coffer.server.mailbox import outbox

__all__ = ["drill", "read_shares", "recover"]

_LONGEST_FILE = 64 << 10


def read_shares(paths: Sequence[Path]) -> Recovered:
    """Read shares and combine them. Raises InputError, naming the file and what is wrong with it; ConfigError for one
    that others may read or write."""
    shares: dict[str, Share] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISFIFO(found.st_mode):  # a pipe from another program has no permissions to check
                    require_secret(path, found, "share")
                text = file.read(_LONGEST_FILE).decode("utf-8", "replace")
        except OSError as error:
            raise InputError(f"cannot read the share {path}: {error.strerror}", hint="check the path") from error
        shares[str(path)] = parse(text, str(path))
    return combine(shares)


def drill(
    config: Config, recovered: Recovered, officer: Principal, progress: Callable[[], None]
) -> tuple[RecoveryProof, CofferError | None]:
    """Open everything under the epoch of the recovered key, and record the drill; needs no provider.

    Changes nothing else. The second value is why the drill was not recorded, or None: then it is signed on return.
    Raises as `Recovery`, and UnavailableError where it is recorded and cannot be signed.
    """
    policy_of(config).require(officer, Action.DRILL)
    archive = ArchiveFolder.open(config.archive)
    recovery = Recovery(archive.keyring, recovered)
    proof = recovery.prove(progress)
    drilled = SharesDrilled(
        group=recovered.of.group.hex(),
        epoch=recovered.of.epoch,
        wrong_shares=len(recovered.wrong),
        opened=proof.opened,
        study_keys=proof.studies,
        by=officer.officer,
    )
    with ExitStack() as opened:
        try:
            beside = provider_of(config.keys, archive.archive_id)
            changed = opened.enter_context(changing_keys(config, recovery.provider(beside)))
        except KeyUnavailableError as error:
            return proof, error if proof.archive else _other_epoch(proof)
        except CofferError as error:  # an older copy, or one on a read-only medium, may be drilled as well
            return proof, error
        events.leave(changed.keyring, [changed.enclosed(Occurrence(drilled, clock_ms()))])
    return proof, None


def recover(
    config: Config, recovered: Recovered, key_file: Path, officer: Principal, progress: Callable[[], None]
) -> RecoveryProof:
    """Prove the key, then wrap its epoch with `key_file`, created if missing, and record it; durable and signed on
    return.

    May be repeated, and works beside a running server. Raises ConfigError for a key file inside the archive,
    LockedError while another process changes the keys, KeyUnavailableError where a rotation has moved the archive's own
    key to an epoch that nothing here opens, IntegrityError for a keyring that somebody else wrote to: before anything
    is changed. An archive that does not open for writing (older than its mark, a damaged index) is recovered all the
    same, because what mends it needs the key; then UnavailableError says that it is not signed yet, and why.
    """
    policy_of(config).require(officer, Action.RECOVER_KEY)
    archive = ArchiveFolder.open(config.archive)
    if Path(os.path.realpath(key_file)).is_relative_to(os.path.realpath(config.archive)):
        raise ConfigError(f"{key_file} is inside the archive", hint="put it elsewhere, best on another volume")
    recovery = Recovery(archive.keyring, recovered)
    proof = recovery.prove(progress)
    keeper = key_file_provider(config.keys, key_file)
    if key_file.exists():
        _require_usable(keeper, key_file)
    refused: CofferError | None = None
    with ExitStack() as opened:
        provider = recovery.provider(provider_of(config.keys, archive.archive_id))
        try:
            keyring = opened.enter_context(changing_keys(config, provider)).keyring
        except IntegrityError as error:
            keyring, refused = open_keyring(archive, provider), error
            opened.callback(keyring.close)
        if key_file.exists():
            durable.tidy(key_file)
        else:
            passphrase = passphrase_of(config.keys)
            generate_keyfile(key_file, passphrase() if passphrase else None, epoch=recovered.of.epoch)
        made = partial(_event, keyring, recovered, keeper.kind, officer)
        recovery.move(keyring, keeper, "coffer keys recover", made)
    if refused is not None:
        raise UnavailableError(
            f"the key is recovered and kept by {key_file}, and that is not signed yet, because the archive does not"
            f" open for writing: {refused}",
            hint=f"name {key_file} in [keys] key_file; then: {refused.hint()}",
        ) from refused
    return proof


def _event(
    keyring: Keyring, recovered: Recovered, provider: str, officer: Principal, keepers: Sequence[Keeper]
) -> WaitingEvent:
    """The event of a recovery, which lists everything that ever opened the epoch."""
    made = KeyRecovered(
        group=recovered.of.group.hex(),
        epoch=recovered.of.epoch,
        wrong_shares=len(recovered.wrong),
        provider=provider,
        keepers=tuple(each.encode().hex() for each in keepers),
        by=officer.officer,
    )
    return outbox.enclosed(keyring, Occurrence(made, clock_ms()))


def _other_epoch(proof: RecoveryProof) -> UnavailableError:
    return UnavailableError(
        f"the archive's own key, which seals the record, is under epoch {proof.current}",
        hint="finish the rotation; until then keep a written record of what was done",
    )


def _require_usable(keeper: KekProvider, key_file: Path) -> None:
    try:
        keeper.health()
    except KeyUnavailableError as error:
        raise ConfigError(
            f"{key_file} already exists and cannot be used: {error}",
            hint="move it away, or name another one with --key-file",
        ) from error
