"""Key shares: an epoch's KEK split among people, so that any k of n recover it and fewer learn nothing (pure).

Shamir's scheme over GF(2^8) with the AES polynomial, byte by byte. Rule: secrets are only added, or multiplied by
public numbers, without tables and without branches on them. A share states its archive, epoch and group; a check value
under the KEK detects a wrong share, which Shamir's scheme alone would silently turn into a wrong key. FORMAT.md defines
the bytes and the text. It reads no files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, count
from typing import Final

from coffer.keys.crypto.derive import HEDGE, SHARE, SHARE_POLYNOMIAL, derive, hmac_sha256
from coffer.keys.crypto.hedge import Random, hedged
from coffer.keys.errors import InputError
from coffer.keys.memory.secret import Secret

__all__ = ["MOST_SHARES", "Group", "Recovered", "Share", "combine", "split", "split_secret"]

VERSION: Final = 1
MOST_SHARES: Final = 16
GROUP: Final = struct.Struct(">B8s16s16sIIBB")  # version group archive_id kek_id epoch made_s threshold count
BODY: Final = struct.Struct(">B16s32s")  # index check value
SIZE: Final = GROUP.size + BODY.size
_CHECK: Final = 16
_SECRET: Final = 32
_ONES: Final = int.from_bytes(b"\x01" * _SECRET, "big")
_LOW7: Final = 0x7F * _ONES


@dataclass(frozen=True, slots=True)
class Group:
    """What all shares of one split have in common. `made_s` is in seconds since 1970 UTC."""

    group: bytes
    archive_id: bytes
    kek_id: bytes
    epoch: int
    made_s: int
    threshold: int
    count: int

    def encode(self) -> bytes:
        """Return the 51 bytes."""
        return GROUP.pack(
            VERSION, self.group, self.archive_id, self.kek_id, self.epoch, self.made_s, self.threshold, self.count
        )

    @classmethod
    def decode(cls, data: bytes) -> Group:
        """Return the group. Raises InputError for another length or version, and for impossible numbers."""
        if len(data) != GROUP.size or data[0] != VERSION:
            raise InputError("this is not a key share that this release knows")
        _, *fields = GROUP.unpack(data)
        group = cls(*fields)
        if not (2 <= group.threshold <= group.count <= MOST_SHARES and group.epoch):
            raise InputError("the numbers of this key share contradict each other")
        return group


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One person's share. `index` counts from 1; `check` is the same in all shares of a group."""

    of: Group
    index: int
    check: bytes
    value: Secret

    def encode(self) -> bytes:
        """Return the 100 bytes. They are secret: k shares give the key."""
        return self.of.encode() + BODY.pack(self.index, self.check, self.value.reveal())

    @classmethod
    def decode(cls, data: bytes) -> Share:
        """Return the share. Raises InputError for another length or version, and for impossible numbers."""
        if len(data) != SIZE:
            raise InputError("this is not a key share that this release knows")
        group = Group.decode(data[: GROUP.size])
        index, check, value = BODY.unpack_from(data, GROUP.size)
        if not 1 <= index <= group.count:
            raise InputError("the numbers of this key share contradict each other")
        return cls(group, index, check, Secret(value))


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """A recovered KEK, and the names of the given shares that do not belong to it although they claim to."""

    of: Group
    kek: Secret
    wrong: tuple[str, ...]


def times(lanes: int, factor: int) -> int:
    """Multiply each of 32 bytes, packed into one integer, by a public factor in GF(2^8) mod x^8 + x^4 + x^3 + x + 1."""
    total = 0
    for bit in range(8):
        total ^= lanes * (factor >> bit & 1)
        high = lanes >> 7 & _ONES
        lanes = (lanes & _LOW7) << 1 ^ high * 0x1B
    return total


def _inverse(factor: int) -> int:
    """Return 1 / factor for a public factor other than 0: factor^254, since factor^255 = 1."""
    square, product = factor, 1
    for _ in range(7):  # 254 = 2 + 4 + ... + 128
        square = times(square, square) & 0xFF
        product = times(product, square) & 0xFF
    return product


def split_secret(secret: bytes, threshold: int, count: int, random: Callable[[int], bytes]) -> list[bytes]:
    """Return the values at x = 1 to `count` of polynomials of degree `threshold` - 1 with `secret` as constant
    terms."""
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(random(_SECRET), "big") for _ in range(threshold - 1)]
    values = []
    for x in range(1, count + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = times(value, x) ^ coefficient
        values.append(value.to_bytes(_SECRET, "big"))
    return values


def value_at(x: int, points: Mapping[int, bytes]) -> bytes:
    """Return the value at `x` of the polynomials through `points` (Lagrange); x = 0 gives the secret."""
    total = 0
    for at, value in points.items():
        above = below = 1
        for other in points.keys() - {at}:
            above = times(above, x ^ other) & 0xFF
            below = times(below, at ^ other) & 0xFF
        weight = times(above, _inverse(below)) & 0xFF
        total ^= times(int.from_bytes(value, "big"), weight)
    return total.to_bytes(_SECRET, "big")


def split(kek: Secret, of: Group, random: Random) -> list[Share]:
    """Split a 32-byte KEK into shares. Raises InputError unless 2 <= threshold <= count <= 16.

    Two groups never have the same polynomials: with shares of both, fewer than k people would know something.
    """
    if not 2 <= of.threshold <= of.count <= MOST_SHARES:
        raise InputError(
            f"{of.threshold} of {of.count} shares cannot be made",
            hint=f"make 2 to {MOST_SHARES} shares, and require at least 2 to recover: one alone would be the key",
        )
    check = _check_value(kek, of)
    key, numbers = derive(kek, HEDGE), count(1)

    def coefficients(size: int) -> bytes:
        return hedged(key, SHARE_POLYNOMIAL, random, size, of.encode(), next(numbers).to_bytes(1, "big"))

    values = split_secret(kek.reveal(), of.threshold, of.count, coefficients)
    return [Share(of, index, check, Secret(value)) for index, value in enumerate(values, 1)]


def _check_value(kek: Secret, of: Group) -> bytes:
    return hmac_sha256(derive(kek, SHARE), of.encode())[:_CHECK]


def combine(named: Mapping[str, Share]) -> Recovered:
    """Recover the KEK from shares, given under the names that messages use for them.

    With more shares than the threshold, altered ones are found and named. Raises InputError, naming shares of different
    groups, or saying how many are missing or that one was altered.
    """
    of = _common_group(named)
    points = _points(named)
    missing = of.threshold - len(points)
    if missing > 0:
        raise InputError(
            f"{len(points)} different shares of group {of.group.hex()}, and {of.threshold} are needed",
            hint=f"give {missing} more of this group: `--share FILE` for each",
        )
    check = next(iter(named.values())).check
    for chosen in combinations(sorted(points), of.threshold):
        basis = {index: points[index][1] for index in chosen}
        kek = Secret(value_at(0, basis))
        if Secret(_check_value(kek, of)).matches(check):
            wrong = [name for index, (name, value) in points.items() if value_at(index, basis) != value]
            return Recovered(of, kek, tuple(wrong))
    raise InputError(
        f"the shares do not give the key of group {of.group.hex()}: at least one of {', '.join(named)} was altered",
        hint="give more shares than are needed, then the altered one is identified",
    )


def _common_group(named: Mapping[str, Share]) -> Group:
    if not named:
        raise InputError("no share was given", hint="give each with --share FILE")
    groups: dict[tuple[bytes, bytes], list[str]] = {}
    for name, share in named.items():
        groups.setdefault((share.of.encode(), share.check), []).append(name)
    if len(groups) > 1:
        described = [f"{', '.join(names)}: {_describe(named[names[0]].of)}" for names in groups.values()]
        raise InputError(
            "the shares are not of one splitting:\n" + "\n".join(f"  {line}" for line in described),
            hint="give shares of one group only",
        )
    return next(iter(named.values())).of


def _describe(of: Group) -> str:
    return f"group {of.group.hex()}, epoch {of.epoch}, {of.threshold} of {of.count}, archive {of.archive_id.hex()[:8]}"


def _points(named: Mapping[str, Share]) -> dict[int, tuple[str, bytes]]:
    """Return name and value by index. A repeated share counts once; two different ones of one index are an error."""
    points: dict[int, tuple[str, bytes]] = {}
    for name, share in named.items():
        first, value = points.setdefault(share.index, (name, share.value.reveal()))
        if not share.value.matches(value):
            raise InputError(
                f"{first} and {name} are both share {share.index}, with different content: one of them was altered",
                hint="try without the one, then without the other",
            )
    return points
