"""What holders of key shares do together: read the shares, drill, and recover the key of an archive into a key file.

Rule: every use of the shares is recorded in the log. The event is sealed with the key that the shares gave, so that a
drill needs no provider, and waits in the keyring for the writer of the log (`server.mailbox.outbox`).
"""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from coffer.archive.events.event import Event
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shares import KeyRecovered, SharesDrilled
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.crypto.shamir import Recovered, Share, combine
from coffer.keys.disk import durable
from coffer.keys.disk.permissions import require_secret
from coffer.keys.errors import ConfigError, InputError, KeyUnavailableError, UnavailableError
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider
from coffer.keys.providers.key_file import generate_keyfile
from coffer.keys.shares.recovery import Recovery, RecoveryProof
from coffer.keys.shares.text import parse
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action
from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config
from coffer.server.engine.providers import key_file_provider, passphrase_of, provider_of
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
) -> tuple[RecoveryProof, UnavailableError | None]:
    """Open everything under the epoch of the recovered key, and record the drill; needs no provider.

    Changes nothing else. The second value is why the drill was not recorded, or None: then it is durable on return.
    """
    policy_of(config).require(officer, Action.DRILL)
    recovery = Recovery(ArchiveFolder.open(config.archive).keyring, recovered)
    proof = recovery.prove(progress)
    drilled = SharesDrilled(
        group=recovered.of.group.hex(),
        epoch=recovered.of.epoch,
        wrong_shares=len(recovered.wrong),
        opened=proof.opened,
        study_keys=proof.studies,
        by=officer.officer,
    )
    try:
        for event in _events(recovery.archive_key(derive.EVENT), recovered, drilled):
            recovery.record(event)
    except UnavailableError as error:  # a copy on a read-only medium may be drilled as well
        return proof, error
    if not proof.archive:
        return proof, _other_epoch(proof)
    return proof, None


def recover(
    config: Config, recovered: Recovered, key_file: Path, officer: Principal, progress: Callable[[], None]
) -> RecoveryProof:
    """Prove the key, then wrap its epoch with `key_file`, created if missing, and record it; durable on return.

    May be repeated, and works beside a running server. Raises ConfigError for a key file inside the archive,
    LockedError while another process changes the keys, KeyUnavailableError where a rotation has moved the archive's own
    key to an epoch that nothing here opens, IntegrityError for a keyring that somebody else wrote to.
    """
    policy_of(config).require(officer, Action.RECOVER_KEY)
    archive = ArchiveFolder.open(config.archive)
    if Path(os.path.realpath(key_file)).is_relative_to(os.path.realpath(config.archive)):
        raise ConfigError(f"{key_file} is inside the archive", hint="put it elsewhere, best on another volume")
    recovery = Recovery(archive.keyring, recovered, provider_of(config.keys, archive.archive_id))
    proof = recovery.prove(progress)
    keeper = key_file_provider(config.keys, key_file)
    if key_file.exists():
        _require_usable(keeper, key_file)
        durable.tidy(key_file)
    else:
        passphrase = passphrase_of(config.keys)
        generate_keyfile(key_file, passphrase() if passphrase else None, epoch=recovered.of.epoch)
    seal = recovery.archive_key(derive.EVENT)  # before the keyring is opened for the change

    def event(keepers: Sequence[Keeper]) -> list[WaitingEvent]:
        """The row of the event, which lists everything that ever opened the epoch."""
        made = KeyRecovered(
            group=recovered.of.group.hex(),
            epoch=recovered.of.epoch,
            wrong_shares=len(recovered.wrong),
            provider=keeper.kind,
            keepers=tuple(each.encode().hex() for each in keepers),
            by=officer.officer,
        )
        return _events(seal, recovered, made)

    recovery.move(keeper, "coffer keys recover", clock_ms(), event)
    return proof


def _events(seal: Secret | None, recovered: Recovered, event: Event) -> list[WaitingEvent]:
    """Return the event, or none if the shares do not give the key that seals it."""
    if seal is None:
        return []
    return [outbox.enclosed_under(seal, recovered.of.archive_id, Occurrence(event, clock_ms()))]


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
