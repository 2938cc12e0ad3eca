"""Signed notes: a published note, RFC 8032 seeds, and every refusal."""

from __future__ import annotations

import pytest

from coffer.keys.crypto.signing import CheckpointSigner, verify_note
from coffer.keys.errors import FormatError, InputError, IntegrityError
from coffer.keys.memory.secret import Secret

# The example of the Go module golang.org/x/mod/sumdb/note, from which the C2SP specification grew.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
NAME = "archive.example/1"
BODY = b"archive.example/1\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
SIGNER = CheckpointSigner(Secret(bytes(range(32))))


def test_the_published_note_verifies() -> None:
    assert verify_note(NOTE, "PeterNeumann", VKEY).endswith(b"your problem is.\n")


def test_golden_note() -> None:
    assert SIGNER.public.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    note = SIGNER.sign_note(NAME, BODY)
    assert note == SIGNER.sign_note(NAME, BODY)
    assert verify_note(note, NAME, SIGNER.vkey(NAME)) == BODY


def test_a_flipped_byte_in_every_position_is_refused() -> None:
    note = bytearray(SIGNER.sign_note(NAME, BODY))
    for at in range(len(note)):
        note[at] ^= 1
        with pytest.raises(IntegrityError):
            verify_note(bytes(note), NAME, SIGNER.vkey(NAME))
        note[at] ^= 1


def test_witness_lines_are_ignored_and_never_enough() -> None:
    witness = CheckpointSigner(Secret(bytes(32)))
    line = witness.sign_note("witness", BODY).split(b"\n\n")[1]
    assert verify_note(SIGNER.sign_note(NAME, BODY) + line, NAME, SIGNER.vkey(NAME)) == BODY
    assert verify_note(BODY + b"\n" + line + SIGNER.sign_note(NAME, BODY).split(b"\n\n")[1], NAME, SIGNER.vkey(NAME))
    for note in (witness.sign_note("witness", BODY), witness.sign_note(NAME, BODY)):
        with pytest.raises(IntegrityError):
            verify_note(note, NAME, SIGNER.vkey(NAME))
    with pytest.raises(IntegrityError):
        verify_note(SIGNER.sign_note(NAME, BODY), "witness", SIGNER.vkey(NAME))


def test_malformed_notes_and_keys_are_refused() -> None:
    vkey = SIGNER.vkey(NAME)
    for note in (
        b"",
        BODY,
        BODY + b"\n",
        BODY + b"\n-- x y\n",
        BODY + b"\n\xe2\x80\x94 x !!!!\n",
        b"x" * (1 << 20) + BODY,
    ):
        with pytest.raises(IntegrityError):
            verify_note(note, NAME, vkey)
    for bad in ("", "a+b", vkey[:-4], vkey.replace("+A", "+B"), NAME + "+00000000" + vkey[vkey.rindex("+") :]):
        with pytest.raises(FormatError):
            verify_note(SIGNER.sign_note(NAME, BODY), NAME, bad)


@pytest.mark.parametrize("body", [b"", b"no newline", b"tab\t\n", b"\xff\n"])
def test_bodies_that_cannot_be_signed(body: bytes) -> None:
    with pytest.raises(InputError):
        SIGNER.sign_note(NAME, body)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_names_that_cannot_sign(name: str) -> None:
    with pytest.raises(InputError):
        SIGNER.sign_note(name, BODY)
