"""Writes the golden key file and keyring: `python tests/vectors/make_keys.py [folder]`.

Clock and randomness are injected, so every run writes the same rows. The committed copy is in tests/vectors/keys;
replace it only together with a new format version. Every key in it is public and protects nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from coffer.keys.crypto import derive
from coffer.keys.crypto.shamir import Group, Share, combine
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.keyring import rekey, shred, signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, KeyFileProvider, generate_keyfile
from coffer.keys.shares import groups
from coffer.keys.shares.text import render
from coffer.keys.values.waiting_event import WaitingEvent

FOLDER = Path(__file__).parent / "keys"
PASSPHRASE = b"correct horse battery staple"
ARCHIVE_ID = sha256(b"coffer golden archive").digest()[:16]
FIRST_MS = 1767225600000  # 2026-01-01T00:00:00Z
SHREDDED_MS, UNTIL_MS = FIRST_MS + 60_000, FIRST_MS + 35 * 86_400_000
NAMES = (bytes(range(16)), bytes(range(16, 32)))
PARTS = "1.2.3\0P1\0Hospital\0", "\0P1\0\0" + "1.2.9"  # of a study, and of an object without one
REPLACED, ERASED = "1.2.4\0P1\0\0", "1.2.5\0P1\0\0"
NAME = "archive.example/golden"
BODY = b"archive.example/golden\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def counting_random() -> Callable[[int], bytes]:
    """Return a source that yields SHA-256("coffer golden" || u32be(n)), n = 0, 1, ..., cut to the length asked for."""
    calls = iter(range(1 << 32))

    def take(length: int) -> bytes:
        return sha256(b"coffer golden" + next(calls).to_bytes(4, "big")).digest()[:length]

    return take


def counting_clock() -> Callable[[], int]:
    """Return a clock that starts at 2026-01-01T00:00:00Z and advances by one second per reading."""
    seconds = iter(range(1 << 32))
    return lambda: FIRST_MS + 1000 * next(seconds)


def combine_all(shares: list[Share]) -> str:
    """Return the KEK that all shares together give, in hex."""
    return combine({str(share.index): share for share in shares}).kek.reveal().hex()


def _values(key: StudyKey) -> dict[str, str]:
    """A study's key and what is derived from it, in hex."""
    derived = {name: getattr(key, name).reveal().hex() for name in ("dek", "blob", "cid", "row")}
    return {**derived, "kcv": key.kcv.hex()}


def _event(about: bytes, body: bytes) -> WaitingEvent:
    """A waiting event in the place of the one that the server makes: its body is not sealed."""
    return WaitingEvent(3, SHREDDED_MS, about[:16].ljust(16, b"\0"), sha256(body).digest(), body, about[:8])


def _split(keyring: Keyring, of: Group) -> None:
    groups.begin(keyring, of, groups.place_of(Path("/media/stick/shares")), _event(of.group, of.encode()))


def make(folder: Path) -> None:
    """Write keyfile, keyring/, shares and expected.json into an existing empty folder."""
    random, clock = counting_random(), counting_clock()
    generate_keyfile(folder / "keyfile", Secret(PASSPHRASE), random, CHEAPEST_FOR_TESTS)
    provider = KeyFileProvider(folder / "keyfile", lambda: Secret(PASSPHRASE), random)
    keyring = Keyring.create(folder / "keyring", provider, ARCHIVE_ID, random, clock)
    studies = [*keyring.claims.keys_for(PARTS, 5), keyring.new_study()]
    if recorded := keyring.claims.find(PARTS[0]):
        keyring.claims.recorded(PARTS[0], recorded)
        keyring.claims.settle()
    signer = signing_key.current(keyring)
    expected: dict[str, Any] = {
        "passphrase": PASSPHRASE.decode(),
        "archive_id": ARCHIVE_ID.hex(),
        "studies": {s.key_id.hex(): _values(s) for s in studies},
        "index_token": keyring.archive_key(derive.INDEX_TOKEN).reveal().hex(),
        "vkey": signer.vkey(NAME),
        "note": signer.sign_note(NAME, BODY).decode(),
    }
    shares = keyring.make_shares(2, 3)
    _split(keyring, shares[0].of)
    groups.end(keyring, shares[0].of)
    groups.burn(keyring, shares[0].of, [3], SHREDDED_MS, lambda burned: _event(b"the burned", burned.encode()))
    expected["burned"] = {shares[0].of.group.hex(): [0b100, 0]}
    expected["keepers"] = {
        each.id.hex(): [each.epoch, int(each.state), each.kind, each.name] for each in keyring.keepers()
    }
    for share in shares:
        (folder / f"share{share.index}.txt").write_text(render(share), encoding="utf-8")
    expected["shares"] = {"group": shares[0].of.group.hex(), "epoch": 1, "kek": combine_all(shares)}
    gone, (going,) = keyring.new_study(), keyring.claims.keys_for([ERASED], 6)
    shred.schedule(keyring, {gone.key_id: NAMES[0], going.key_id: NAMES[1]}, now_ms=SHREDDED_MS, until_ms=UNTIL_MS)
    shred.drop(keyring, [gone.key_id])
    shred.forget(keyring, [gone.key_id], random)
    (old,), next_old = keyring.claims.keys_for([REPLACED], 6), keyring.new_study()
    done, under_way = (
        rekey.begin(keyring, each.key_id, name, 7, SHREDDED_MS, random, lambda made: _event(made.old, made.name))
        for each, name in zip((old, next_old), NAMES, strict=True)
    )
    done = rekey.switch(keyring, done, replace(done, phase=rekey.Phase.SWITCHED, done=3, total=3))
    shred.supersede(keyring, done, now_ms=SHREDDED_MS, until_ms=UNTIL_MS)
    expected["shredded"] = {each.key_id.hex(): [1, SHREDDED_MS, UNTIL_MS] for each in (gone, going, old)}
    found = {text: keyring.claims.find(text) for text in (*PARTS, REPLACED, ERASED)}
    expected["claims"] = {text: [claim.key_id.hex(), claim.from_seq] for text, claim in found.items() if claim}
    for made in (next_old, *(keyring.study(each.new) for each in (done, under_way))):
        expected["studies"][made.key_id.hex()] = _values(made)
    unfinished = keyring.make_shares(2, 2)[0].of
    _split(keyring, unfinished)
    expected["unfinished"] = {unfinished.group.hex(): groups.place_of(Path("/media/stick/shares")).hex()}
    keyring.remember_checkpoint(expected["note"].encode())
    signing_key.begin(keyring, random, SHREDDED_MS, lambda _: _event(b"signing key", NAMES[0]))
    keyring.close()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "keyring" / "lock.mdb").unlink()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    target.mkdir(parents=True, exist_ok=True)
    make(target)
