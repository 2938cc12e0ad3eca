"""A second reader of copies, written from archive/FORMAT-COPIES.md alone. It imports nothing of the product.

What it gives back is whole or an error: every piece is compared with its hash, every list with its form.
"""

import base64
import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SNAPSHOT = (
    *("type", "id", "archive", "made_ms", "size", "root", "keyring", "findings"),
    *("piece_bytes", "segments", "parts"),
)
COPY = ("type", "id", "archive", "made_ms", "records", "epoch", "feed", "recipients", "size", "pieces")
LABEL = b"coffer/keyring-copy/v1\0"


def checksummed(data: bytes) -> Any:
    """The value of checksummed JSON."""
    text, line = data[:-65], data[-65:]
    assert hashlib.sha256(text).hexdigest().encode() + b"\n" == line
    value = json.loads(text)
    assert json.dumps(value, indent=1).encode() + b"\n" == text
    return value


def piece(folder: Path, digits: str) -> bytes:
    """A piece of a snapshot."""
    assert re.fullmatch("[0-9a-f]{64}", digits)
    data = (folder / "pieces" / digits[:2] / digits).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digits
    return data


def blob(folder: Path, told: Any, piece_bytes: int) -> bytes:
    """The bytes of a segment or part."""
    data = [piece(folder, each) for each in told["pieces"]]
    assert all(len(each) == piece_bytes for each in data[:-1])
    assert sum(map(len, data)) == told["size"]
    return b"".join(data)


def snapshot(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a snapshot; `folder` is the archive's at the target. Segments are named as in an archive."""
    told = checksummed((folder / "snapshots" / f"{name}.json").read_bytes())
    assert tuple(told) == SNAPSHOT
    assert (told["type"], told["id"], told["archive"]) == ("coffer/snapshot/v1", name, folder.name)
    size = told["piece_bytes"]
    assert 1024 <= size <= 67108864
    files = {}
    for number, each in enumerate(told["segments"], 1):
        assert tuple(each) == ("size", "pieces", "number", "end")
        assert each["number"] == number
        data = blob(folder, each, size)
        end = bytes.fromhex(each["end"])
        assert len(end) == 44 if number < len(told["segments"]) else len(end) in {0, 44}
        assert data.endswith(end)
        files[f"segments/{number:08d}.seg"] = data
    names = [each["name"] for each in told["parts"]]
    assert names == sorted(set(names))
    assert len(names) <= 64
    for each in told["parts"]:
        assert tuple(each) == ("size", "pieces", "name")
        files[each["name"]] = blob(folder, each, size)
    origin, records, root = files["checkpoints/latest"].decode().split("\n")[:3]
    assert origin == json.loads(files["archive.json"])["origin"]
    assert (int(records), base64.b64decode(root).hex()) == (told["size"], told["root"])
    assert files["checkpoints/history"].endswith(files["checkpoints/latest"])
    return files


def keyring(folder: Path, name: str, identity: str) -> bytes:
    """The `data.mdb` of a copy of the keyring, opened with an identity's line of text if it is sealed."""
    told = checksummed((folder / "keyrings" / f"{name}.json").read_bytes())
    assert tuple(told) == COPY
    assert (told["type"], told["id"], told["archive"]) == ("coffer/keyring-copy/v1", name, folder.name)
    data = b""
    for number, digits in enumerate(told["pieces"]):
        one = (folder / "keyring-pieces" / name / f"{number:08d}").read_bytes()
        assert hashlib.sha256(one).hexdigest() == digits
        data += one
    assert len(data) == told["size"]
    return opened(data, bytes.fromhex(folder.name), identity, told["recipients"]) if told["recipients"] else data


def opened(data: bytes, archive_id: bytes, identity: str, recipients: list[str]) -> bytes:
    """The plaintext of a sealed copy."""
    magic, version, count, of = struct.unpack(">4sHH16s", data[:24])
    assert (magic, version, count, of) == (b"CFKC", 1, len(recipients), archive_id)
    raw = base64.b64decode(identity.removeprefix("COFFER-IDENTITY-1 "))
    kem, ecdh = MLKEM768PrivateKey.from_seed_bytes(raw[:64]), X25519PrivateKey.from_private_bytes(raw[64:])
    public = kem.public_key().public_bytes_raw() + ecdh.public_key().public_bytes_raw()
    own, end = hashlib.sha256(public).digest()[:8], 24 + 1176 * count
    rows = [data[at : at + 1176] for at in range(24, end, 1176)]
    assert [row[:8].hex() for row in rows] == recipients
    (wrapped,) = [row[8:] for row in rows if row[:8] == own]
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    key = suite.decrypt(wrapped, MLKEM768X25519PrivateKey(kem, ecdh), LABEL + data[:24])
    return chunked(key, LABEL + data[:end], data[end:])


def chunked(key: bytes, context: bytes, sealed: bytes) -> bytes:
    """C2SP chunked encryption, as keys/FORMAT.md describes it."""
    salt, commitment = sealed[:24], sealed[24:56]
    label = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
    okm = HKDFExpand(SHA512(), 76, label + salt + context).derive(key)
    assert okm[44:] == commitment
    base, out = int.from_bytes(okm[32:44], "big"), []
    chunks = [sealed[at : at + 16400] for at in range(56, len(sealed), 16400)]
    for number, chunk in enumerate(chunks):
        out.append(AESGCM(okm[:32]).decrypt((base ^ number).to_bytes(12, "big"), chunk, None))
        assert (len(out[-1]) == 16384) == (number < len(chunks) - 1)
    return b"".join(out)
