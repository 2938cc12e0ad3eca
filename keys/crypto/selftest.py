"""Known-answer tests of every primitive, run once in each process before it uses its first key.

Rule: a cipher library that computes wrong results (a broken build, a faulty CPU path) stops the process before it can
seal or open anything. Code that makes a key usable calls `require`: new key file, keyring, recovery from shares, worker
process. The expected values are published or follow from published ones by hand calculation. It takes a few
milliseconds and does not test randomness.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from coffer.keys.crypto import aead, shamir
from coffer.keys.crypto.derive import derive, hmac_sha256
from coffer.keys.errors import IntegrityError
from coffer.keys.memory.secret import Secret

__all__ = ["require", "run"]

_hex = bytes.fromhex
_TESTS: Final[list[Callable[[], bool]]] = []
_passed: Final[list[int]] = []  # the number of tests, once all have passed


def _known_answer(test: Callable[[], bool]) -> Callable[[], bool]:
    _TESTS.append(test)
    return test


@_known_answer
def _sha256() -> bool:  # FIPS 180-4, one block and two
    one = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    two = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
    return hashlib.sha256(b"abc").hexdigest() == one and hashlib.sha256(long).hexdigest() == two


@_known_answer
def _hmac_sha256() -> bool:  # RFC 4231 case 2
    expected = _hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    return hmac_sha256(Secret(b"Jefe"), b"what do ya want for nothing?") == expected


@_known_answer
def _hmac_sha512() -> bool:  # RFC 4231 case 2
    expected = (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )
    return hmac.new(b"Jefe", b"what do ya want for nothing?", "sha512").hexdigest() == expected


@_known_answer
def _hkdf_sha256() -> bool:  # RFC 5869 A.1, the Expand half
    prk = Secret(_hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    return derive(prk, _hex("f0f1f2f3f4f5f6f7f8f9"), 42).reveal().hex() == expected


@_known_answer
def _aes_256_gcm() -> bool:  # GCM specification (McGrew, Viega), test case 14
    expected = _hex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    cipher = AESGCM(bytes(32))
    return cipher.encrypt(bytes(12), bytes(16), None) == expected and cipher.decrypt(
        bytes(12), expected, None
    ) == bytes(16)


@_known_answer
def _chunked_encryption() -> bool:  # C2SP chunked-encryption, empty message, both directions
    key = Secret(_hex("a819408ce5010ca2e09ef59ac3d89f5ff8595d02b524e61bf8afa894a95d594f"))
    sealed = _hex(
        "2bc990059473448e6ebd442aa16bfaa0567ac03dd094876b25ad5561d2cdd51807d171b088b9bb6f"
        "72584a4c2ce69141f7c9e92c9495b058c2f3d45d13177f564a2a38da58e05719"
    )
    return aead.Sealer(key, b"", sealed[:24]).whole(b"") == sealed and aead.open_sealed(key, b"", sealed) == b""


@_known_answer
def _chunks() -> bool:  # tests/vectors/chunked_encryption.json, two chunks, whole and as a stream
    key = Secret(_hex("5bda7a9c0fb9e5102411342f9bedf63f37d8835ee6e903e95dd3050fd15af81c"))
    salt, context = _hex("132f322bdc46f8e326c11756a71361039c332e51493f99ec"), b"context 8"
    plain = b"".join(hashlib.sha256(b"coffer vector" + n.to_bytes(8, "big")).digest() for n in range(640))
    sealer = aead.Sealer(key, context, salt)
    sealed = sealer.header + sealer.update(plain[:9]) + sealer.update(plain[9:]) + sealer.finish()
    expected = "4084a2e2568d773f6504c4cad0aa7ed2ac90ddd70bf1ac18c1d1a6dc66cdbbc5"
    return (
        hashlib.sha256(sealed).hexdigest() == expected
        and aead.Sealer(key, context, salt).whole(plain) == sealed
        and aead.open_sealed(key, context, sealed) == plain
    )


@_known_answer
def _refuses_altered() -> bool:  # a message with a flipped bit must not open
    key = Secret(bytes(range(32)))
    sealed = bytearray(aead.Sealer(key, b"c", bytes(24)).whole(b"x"))
    sealed[-1] ^= 1
    try:
        aead.open_sealed(key, b"c", sealed)
    except IntegrityError:
        return True
    return False


@_known_answer
def _ed25519() -> bool:  # RFC 8032 7.1 test 1: sign, verify, and reject another message
    private = Ed25519PrivateKey.from_private_bytes(
        _hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    expected = _hex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    private.public_key().verify(expected, b"")
    try:
        private.public_key().verify(expected, b"x")
    except InvalidSignature:
        return private.sign(b"") == expected
    return False


@_known_answer
def _argon2id() -> bool:  # RFC 9106 5.3
    kdf = Argon2id(
        salt=bytes([2] * 16),
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        ad=bytes([4] * 12),
        secret=bytes([3] * 8),
    )
    expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    return kdf.derive(bytes([1] * 32)).hex() == expected


@_known_answer
def _key_shares() -> bool:  # FIPS 197 4.2: {57} x {83} = {c1}, {83} x {02} = {1d}
    secret, coefficient = b"\x57" * 32, b"\x83" * 32
    values = shamir.split_secret(secret, 2, 3, lambda size: coefficient[:size])
    return (
        shamir.times(int.from_bytes(secret, "big"), 0x83) == int.from_bytes(b"\xc1" * 32, "big")
        and values == [b"\xd4" * 32, b"\x4a" * 32, b"\xc9" * 32]
        and shamir.value_at(0, {1: values[0], 3: values[2]}) == secret
    )


def run() -> int:
    """Run all tests. Returns how many there are. Raises IntegrityError naming those that failed."""
    failed: list[str] = []
    for test in _TESTS:
        try:
            passed = test()
        except Exception:  # noqa: BLE001  a broken library may raise anything
            passed = False
        if not passed:
            failed.append(test.__name__.strip("_"))
    if failed:
        raise IntegrityError(
            f"cryptographic self-test failed: {', '.join(failed)}",
            hint="nothing was read or written: reinstall Coffer and its packages, or try another machine",
        )
    return len(_TESTS)


def require() -> None:
    """Run all tests unless this process has passed them already. Raises IntegrityError as `run`."""
    if not _passed:
        _passed.append(run())
