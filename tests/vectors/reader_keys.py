"""A second reader of key file and keyring, written from keys/FORMAT.md alone; it imports nothing of the product.

Slow and plain on purpose: `open_keyring(keyfile bytes, passphrase, keyring folder)` returns what the format promises.
"""

from __future__ import annotations

import base64
import hmac
import struct
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import lmdb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id


class Rejected(Exception):
    """The bytes break a rule of the format."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise Rejected(why)


def expand(hash_name: str, prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand as RFC 5869 writes it."""
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hash_name).digest()
        out += block
        counter += 1
    return out[:length]


def unseal(key: bytes, context: bytes, sealed: bytes) -> bytes:
    need(len(sealed) >= 72 and (len(sealed) - 56) % 16400 >= 16, "impossible length")
    salt, commitment, rest = sealed[:24], sealed[24:56], sealed[56:]
    okm = expand("sha512", key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context, 76)
    need(hmac.compare_digest(okm[44:], commitment), "commitment")
    cipher, base, plain = AESGCM(okm[:32]), int.from_bytes(okm[32:44], "big"), b""
    for k in range(len(rest) // 16400 + 1):
        plain += cipher.decrypt((base ^ k).to_bytes(12, "big"), rest[16400 * k : 16400 * (k + 1)], None)
    return plain


def wrapping_keys(data: bytes, passphrase: bytes) -> dict[int, bytes]:
    """Return epoch -> wrapping key."""
    need(len(data) >= 76 and data[:8] == b"CofferKF", "magic")
    version, flags, t, p, m = struct.unpack(">HHIII", data[8:24])
    salt = data[24:40]
    slots, reserved = struct.unpack(">HH", data[40:44])
    need(version == 1 and flags in (0, 1) and reserved == 0 and slots <= 1024, "header")
    need(len(data) == 76 + 36 * slots and sha256(data[:-32]).digest() == data[-32:], "length or checksum")
    stretched = b""
    if flags:
        need(1 <= t <= 16 and 1 <= p <= 16 and 8 * p <= m <= 1048576 and t * m <= 2097152, "bounds")
        stretched = Argon2id(salt=salt, length=32, iterations=t, lanes=p, memory_cost=m).derive(passphrase)
    else:
        need(data[12:40] == bytes(28), "parameters without a passphrase")
    keys: dict[int, bytes] = {}
    for at in range(44, 44 + 36 * slots, 36):
        epoch = int.from_bytes(data[at : at + 4], "big")
        need(epoch > max(keys, default=0), "epochs ascend")
        keys[epoch] = expand("sha256", data[at + 4 : at + 36] + stretched, b"coffer/keyfile-wrap/v1", 32)
    return keys


def times(a: int, b: int) -> int:
    """Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in range(15, 7, -1):
        product ^= (0x11B << bit - 8) * (product >> bit & 1)
    return product


def read_share(text: str) -> bytes:
    """Return the 100 bytes of a share's text."""
    data = b""
    inside = text.partition("-----BEGIN COFFER KEY SHARE-----")[2].partition("-----END COFFER KEY SHARE-----")[0]
    found = {line[0]: line[2:].replace(" ", "") for line in inside.splitlines() if line[:1].isdigit()}
    need(sorted(found) == list("1234567"), "lines")
    for number in range(1, 8):
        letters = found[str(number)]
        need(len(letters) == 28, "line length")
        part = base64.b32decode(letters[:24])
        check = sha256(b"coffer/share-line/v1\0" + bytes([number]) + part).digest()[:5]
        need(base64.b32encode(check).decode()[:4] == letters[24:], "line check")
        data += part
    need(sha256(data[:100]).digest()[:5] == data[100:], "share check")
    need(data[0] == 1, "version")
    return data[:100]


def join_shares(texts: list[str]) -> tuple[bytes, int, bytes]:
    """Return KEK id, epoch and KEK of as many shares as are needed."""
    shares = [read_share(text) for text in texts]
    head = shares[0][:51]
    threshold, count = head[49], head[50]
    need(all(share[:51] == head and share[52:68] == shares[0][52:68] for share in shares), "one group")
    points = {share[51]: share[68:] for share in shares}
    need(2 <= threshold <= count <= 16 and len(points) == threshold and max(points) <= count, "numbers")
    kek = bytearray(32)
    for x, value in points.items():
        weight = 1
        for other in points:
            if other != x:
                (inverse,) = (i for i in range(256) if times(i, x ^ other) == 1)
                weight = times(weight, times(other, inverse))
        for at in range(32):
            kek[at] ^= times(value[at], weight)
    check = hmac.digest(expand("sha256", bytes(kek), b"coffer/share/v1", 32), head, "sha256")[:16]
    need(hmac.compare_digest(check, shares[0][52:68]), "check value")
    return head[25:41], int.from_bytes(head[41:45], "big"), bytes(kek)


def open_with_shares(texts: list[str], folder: Path) -> Opened:
    """Open a keyring of one epoch without its key file."""
    kek_id, epoch, kek = join_shares(texts)
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as txn:
        rows = {bytes(key): bytes(value) for key, value in txn.cursor()}
    return open_rows(rows, {}, {epoch: (kek_id, kek)})


@dataclass
class Opened:
    archive_id: bytes
    ark: bytes
    signing: bytes
    deks: dict[bytes, bytes]
    epochs: dict[int, int] = field(default_factory=dict)  # epoch -> state
    shredded: dict[bytes, tuple[int, ...]] = field(default_factory=dict)  # key id -> epoch, scheduled, until
    unfinished: dict[bytes, bytes] = field(default_factory=dict)  # group -> place
    keepers: dict[bytes, tuple[int, int, str, str]] = field(default_factory=dict)  # id -> epoch, state, kind, name
    burned: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # group -> shares, when too few were left

    claims: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)  # token -> key id, number of the record

    def claim_of(self, text: str) -> tuple[bytes, int]:
        key = expand("sha256", self.ark, b"coffer/claim/v1", 32)
        return self.claims[hmac.digest(key, text.encode(), "sha256")[:16]]

    def derived(self, key_id: bytes) -> dict[str, str]:
        dek = self.deks[key_id]
        out = {name: expand("sha256", dek, f"coffer/{name}/v1".encode(), 32).hex() for name in ("blob", "cid", "row")}
        return {"dek": dek.hex(), **out, "kcv": expand("sha256", dek, b"coffer/kcv/v1", 16).hex()}

    def vkey_and_note(self, name: str, body: bytes) -> tuple[str, str]:
        private = Ed25519PrivateKey.from_private_bytes(self.signing)
        public = private.public_key().public_bytes_raw()
        tag = sha256(name.encode() + b"\x0a\x01" + public).digest()[:4]
        vkey = f"{name}+{tag.hex()}+{base64.b64encode(bytes([1]) + public).decode()}"
        line = f"\u2014 {name} {base64.b64encode(tag + private.sign(body)).decode()}\n"
        Ed25519PublicKey.from_public_bytes(public).verify(private.sign(body), body)
        return vkey, body.decode() + "\n" + line


def open_keyring(keyfile: bytes, passphrase: bytes, folder: Path) -> Opened:
    wrapping = wrapping_keys(keyfile, passphrase)
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as txn:
        rows = [(bytes(key), bytes(value)) for key, value in txn.cursor()]
    return open_rows(dict(rows), wrapping)


def keepers_of(rows: dict[bytes, bytes], states: dict[int, int]) -> dict[bytes, tuple[int, int, str, str]]:
    """What ever opened each epoch, held against the epochs' own rows."""
    found: dict[bytes, tuple[int, int, str, str]] = {}
    for key, row in rows.items():
        if key[:1] != b"U":
            continue
        need(len(row) >= 58 and row[:2] == b"\0\1" and row[2] in (1, 2, 3) and row[3] == 0, "keeper")
        need(key == b"U" + row[4:24] and len(row) == 58 + int.from_bytes(row[56:58], "big"), "keeper")
        need((row[2] == 3) == any(row[40:48]), "keeper's receipt")
        epoch, kind = int.from_bytes(row[4:8], "big"), row[24:40].rstrip(b"\0").decode()
        need(epoch not in states or states[epoch] != 3 or row[2] == 3, "a destroyed epoch that is opened")
        found[row[8:24]] = epoch, row[2], kind, row[58:].decode()
    for epoch in states:
        kind = rows[b"E" + epoch.to_bytes(4, "big")][32:48].rstrip(b"\0").decode()
        need(any((of, its) == (epoch, kind) for of, _, its, _ in found.values()), "an epoch without a keeper")
    return found


def burned_of(rows: dict[bytes, bytes]) -> dict[bytes, tuple[int, int]]:
    """Which shares of each group are burned."""
    found: dict[bytes, tuple[int, int]] = {}
    for key, row in rows.items():
        if key[:1] == b"B":
            need(len(key) == 9 and len(row) == 12 and row[:2] == b"\0\1" and b"G" + key[1:] in rows, "burned shares")
            found[key[1:]] = struct.unpack(">HQ", row[2:])
    return found


def check_sums(rows: dict[bytes, bytes], ark: bytes) -> None:
    """Both sums of every bucket, and that the fold knows each."""
    row_key, mask_key = (expand("sha256", ark, f"coffer/keyring-{use}/v1".encode(), 32) for use in ("sum", "mask"))
    keyed, plain = [0] * 256, [0] * 256
    for key, value in rows.items():
        if key[:1] == b"S" and len(key) > 1:
            need(len(key) == 2 and len(value) == 80 and any(value[:8]), "a sum")
            continue
        text, bucket = struct.pack(">H", len(key)) + key + value, key[1] if len(key) > 1 else 0
        keyed[bucket] += int.from_bytes(hmac.digest(row_key, text, "sha256"), "big")
        plain[bucket] += int.from_bytes(sha256(text).digest()[:8], "big")
    fold = rows.get(b"S", b"")
    need(len(fold) == 16 + 256 * 24, "fold")
    for bucket in range(256):
        kept, was = rows.get(b"S" + bytes([bucket]), b""), fold[16 + 24 * bucket : 40 + 24 * bucket]
        is_new = kept[8:24] == fold[:16] and kept[:8] > was[:8]
        need(is_new or kept[:8] + kept[24:40] == was, "a bucket that was put back, or of a copy")
        mask = int.from_bytes(hmac.digest(mask_key, bytes([bucket]) + kept[:40], "sha256"), "big")
        need(kept[40:72] == ((keyed[bucket] + mask) % 2**256).to_bytes(32, "big"), "keyed sum")
        plain[bucket] += int.from_bytes(sha256(kept[:72]).digest()[:8], "big")
        need(kept[72:] == (plain[bucket] % 2**64).to_bytes(8, "big"), "accident sum")


def open_rows(
    rows: dict[bytes, bytes], wrapping: dict[int, bytes], known: dict[int, tuple[bytes, bytes]] | None = None
) -> Opened:
    header = rows.get(b"H", b"")
    need(len(header) == 38 and header[:10] == b"CofferKR\x00\x04", "header")
    archive_id = header[14:30]
    keks: dict[int, tuple[bytes, bytes]] = dict(known or {})
    states: dict[int, int] = {}
    for key, row in rows.items():
        if key[:1] != b"E":
            continue
        version, alg, state, epoch = struct.unpack(">HBBI", row[:8])
        length = int.from_bytes(row[48:50], "big")
        need((version, alg) == (4, 3) and state in (1, 2, 3, 4, 5) and length == len(row) - 50, "epoch row")
        need(key == b"E" + epoch.to_bytes(4, "big"), "epoch row under another key")
        states[epoch] = state
        need(length == 0 or state not in (3, 5), "a KEK of an epoch that is gone")
        if state in (1, 2) and epoch not in keks:
            need(row[32:48] == b"keyfile".ljust(16, b"\0") and length == 108, "provider")
            place = row[50:54]
            need(int.from_bytes(place, "big") in wrapping, "no secret for this epoch")
            context = place + b"coffer/kek/v1\0" + archive_id + row[8:24] + row[4:8]
            keks[epoch] = (row[8:24], unseal(wrapping[int.from_bytes(place, "big")], context, row[54:]))
    need(int.from_bytes(header[10:14], "big") in keks, "current epoch")
    keepers, burned = keepers_of(rows, states), burned_of(rows)

    def unwrap(row: bytes, purpose: int, key_id: bytes) -> bytes:
        need(len(row) == 156 and row[5:8] == bytes(3), "key row")
        version, alg, found, state = struct.unpack(">HBBB", row[:5])
        need((version, alg, found) == (4, 1, purpose) and state in (1, 2), "key row")
        epoch = int.from_bytes(row[8:12], "big")
        need(epoch in keks and keks[epoch][0] == row[12:28], "KEK id")
        key = expand("sha256", keks[epoch][1], b"coffer/kek-wrap/v1", 32)
        return unseal(key, b"coffer/dek/v1\0" + archive_id + key_id + row[:52], row[52:])

    ark = unwrap(rows.get(b"A", b""), 2, bytes(16))
    check_sums(rows, ark)
    under: dict[bytes, int] = {}
    for key, row in rows.items():
        if key[:1] == b"K":
            under[b"DK" + row[8:12]] = under.get(b"DK" + row[8:12], 0) + 1
    counts = {key: int.from_bytes(row, "big") for key, row in rows.items() if key[:1] == b"D"}
    need(counts == under and all(len(rows[key]) == 8 for key in counts), "counts")
    shredded: dict[bytes, tuple[int, ...]] = {}
    unfinished: dict[bytes, bytes] = {}
    for key, row in rows.items():
        if key[:1] == b"T":
            need(len(key) == 17 and len(row) == 64 and row[:2] == b"\0\3" and row[2] < 2 and row[3] < 2, "tombstone")
            need((row[2] == 1) == any(row[40:56]), "tombstone")
            shredded[key[1:]] = struct.unpack(">IQQ", row[4:24])
            need(row[3] == 0 or b"K" + key[1:] not in rows, "a replaced key that is still there")
            need(b"K" + key[1:] not in rows or rows[b"K" + key[1:]][4] == 2, "a shredded key that is not marked")
        if key[:1] == b"F":
            need(len(key) == 9 and len(row) == 16 and b"G" + key[1:] in rows, "a splitting without its group")
            unfinished[key[1:]] = row
        if key[:1] == b"R":
            need(len(key) == 17 and len(row) == 60 and row[:3] == b"\0\1\0" and row[3] in (1, 2), "rekey")
            need(b"K" + key[1:] in rows and b"K" + row[4:20] in rows, "a rekey without its keys")
    claims = {key[1:]: struct.unpack(">16sQ", row) for key, row in rows.items() if key[:1] == b"J" and len(row) == 24}
    claiming = {key[1:]: row for key, row in rows.items() if key[:1] == b"K" and any(row[36:52])}
    need(all(row[4] == 1 for row in claiming.values()), "a claim of a shredded key")
    need(
        {token: claim[0] for token, claim in claims.items()} == {row[36:52]: k for k, row in claiming.items()}, "claims"
    )
    need(len(claims) == len(claiming) == sum(key[:1] == b"J" for key in rows), "claims")
    deks = {
        key[1:]: unwrap(row, 1, key[1:]) for key, row in rows.items() if key[:1] == b"K" and key[1:] not in shredded
    }
    if b"N" in rows:
        unwrap(rows[b"N"], 4, bytes(16))
    signing = unwrap(rows.get(b"V", b""), 3, bytes(16))
    return Opened(archive_id, ark, signing, deks, states, shredded, unfinished, keepers, burned, claims)
