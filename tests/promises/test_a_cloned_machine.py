"""Promise: where the source of randomness repeats itself, as on two clones of one machine, two contents never share a
salt, a nonce or a key. Only what is the same repeats itself: then the ciphertext says nothing that it did not say.

Here randomness is zeros, every time. Crossed with everything that is sealed, and with each part that may differ.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias, cast

import pytest

from coffer.archive.body.reseal import reseal
from coffer.archive.body.sealed_body import BodyContext, BodyReader, own_memory, seal_body
from coffer.archive.body.spool import MemoryBudget, Spool
from coffer.archive.events.recorded import Occurrence
from coffer.archive.store.free_space import FreeSpace
from coffer.index.backends.row_sum import RowSum
from coffer.index.tables.row_cipher import RowCipher
from coffer.index.tables.rows import SeriesRow
from coffer.keys.crypto import aead
from coffer.keys.crypto.shamir import Group, split
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import KeyRow, KeyState, Purpose
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.store.sums import FOLD_KEY, RowSums, sum_key
from tests.archive.body.test_body import drafted, sealed_bytes
from tests.archive.events.samples import SAMPLES

ROOT = Path(__file__).resolve().parents[2]
KEY = Secret(bytes(range(32)))
ZEROS = bytes  # bytes(n) is n zeros
CONTEXT = BodyContext(b"a" * 16, b"s" * 16, b"c" * 32, 1)
Salt: TypeAlias = Callable[[Path, int], bytes]  # of content 0, 1 or 2, sealed under one key


def of_an_object(folder: Path, content: int) -> bytes:
    with closing(drafted(folder, b"%d" % content)) as draft:
        return salt_of(seal_body(KEY, CONTEXT, b"meta", draft, ZEROS, FreeSpace(folder, 0), own_memory))


def of_a_large_object(folder: Path, content: int) -> bytes:
    with closing(drafted(folder, b"%d" % content + bytes(3_000_000), memory=0)) as draft:
        return salt_of(seal_body(KEY, CONTEXT, b"meta", draft, ZEROS, FreeSpace(folder, 0), own_memory))


def of_a_meta(folder: Path, content: int) -> bytes:
    with closing(drafted(folder, b"the same")) as draft:
        return salt_of(seal_body(KEY, CONTEXT, b"meta %d" % content, draft, ZEROS, FreeSpace(folder, 0), own_memory))


def of_a_meta_of_an_object_sealed_again(folder: Path, content: int) -> bytes:
    with closing(drafted(folder, b"the same")) as draft:
        sealed = sealed_bytes(seal_body(KEY, CONTEXT, b"", draft, ZEROS, FreeSpace(folder, 0), own_memory))
    with BodyReader(KEY, CONTEXT, lambda at, length: sealed[at : at + length], len(sealed)) as body:
        return salt_of(reseal(body, b"%d" % content, KEY, CONTEXT, ZEROS, FreeSpace(folder, 0), in_memory=True))


def of_an_event(_: Path, content: int) -> bytes:
    return salt_of(Occurrence(SAMPLES[0], 1000 + content).seal(KEY, b"a" * 16, ZEROS).body)


def of_a_row_of_the_index(_: Path, content: int) -> bytes:
    ring = SimpleNamespace(archive_id=b"a" * 16, study=lambda _: StudyKey(b"s" * 16, KEY), archive_key=lambda _: KEY)
    cipher = RowCipher(cast("Keyring", ring), ZEROS)
    return cipher.seal(bytes(12), SeriesRow("1.2.3", {}, content), b"s" * 16)[16:][: aead.SALT]


def of_a_row_of_the_keyring(_: Path, content: int) -> bytes:
    row = KeyRow(Purpose.STUDY, KeyState.ACTIVE, 1, b"k" * 16, 0)
    return KeyRow.decode(row.wrap(KEY, b"a" * 16, b"s" * 16, Secret(bytes([content]) * 32), ZEROS)).sealed[: aead.SALT]


def of_a_wrapped_kek(folder: Path, content: int) -> bytes:
    if not (folder / "key").exists():
        generate_keyfile(folder / "key", random=ZEROS)
    provider = KeyFileProvider(folder / "key", random=ZEROS)
    return provider.adopt_epoch(1, Secret(bytes([content]) * 32), b"context")[4:][: aead.SALT]


def of_a_sum_of_the_index(_: Path, content: int) -> bytes:
    batch = RowSum.under(KEY, ZEROS).batch()
    total = batch.total()
    total.add("study", b"ref", b"%d" % content)
    return batch.sealed(total, b"place")[:16]


def of_a_sum_of_the_keyring(_: Path, content: int) -> bytes:
    sums = RowSums.under(KEY, ZEROS)
    rows = {b"J" + bytes(16): b"%d" % content, FOLD_KEY: sums.first_fold()}
    return sums.first(rows)[sum_key(0)][24:40]


def of_key_shares(_: Path, content: int) -> bytes:
    of = Group(bytes(8), b"a" * 16, b"k" * 16, 1, 1000 + content, 2, 3)
    return split(KEY, of, ZEROS)[0].value.reveal()


def of_a_file_on_its_way(folder: Path, content: int) -> bytes:
    with closing(Spool(FreeSpace(folder, 0), MemoryBudget(0), 0, ZEROS)) as spool:
        spool.write(b"%d" % content + bytes(70_000))
        (path,) = folder.glob("*.spool")
        return path.read_bytes()[1000:1100]  # zeros under the key stream


def salt_of(sealed: object) -> bytes:
    whole = sealed if isinstance(sealed, bytes) else sealed_bytes(sealed)  # type: ignore[arg-type]
    return whole[: aead.SALT]


def sealed_things() -> list[Salt]:
    return [each for name, each in globals().items() if name.startswith("of_")]


@pytest.mark.parametrize("salt", sealed_things(), ids=lambda each: each.__name__.removeprefix("of_"))
def test_two_contents_never_share_a_salt(tmp_path: Path, salt: Salt) -> None:
    assert len({salt(tmp_path, content) for content in (0, 1, 2)}) == 3


@pytest.mark.parametrize(
    "salt", [each for each in sealed_things() if "file" not in each.__name__], ids=lambda each: each.__name__[3:]
)
def test_only_what_is_the_same_repeats_itself(tmp_path: Path, salt: Salt) -> None:
    """So what tells them apart is the content, and not a counter or a clock, which a clone repeats as well."""
    assert salt(tmp_path, 1) == salt(tmp_path, 1)


def test_two_studies_never_share_a_key(tmp_path: Path) -> None:
    generate_keyfile(tmp_path / "key", random=ZEROS)
    keys = set()
    for clone, part in enumerate(("1.2.3\0P1\0\0", "1.2.4\0P2\0\0")):
        provider = KeyFileProvider(tmp_path / "key", random=ZEROS)
        ring = Keyring.create(tmp_path / f"{clone}", provider, b"a" * 16, ZEROS, lambda: 0)
        try:
            keys.add(ring.claims.keys_for([part], 0)[0].dek.reveal())
        finally:
            ring.close()
    assert len(keys) == 2


def test_no_two_keys_of_a_new_archive_are_equal(tmp_path: Path) -> None:
    generate_keyfile(tmp_path / "key", random=ZEROS)
    provider = KeyFileProvider(tmp_path / "key", random=ZEROS)
    with closing(Keyring.create(tmp_path / "keyring", provider, b"a" * 16, ZEROS, lambda: 0)) as ring:
        own = [ring.own_key(b"A"), ring.own_key(b"V"), ring.new_study().dek, ring._epochs.kek(1)[1]]
        own.append(Secret((tmp_path / "key").read_bytes()[48:80]))
        assert len({each.reveal() for each in own}) == 5


# Bytes drawn for anything but a salt, a nonce or a key: ids, names of files, and salts of stretched words.
DRAWN = {
    "index/backends/row_sum.py": 1,  # for the nonces of one batch, which are hedged
    "keys/store/sums.py": 2,  # lineages: what a clone draws again is the same lineage
    "server/identity/passwords.py": 2,
    "keys/clock.py": 1,
    "keys/crypto/hedge.py": 2,
    "keys/crypto/shamir.py": 1,  # its source is hedged
    "keys/keyring/claims.py": 1,
    "keys/keyring/founding.py": 1,
    "keys/keyring/keyring.py": 3,
    "keys/keyring/rekey.py": 1,
    "keys/keyring/rotation.py": 1,
    "keys/keyring/shred.py": 1,
    "keys/mailbox/officer_records.py": 1,
    "keys/mailbox/orders.py": 1,
    "keys/providers/key_file.py": 1,
    "keys/providers/pkcs11.py": 1,  # the nonce of a test message that is always the same
    "archive/body/spool.py": 2,
    "server/cli/integrity/verify.py": 1,
    "server/engine/create.py": 1,
    "server/mailbox/outbox.py": 1,
    # Names of files and ids of snapshots, in which a repetition is refused or seen; and which objects a drill takes.
    "keys/disk/durable.py": 1,
    "archive/store/folder_segments.py": 1,
    "archive/store/in_the_way.py": 1,  # a name to move something to
    "archive/store/memory_segments.py": 1,
    "server/backup/run.py": 1,
    "server/backup/pruning.py": 1,
    "server/cli/backup/drill.py": 1,
}


def test_nothing_draws_a_salt_a_nonce_or_a_key_itself() -> None:
    found = {}
    for floor in ("keys", "archive", "index", "server"):
        for path in (ROOT / floor).rglob("*.py"):
            calls = [each.func for each in ast.walk(ast.parse(path.read_bytes())) if isinstance(each, ast.Call)]
            names = [each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in calls]
            if count := sum(name in {"random", "_random", "urandom", "token_bytes", "randbytes"} for name in names):
                found[str(path.relative_to(ROOT))] = count
    assert found == DRAWN
