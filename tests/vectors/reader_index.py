"""A second reader of the index, written from index/FORMAT.md and keys/FORMAT.md alone: no code of Coffer.

Takes rows as the databases hold them, the token key, and a study's row key; returns what a UID leads to.
"""

import hmac
import json
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KINDS = {"study": 1, "series": 2, "instance": 3, "part": 4}


def token(token_key: bytes, kind: str, uid: str) -> bytes:
    message = bytes((KINDS[kind],)) + uid.encode("utf-8")
    return message[:1] + hmac.digest(token_key, message, "sha256")[:16]


def open_sealed(key: bytes, context: bytes, sealed: bytes) -> bytes:
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + sealed[:24] + context
    okm = HKDFExpand(algorithm=SHA512(), length=76, info=info).derive(key)
    if not hmac.compare_digest(okm[44:], sealed[24:56]):
        raise ValueError("commitment")
    base, out = int.from_bytes(okm[32:44], "big"), b""
    for k, at in enumerate(range(56, len(sealed), 16400)):
        out += AESGCM(okm[:32]).decrypt((base ^ k).to_bytes(12, "big"), sealed[at : at + 16400], None)
    return out


def row(row_key: bytes, archive_id: bytes, reference: bytes, value: bytes) -> list[Any]:
    plain = open_sealed(row_key, b"coffer/index-row/v1\0" + archive_id + reference, value[16:])
    length = int.from_bytes(plain[:4], "big")
    if len(plain) % 256 or 4 + length > len(plain) or any(plain[4 + length :]):
        raise ValueError("padding")
    decoded = msgspec.msgpack.decode(plain[4 : 4 + length])
    if not isinstance(decoded, list):
        raise ValueError("not a row")
    return decoded


def skipped(tables: dict[str, dict[str, str]]) -> list[tuple[int, int]]:
    """Log and number of the records whose objects are not in, from tables in hexadecimal."""
    data, found = bytes.fromhex(tables["meta"].get(b"skipped".hex(), "")), list[tuple[int, int]]()
    if len(data) % 20:
        raise ValueError("skipped")
    least = (0, 0)
    for at in range(0, len(data), 20):
        log, first, last = (int.from_bytes(data[at + a : at + b], "big") for a, b in ((0, 4), (4, 12), (12, 20)))
        if last < first or (log, first) < least:
            raise ValueError("skipped")
        found += [(log, seq) for seq in range(first, last + 1)]
        least = (log, last + 2)
    return found


def applied(tables: dict[str, dict[str, str]]) -> dict[int, tuple[int, bytes, tuple[int, int, int, bytes] | None]]:
    """By log: next_seq, the hash of the record before it, and the anchor's number, segment, offset and content id."""
    data, found = bytes.fromhex(tables["meta"].get(b"applied".hex(), "")), {}
    if len(data) % 96:
        raise ValueError("applied")
    for at in range(0, len(data), 96):
        entry = data[at : at + 96]
        log, next_seq, seq, segment, offset = (
            int.from_bytes(entry[a:b], "big") for a, b in ((0, 4), (4, 12), (44, 52), (52, 56), (56, 64))
        )
        if found and log <= max(found):
            raise ValueError("applied")
        found[log] = next_seq, entry[12:44], (seq, segment, offset, entry[64:]) if any(entry[64:]) else None
    return found


def check_sum(tables: dict[str, dict[str, str]], row_key: bytes, mask_key: bytes) -> None:
    """The sums of all buckets, and the sum of these."""
    covered: dict[bytes, list[bytes]] = {}
    for number, name in enumerate(("meta", "uid", "study", "series", "instance", "sums")):
        for key, value in ((bytes.fromhex(k), bytes.fromhex(v)) for k, v in tables[name].items()):
            if (name, key) != ("meta", b"sum"):
                text = bytes([number]) + len(key).to_bytes(2, "big") + key + value
                covered.setdefault(b"" if name in {"meta", "sums"} else bytes([number]) + bucket(name, key), []).append(
                    text
                )
    kept = {bytes.fromhex(k): bytes.fromhex(v) for k, v in tables["sums"].items()}
    kept[b""] = bytes.fromhex(tables["meta"][b"sum".hex()])
    if kept.keys() != covered.keys():
        raise ValueError("sum")
    for place, value in kept.items():
        mask = int.from_bytes(hmac.digest(mask_key, place + value[:16], "sha256"), "big")
        keyed = mask + sum(int.from_bytes(hmac.digest(row_key, text, "sha256"), "big") for text in covered[place])
        plain = sum(int.from_bytes(sha256(text).digest()[:8], "big") for text in [*covered[place], value[:48]])
        if value[16:] != (keyed % 2**256).to_bytes(32, "big") + (plain % 2**64).to_bytes(8, "big"):
            raise ValueError("sum")


def bucket(table: str, key: bytes) -> bytes:
    size, bits = {"uid": (20, 4), "study": (56, 0), "series": (56, 0), "instance": (60, 4)}[table]
    number = int.from_bytes(key, "big") >> (8 * len(key) - size) << bits
    return number.to_bytes((size + bits) // 8, "big")


def read(tables: dict[str, dict[str, str]], token_key: bytes, row_key: bytes, archive_id: bytes, sop: str) -> list[Any]:
    """The study, series and instance row of a SOP Instance UID, from tables in hexadecimal."""
    if tables["meta"][b"schema".hex()] != "00000005":
        raise ValueError("schema")
    reference = bytes.fromhex(tables["uid"][token(token_key, "instance", sop).hex()])
    return [
        row(row_key, archive_id, reference[:size], bytes.fromhex(tables[name][reference[:size].hex()]))
        for name, size in (("study", 8), ("series", 12), ("instance", 16))
    ]


def part_token(token_key: bytes, study_uid: str, patient_id: str, issuer: str, sop_instance: str) -> bytes:
    return token(token_key, "part", f"{study_uid}\0{patient_id}\0{issuer}\0{sop_instance}")


def rules_digest(issuer: str, issuers: dict[str, str], serve: str, serves: dict[str, str]) -> bytes:
    told = [issuer, sorted(issuers.items()), serve, sorted(serves.items())]
    return sha256(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()).digest()
