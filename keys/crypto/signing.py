"""Checkpoint signatures: C2SP signed notes with Ed25519 (RFC 8032), signature type 0x01.

    note = body, which ends with a newline || "\\n" || "\u2014 " name " " base64(key hash(4) || signature(64)) "\\n" ...
    key hash = SHA-256(name || 0x0A || 0x01 || public key(32))[:4]
    vkey = name "+" hex(key hash) "+" base64(0x01 || public key)

Rule: the signature covers exactly the body's bytes; verifying needs only the vkey, never a secret.
Lines by other keys (witnesses) are allowed and ignored. It does not know what a checkpoint means. The same key signs
statements in bytes: one has a zero byte, which no note may have, so that neither can be passed off as the other.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from coffer.keys.errors import FormatError, InputError, IntegrityError
from coffer.keys.memory.secret import Secret

__all__ = ["CheckpointSigner", "body_of", "has_line", "is_signed_by", "require_vkey", "verify_note"]

_ED25519: Final = b"\x01"
_DASH: Final = "\u2014 ".encode()
_LONGEST_NOTE: Final = 1024 * 1024
_MOST_LINES: Final = 100


def _key_hash(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def _check_name(name: str) -> None:
    if not name or "+" in name or not name.isprintable() or any(letter.isspace() for letter in name):
        raise InputError("a signing name must not be empty or contain spaces or a plus sign")


def _check_body(body: bytes) -> None:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("a note's body must be UTF-8 text") from None
    if not text.endswith("\n") or any(letter < " " and letter != "\n" for letter in text):
        raise InputError("a note's body must end with a newline and have no other control characters")


class CheckpointSigner:
    """Signs notes with one Ed25519 key. Takes the 32-byte seed (`keys.keyring.signing_key`)."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: Secret) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def vkey(self, name: str) -> str:
        """Return the public verifier key for `name`; ASCII but for the name. Raises InputError for a bad name."""
        _check_name(name)
        hashed = _key_hash(name, self.public).hex()
        return f"{name}+{hashed}+{base64.b64encode(_ED25519 + self.public).decode()}"

    def sign_note(self, name: str, body: bytes) -> bytes:
        """Return the signed note. Raises InputError where body or name violate the C2SP signed-note rules."""
        return body + b"\n" + self.line(name, body)

    def line(self, name: str, body: bytes) -> bytes:
        """Return this key's signature line alone, to append to a note that another key signed. Raises as
        `sign_note`."""
        _check_name(name)
        _check_body(body)
        signature = base64.b64encode(_key_hash(name, self.public) + self._private.sign(body))
        return _DASH + name.encode() + b" " + signature + b"\n"

    def sign_statement(self, statement: bytes) -> bytes:
        """Return the signature, 64 bytes, of a statement that is no note. Raises InputError if it could be one."""
        if b"\0" not in statement:
            raise InputError("a statement must have a zero byte")
        return self._private.sign(statement)


def is_signed_by(vkey: str, statement: bytes, signature: bytes) -> bool:
    """Whether this key signed a statement (`CheckpointSigner.sign_statement`). Raises FormatError for a bad vkey."""
    try:
        Ed25519PublicKey.from_public_bytes(_parse_vkey(vkey)[2]).verify(signature, statement)
    except InvalidSignature:
        return False
    return b"\0" in statement


def require_vkey(vkey: str) -> None:
    """Return if this is a well-formed verifier key (C2SP signed-note). Raises FormatError."""
    _parse_vkey(vkey)


def _parse_vkey(vkey: str) -> tuple[str, bytes, bytes]:
    """Return (name, key hash, public key). Raises FormatError."""
    name, _, rest = vkey.partition("+")
    hashed, _, encoded = rest.partition("+")
    try:
        key = base64.b64decode(encoded, validate=True)
        key_hash = bytes.fromhex(hashed)
    except (ValueError, binascii.Error):
        raise FormatError("the verifier key is malformed") from None
    is_one_form = hashed == key_hash.hex() and encoded == base64.b64encode(key).decode()
    if not name or len(key) != 33 or key[:1] != _ED25519 or key_hash != _key_hash(name, key[1:]) or not is_one_form:
        raise FormatError("the verifier key is malformed")
    return name, key_hash, key[1:]


def _signature(line: bytes, name: str, key_hash: bytes) -> bytes | None:
    """Return the 64-byte signature of a line by this name and key; None for another's line. Raises FormatError."""
    words = line[len(_DASH) :].split(b" ")
    if not line.startswith(_DASH) or len(words) != 2:
        raise FormatError("a signature line of the note is malformed")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        raise FormatError("a signature line of the note is malformed") from None
    if words[0] != name.encode() or blob[:4] != key_hash:
        return None
    if len(blob) != 68 or base64.b64encode(blob) != words[1]:  # canonical base64 only: no spare bits
        raise FormatError("a signature line of the note is malformed")
    return blob[4:]


def _parts(note: bytes) -> tuple[bytes, list[bytes]]:
    """Return the body of a note and its signature lines. Raises FormatError."""
    at = note.rfind(b"\n\n")
    if len(note) > _LONGEST_NOTE or at < 0 or not note.endswith(b"\n"):
        raise FormatError("the note is malformed")
    body, lines = note[: at + 1], note[at + 2 : -1].split(b"\n")
    if len(lines) > _MOST_LINES:
        raise FormatError("the note has too many signatures")
    return body, lines


def body_of(note: bytes) -> bytes:
    """Return the body of a note without checking any signature. Raises FormatError."""
    return _parts(note)[0]


def has_line(note: bytes, vkey: str) -> bool:
    """Whether a note has a signature line with this key's name and hash; it is not verified. Raises FormatError."""
    name, key_hash, _ = _parse_vkey(vkey)
    return any(_signature(line, name, key_hash) is not None for line in _parts(note)[1])


def verify_note(note: bytes, name: str, vkey: str) -> bytes:
    """Return the body of a note signed by `vkey`, whose name must be `name`.

    Raises FormatError for a malformed note or key, IntegrityError when no signature by that key verifies.
    """
    key_name, key_hash, public = _parse_vkey(vkey)
    if key_name != name:
        raise IntegrityError("the verifier key belongs to another name")
    body, lines = _parts(note)
    found = [signature for signature in (_signature(line, name, key_hash) for line in lines) if signature is not None]
    if not found:
        raise IntegrityError("the note is not signed by this key")
    for signature in found:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, body)
        except InvalidSignature:
            raise IntegrityError("the note's signature does not verify") from None
    return body
