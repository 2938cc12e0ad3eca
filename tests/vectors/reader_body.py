"""A second reader of sealed bodies, written from archive/FORMAT-BODY.md and keys/FORMAT.md; no code of Coffer in it."""

import hashlib
import math
import struct
from pathlib import Path

import xxhash
import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

DICTIONARY = Path(__file__).parents[2] / "archive" / "codec" / "dictionary-1.bin"
INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"


def unseal(key: bytes, context: bytes, sealed: bytes) -> bytes:
    """The plaintext of one chunked-encryption message."""
    salt, commitment = sealed[:24], sealed[24:56]
    material = HKDFExpand(hashes.SHA512(), 76, INFO + salt + context).derive(key)
    if material[44:] != commitment:
        raise ValueError("another key or context")
    cipher, base = AESGCM(material[:32]), int.from_bytes(material[32:44], "big")
    out = []
    for number, at in enumerate(range(56, len(sealed) + 1, 16400)):
        nonce = (base ^ number).to_bytes(12, "big")
        out.append(cipher.decrypt(nonce, sealed[at : at + 16400], None))
        if len(out[-1]) < 16384:
            break
    return b"".join(out)


def read_body(key: bytes, ids: tuple[bytes, bytes, bytes], kind: int, sealed: bytes) -> tuple[bytes, bytes]:
    """Meta and data set of a sealed body; `ids` are archive id, study key id and content id."""
    chunks = -(-(len(sealed) - 56) // 16400)
    plain_length = len(sealed) - 56 - 16 * chunks
    context = b"coffer/blob/v1\0" + b"".join(ids) + struct.pack(">HQ", kind, plain_length)
    plain = unseal(key, context, sealed)
    version, codec, length, digest, fast_kind, fast, meta_length, frames = struct.unpack_from(">BHQ32sB8sII", plain)
    if (version, codec) != (2, 1) or fast_kind > 1 or (fast_kind == 0 and any(fast)):
        raise ValueError("unknown version, codec or digest")
    table = 60 + meta_length
    at = table + 8 * frames
    out = []
    for number in range(frames):
        coded, size = struct.unpack_from(">II", plain, table + 8 * number)
        out.append(decode(plain[at : at + coded], size))
        at += coded
    data = b"".join(out)
    if len(plain) != padded(at) or any(plain[at:]):
        raise ValueError("the padding is not what it must be")
    if len(data) != length or hashlib.sha256(data).digest() != digest:
        raise ValueError("the lengths or the hash do not fit")
    if fast_kind == 1 and xxhash.xxh3_64(data).digest() != fast:
        raise ValueError("the fast digest does not fit")
    return plain[60:table], data


def padded(used: int) -> int:
    """The length of a plain body with `used` bytes before its padding, counted up bit by bit as the page says it."""
    if used <= 512:
        return 512
    e = math.floor(math.log2(used))
    s = math.floor(math.log2(e)) + 2
    while used % 2 ** (e - s):
        used += 1
    return used


def decode(frame: bytes, size: int) -> bytes:
    """The plain bytes of one frame, by plain loops over integers."""
    if frame[0] == 0:
        return frame[1:]
    if frame[0] == 1:
        return zstandard.decompress(frame[1:], max_output_size=size)
    if frame[0] == 3:
        words = zstandard.ZstdCompressionDict(DICTIONARY.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdDecompressor(dict_data=words).decompress(frame[1:], max_output_size=size)
    _, choice, form, step, width = struct.unpack_from(">BBBBI", frame)
    word, count = form & 127, size // (form & 127)
    streams, at = [], 8 + 4 * (9 + word)
    for coded in struct.unpack_from(f">{9 + word}I", frame, 8):
        streams.append(zstandard.decompress(frame[at : at + coded], max_output_size=size + 16) if coded else b"")
        at += coded
    if at != len(frame):
        raise ValueError("the streams do not fill the frame")
    mask = (1 << 8 * word) - 1
    values = [v & mask for v in unsort(streams, -(-count // 16), is_signed=choice > 0)][:count]
    if choice in (2, 3):
        for i in range(width, count):
            values[i] = (values[i] + values[i - width]) & mask
    if choice in (1, 3):
        for i in range(step, count):
            values[i] = (values[i] + values[i - step]) & mask
    return b"".join(v.to_bytes(word, "big" if form & 128 else "little") for v in values)


def unsort(streams: list[bytes], blocks: int, *, is_signed: bool) -> list[int]:
    """The words of all blocks, taken from the stream of each one's class."""
    at = [0] * 10
    values = []
    for block in range(blocks):
        number = streams[0][block // 2] >> 4 * (block % 2) & 15
        bits = (0, 1, 2, 4, 4, 8, 8, 8, 8, 8)[number]
        for i in range(16):
            place = at[number] + i * bits // 8
            value = streams[number][place] >> i * bits % 8 & (1 << bits) - 1 if bits else 0
            if number == 9:
                value += sum(s[place] << 8 * above for above, s in enumerate(reversed(streams[10:]), 1))
            elif number and is_signed:
                value -= 1 << number - 1
            values.append(value)
        at[number] += 2 * bits
    return values
