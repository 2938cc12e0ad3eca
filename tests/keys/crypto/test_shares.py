"""Key shares: any k of n give the key, fewer give nothing, and every share that does not belong is named."""

from __future__ import annotations

import contextlib
import itertools
import os
import random as pseudo
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coffer.keys.crypto.shamir import (
    SIZE,
    Group,
    Share,
    combine,
    split,
    split_secret,
    value_at,
)
from coffer.keys.errors import InputError
from coffer.keys.memory.secret import Secret
from coffer.keys.shares.text import file_name, parse, render

KEK = bytes(range(100, 132))


def group(threshold: int, count: int, epoch: int = 1, name: bytes = b"groupid1") -> Group:
    return Group(name, bytes(range(16)), b"k" * 16, epoch, 1_767_225_600, threshold, count)


def shares(threshold: int, count: int, kek: bytes = KEK, **of: object) -> list[Share]:
    return split(Secret(kek), group(threshold, count, **of), os.urandom)  # type: ignore[arg-type]


def named(chosen: Sequence[Share]) -> dict[str, Share]:
    return {f"file{number}": share for number, share in enumerate(chosen)}


def slow_times(a: int, b: int) -> int:
    """GF(2^8) by the book: polynomial multiplication, then division by x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


def test_multiplication_is_that_of_the_field() -> None:
    from coffer.keys.crypto.shamir import _inverse, times

    for a in range(256):
        for b in range(256):
            lanes = a << 8 | b  # two lanes at once
            assert times(lanes, b) == slow_times(a, b) << 8 | slow_times(b, b)
        assert not a or slow_times(a, _inverse(a)) == 1


sizes = st.integers(2, 16).flatmap(lambda n: st.tuples(st.integers(2, n), st.just(n)))


@given(sizes, st.binary(min_size=32, max_size=32), st.randoms(use_true_random=False))
def test_any_k_of_n_give_the_key(size: tuple[int, int], kek: bytes, chance: pseudo.Random) -> None:
    threshold, count = size
    made = shares(threshold, count, kek)
    chosen = chance.sample(made, chance.randint(threshold, count))
    recovered = combine(named(chosen))
    assert recovered.kek.matches(kek)
    assert recovered.wrong == ()


@given(sizes, st.randoms(use_true_random=False))
def test_fewer_than_k_are_refused_and_told_how_many_are_missing(size: tuple[int, int], chance: pseudo.Random) -> None:
    threshold, count = size
    chosen = chance.sample(shares(threshold, count), chance.randint(1, threshold - 1))
    with pytest.raises(InputError, match=f"{threshold} are needed") as caught:
        combine(named(chosen))
    assert f"give {threshold - len(chosen)} more" in caught.value.hint()


@given(sizes, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.randoms())
def test_k_minus_one_say_nothing(size: tuple[int, int], kek: bytes, other: bytes, chance: pseudo.Random) -> None:
    """Perfect secrecy: with k - 1 values every key is as possible as the true one, for one more value each."""
    threshold, count = size
    values = split_secret(kek, threshold, count, os.urandom)
    known = dict(chance.sample(list(enumerate(values, 1)), threshold - 1))
    missing = next(x for x in range(1, count + 1) if x not in known)
    alike = value_at(missing, {**known, 0: other})  # the value that would make `other` the key
    assert value_at(0, {**known, missing: alike}) == other
    assert (alike == values[missing - 1]) == (other == kek)


def test_one_value_is_spread_evenly() -> None:
    """A value of its own depends on the random coefficients only: each byte takes each value about as often."""
    counts = [0] * 256
    for _ in range(2000):
        for byte in split_secret(KEK, 2, 2, os.urandom)[0]:
            counts[byte] += 1
    assert min(counts) > 250 * 0.6
    assert max(counts) < 250 * 1.4


@given(sizes, st.integers(0, 31), st.integers(1, 255), st.randoms(use_true_random=False))
def test_an_altered_share_is_found_and_named_if_there_are_enough_others(
    size: tuple[int, int], at: int, mask: int, chance: pseudo.Random
) -> None:
    threshold, count = size
    made = shares(threshold, count)
    bad = chance.randrange(count)
    value = bytearray(made[bad].value.reveal())
    value[at] ^= mask
    forged = Share(made[bad].of, made[bad].index, made[bad].check, Secret(value))
    others = [share for share in made if share is not made[bad]]
    exactly = [forged, *chance.sample(others, threshold - 1)]
    with pytest.raises(InputError, match=r"at least one of file0.* was altered"):
        combine(named(exactly))
    assume(count > threshold)
    recovered = combine(named([*chance.sample(others, threshold), forged]))
    assert recovered.kek.matches(KEK)
    assert recovered.wrong == (f"file{threshold}",)


def test_shares_of_two_groups_are_refused_by_name() -> None:
    first, second = shares(2, 3), shares(2, 3, name=b"groupid2")
    with pytest.raises(InputError) as caught:
        combine(named([first[0], second[1]]))
    assert "file0: group 67726f7570696431" in str(caught.value)
    assert "file1: group 67726f7570696432" in str(caught.value)
    again = shares(2, 3, kek=bytes(32))  # of the same group id, but another key
    with pytest.raises(InputError, match="not of one splitting"):
        combine(named([first[0], again[1]]))
    with pytest.raises(InputError, match="epoch 2"):
        combine(named([first[0], shares(2, 3, epoch=2)[1]]))


def test_the_same_share_twice_counts_once_and_two_of_one_number_are_named() -> None:
    made = shares(2, 3)
    with pytest.raises(InputError, match="1 different shares"):
        combine(named([made[0], made[0]]))
    assert combine(named([made[0], made[0], made[2]])).kek.matches(KEK)
    forged = Share(made[0].of, 1, made[0].check, Secret(bytes(32)))
    with pytest.raises(InputError, match="file0 and file1 are both share 1"):
        combine(named([made[0], forged, made[2]]))
    with pytest.raises(InputError, match="no share"):
        combine({})


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (1, 5), (0, 3), (4, 3), (2, 17), (17, 17)])
def test_numbers_that_cannot_be(threshold: int, count: int) -> None:
    with pytest.raises(InputError, match=f"{threshold} of {count}"):
        shares(threshold, count)


# --- text


@given(sizes, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=8))
def test_text_there_and_back(size: tuple[int, int], epoch: int, made_s: int, name: bytes) -> None:
    of = Group(name, bytes(16), os.urandom(16), epoch, made_s, *size)
    for share in split(Secret(KEK), of, os.urandom):
        text = render(share)
        assert text.isascii()
        assert max(map(len, text.splitlines())) < 120
        assert parse(text, "x").encode() == share.encode()
        assert file_name(share).endswith(f"epoch{epoch}-{share.index}of{size[1]}.txt")


TYPED: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "no spaces": lambda text: "\n".join(
        line[:2] + line[2:].replace(" ", "") if line[:1].isdigit() else line for line in text.splitlines()
    ),
    "hyphens": lambda text: "\n".join(
        line[:2] + line[2:].replace(" ", "-") if line[:1].isdigit() else line for line in text.splitlines()
    ),
    "digits that look like letters": lambda text: "\n".join(
        line[:2] + line[2:].translate(str.maketrans("OIB", "018")) if line[:1].isdigit() else line
        for line in text.splitlines()
    ),
    "only the letters": lambda text: "\n".join(line for line in text.splitlines() if line[:1].isdigit()),
    "lines in another order": lambda text: "\n".join(reversed([x for x in text.splitlines() if x[:1].isdigit()])),
    "DOS line ends": lambda text: text.replace("\n", "\r\n"),
    "a mail around it": lambda text: "Dear Anna,\n1 of us must keep this\n" + text + "\nYours\n",
    "indented": lambda text: "\n".join("    " + line for line in text.splitlines()),
    "points": lambda text: "\n".join(
        line.replace(" ", ". ", 1) if line[:1].isdigit() else line for line in text.splitlines()
    ),
}


@pytest.mark.parametrize("how", TYPED)
def test_what_a_person_types_is_understood(how: str) -> None:
    for share in shares(3, 5):
        assert parse(TYPED[how](render(share)), "x").encode() == share.encode()


@given(st.integers(1, 7), st.integers(2, 35), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
@example(1, 2, "A")
def test_every_wrong_letter_is_found_in_its_line(line: int, column: int, letter: str) -> None:
    share = shares(2, 2)[0]
    lines = render(share).splitlines()
    at = next(number for number, text in enumerate(lines) if text.startswith(f"{line} "))
    assume(column < len(lines[at]) and lines[at][column] not in (" ", letter))
    lines[at] = lines[at][:column] + letter + lines[at][column + 1 :]
    with pytest.raises(InputError, match=rf"my\.txt: line {line} is mistyped"):
        parse("\n".join(lines), "my.txt")


def test_missing_swapped_and_foreign_lines_are_told() -> None:
    first, second = (render(share).splitlines() for share in shares(2, 2))
    starts = [next(n for n, text in enumerate(first) if text.startswith(f"{line} ")) for line in range(1, 8)]
    with pytest.raises(InputError, match=r"x has no line 3, 5"):
        parse("\n".join(text for n, text in enumerate(first) if n not in (starts[2], starts[4])), "x")
    swapped = [*first]
    swapped[starts[0]], swapped[starts[1]] = "1" + first[starts[1]][1:], "2" + first[starts[0]][1:]
    with pytest.raises(InputError, match="line 1 is mistyped"):
        parse("\n".join(swapped), "x")
    mixed = [*first]
    mixed[starts[5]] = second[starts[5]]
    with pytest.raises(InputError, match="not all of the same share"):
        parse("\n".join(mixed), "x")
    for text in ("", "hello", "\0" * 100, "1 2 3 4 5 6 7", "-----BEGIN COFFER KEY SHARE-----"):
        with pytest.raises(InputError, match=r"x is not a key share|line"):
            parse(text, "x")


@pytest.mark.parametrize(
    ("field", "edited"), [("Epoch: 1", "Epoch: 2"), ("Share: 1 of", "Share: 2 of"), ("Group: 67", "Group: 68")]
)
def test_text_that_contradicts_the_letters_is_told(field: str, edited: str) -> None:
    text = render(shares(2, 2)[0])
    assert field in text
    with pytest.raises(InputError, match=rf"x says {edited.split(':', maxsplit=1)[0]}"):
        parse(text.replace(field, edited), "x")


@given(st.binary(max_size=200) | st.binary(min_size=SIZE, max_size=SIZE))
def test_no_bytes_and_no_text_crash_it(data: bytes) -> None:
    with contextlib.suppress(InputError):
        assert Share.decode(data).encode() == data
    with pytest.raises(InputError):
        parse(data.decode("latin-1"), "x")


def test_every_choice_of_three_of_five() -> None:
    made = shares(3, 5)
    for chosen in itertools.combinations(made, 3):
        assert combine(named(chosen)).kek.matches(KEK)


def test_a_text_of_any_length_is_read_once() -> None:
    """Looked at again from each of its blanks it would take years."""
    for line in (
        "1" + " " * 4_000_000 + "!",
        " " * 4_000_000 + "1",
        "Made:" + " " * 4_000_000 + "x",
        "1 " + "- " * 2_000_000,
    ):
        with pytest.raises(InputError):
            parse(line, "share.txt")
