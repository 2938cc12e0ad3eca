"""Secrets do not leak by accident, derivations have labels of their own, errors carry cause and hint."""

from __future__ import annotations

import copy
import pickle

import pytest

from coffer.keys import errors
from coffer.keys.crypto import derive
from coffer.keys.errors import CofferError, ConfigError, InputError, UnavailableError
from coffer.keys.memory.secret import Secret


def test_a_secret_is_not_shown_compared_hashed_or_copied() -> None:
    secret = Secret(b"0123456789abcdef")
    assert "0123" not in f"{secret} {secret!r} {secret!s}"
    for leak in (
        lambda: secret == secret,
        lambda: secret != b"x",
        lambda: hash(secret),
        lambda: pickle.dumps(secret),
        lambda: copy.copy(secret),
        lambda: copy.deepcopy(secret),
    ):
        with pytest.raises(TypeError):
            leak()
    with pytest.raises(TypeError):
        Secret("text")  # type: ignore[arg-type]


def test_matching_and_wiping() -> None:
    source = bytearray(b"0123456789abcdef")
    secret = Secret(source)
    source[0] = 0
    assert secret.matches(b"0123456789abcdef")
    assert secret.matches(Secret(b"0123456789abcdef"))
    assert not secret.matches(b"0123456789abcdeF")
    assert not secret.matches(b"")
    assert len(secret) == 16
    secret.wipe()
    assert len(secret) == 0
    with pytest.raises(ValueError, match="wiped"):
        secret.reveal()


def test_labels_are_distinct_and_named_once() -> None:
    labels = [value for value in vars(derive).values() if isinstance(value, bytes) and value.startswith(b"coffer/")]
    assert len(labels) == len(set(labels)) > 10
    derived = {derive.derive(Secret(bytes(32)), label).reveal() for label in labels}
    assert len(derived) == len(labels)


@pytest.mark.parametrize(("key", "length"), [(31, 32), (32, 0), (32, 8161)])
def test_impossible_derivations(key: int, length: int) -> None:
    with pytest.raises(InputError):
        derive.derive(Secret(b"k" * key), derive.BLOB, length)


def test_the_error_tree() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name != "CofferError"]
    codes = [cls.exit_code for cls in classes if "exit_code" in vars(cls)]
    assert sorted(codes) == list(range(3, 17))
    assert errors.UnreadableError.exit_code == errors.WriterGoneError.exit_code == errors.UnavailableError.exit_code
    assert all(issubclass(cls, CofferError) for cls in classes)
    error = ConfigError("cause", hint="remedy")
    assert (str(error), error.hint(), UnavailableError("x").hint()) == ("cause", "remedy", "")


def test_a_secret_is_used_and_filled_where_it_lies() -> None:
    secret = Secret.filled(16, lambda place: place.__setitem__(slice(None), b"0123456789abcdef"))
    assert secret.use(bytes) == b"0123456789abcdef"
    with pytest.raises(TypeError):
        secret.use(lambda key: key.__setitem__(0, 1))
    kept = secret.use(lambda key: key)
    with pytest.raises(ValueError, match="released"):
        bytes(kept)

    def broken(place: memoryview) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Secret.filled(16, broken)


def test_what_was_made_of_a_secret_that_was_wiped_meanwhile_is_not_returned() -> None:
    """It may have been made of zeros."""
    secret = Secret(b"0123456789abcdef")

    def work(key: memoryview) -> bytes:
        secret.wipe()
        return bytes(key)

    with pytest.raises(ValueError, match="wiped"):
        secret.use(work)
    with pytest.raises(ValueError, match="wiped"):
        secret.use(bytes)
