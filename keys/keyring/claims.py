"""Claims: which key belongs to what a text identifies, decided once for all processes in the keyring itself.

Rule: a claim is written in the transaction that makes its key, is removed in the one that shreds it, and moves in the
one that replaces it. The key's row names its claim in its authenticated part, so a claim that was edited, or moved to
another key, is refused. The texts are the floors' above; here they only have tokens.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import FormatError, IntegrityError, ShreddedError, SupersededError
from coffer.keys.keyring import rows
from coffer.keys.keyring.rows import KeyRow
from coffer.keys.keyring.studies import StudyKeys
from coffer.keys.memory.secret import Secret
from coffer.keys.store.keyring_store import KeyringStore, Row
from coffer.keys.store.sums import bucket_of

__all__ = ["RECORDED", "Claim", "Claims", "claim_key", "claim_rows"]

_LAYOUT: Final = struct.Struct(">16sQ")  # key_id from_seq
RECORDED: Final = (1 << 64) - 1
_CACHED: Final = 4096
_MOST_UNSETTLED: Final = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """The id of the key, and whether the log is known to have the record of its making (RECORDED), else the number of
    the first record that may be it. `is_new`: this process made it and has not reported that record."""

    key_id: bytes
    from_seq: int = RECORDED
    is_new: bool = field(default=False, compare=False)

    def encode(self) -> bytes:
        """Return the 24 bytes."""
        return _LAYOUT.pack(self.key_id, self.from_seq)

    @classmethod
    def decode(cls, data: bytes) -> Claim:
        """Return the claim. Raises FormatError for another length."""
        if len(data) != _LAYOUT.size:
            raise FormatError("a claim of the keyring has the wrong length")
        return cls(*_LAYOUT.unpack(data))


def claim_key(token: bytes) -> bytes:
    """Return the key of the row of the claim with this token."""
    return rows.CLAIM_PREFIX + token


def claim_rows(get: Callable[[bytes], bytes | None], key_id: bytes, row: KeyRow) -> list[Row]:
    """Return the row of a key's claim as `get` reads it, in a list; an empty one where the key has none."""
    place = claim_key(row.claim)
    value = get(place) if row.claim != rows.NO_CLAIM else None
    return [(place, value)] if value is not None and Claim.decode(value).key_id == key_id else []


class Claims:
    """The claims of one keyring. Thread-safe."""

    def __init__(
        self,
        store: KeyringStore,
        keys: StudyKeys,
        key: Secret,
        *,
        writing: threading.Lock,
        random: Callable[[int], bytes],
        seen: int,
    ) -> None:
        """`key` makes the tokens; `writing` is held during a commit; `seen` is the feed's number by now."""
        self._store = store
        self._keys = keys
        self._key = key
        self._writing = writing
        self._random = random
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Claim] = OrderedDict()
        self._unsettled: dict[bytes, tuple[bytes, bytes]] = {}  # by row key, the row as it was and as it will be
        self._seen = seen

    def token(self, text: str) -> bytes:
        """Return the 16 bytes that stand for a text in the keyring."""
        return hmac_sha256(self._key, text.encode("utf-8", "surrogatepass"))[:16]

    def find(self, text: str) -> Claim | None:
        """Return the claim of a text, None where there is none, other processes' commits included; about 5 us if it
        was used recently.

        Raises IntegrityError where the claim leads to a key that is not its own, and where the rows that decide it,
        the claim's and its key's, are in a bucket that is not as it was written.
        """
        seen = self._follow()
        with self._lock:
            known = self._cache.get(text)
            if known is not None:
                self._cache.move_to_end(text)
                return known
        token = self.token(text)
        self._store.require_right([bucket_of(claim_key(token))])
        value = self._store.get(claim_key(token))
        while value is not None:
            claim = Claim.decode(value)
            self._store.require_right([bucket_of(rows.STUDY_PREFIX + claim.key_id)])
            if self._is_own(claim.key_id, token):
                self._keep(text, claim, seen)
                return claim
            before, value = value, self._store.get(claim_key(token))
            if before == value:  # otherwise the key was taken away in between
                name = claim.key_id.hex()[:8]
                raise IntegrityError(f"a claim leads to key {name}, which is not its own", hint="coffer keys audit")
        return None

    def _is_own(self, key_id: bytes, token: bytes) -> bool:
        value = self._store.get(rows.STUDY_PREFIX + key_id)
        return value is not None and self._keys.open(key_id, value)[0].claim == token

    def keys_for(self, texts: Sequence[str], from_seq: int) -> list[StudyKey]:
        """Return the keys of these texts; where there is none it is made, with its claim. Durable on return, all that
        are made in one commit. Two processes that ask at once get the same keys.

        `from_seq` is the number of the log's next record. Raises UnavailableError, IntegrityError, KeyUnavailableError.
        """
        while True:
            found = {text: self.find(text) for text in texts}
            self._make([text for text, claim in found.items() if claim is None], from_seq)
            try:
                claims = [found[text] or self.find(text) for text in texts]
                if all(claims):
                    return [self._keys.get(claim.key_id) for claim in claims if claim is not None]
            except (ShreddedError, SupersededError):
                continue  # just now: then there is no claim any more, or it leads to another key

    def _make(self, texts: Sequence[str], from_seq: int) -> None:
        """Make keys with their claims, unless one of the claims exists by now."""
        if not texts:
            return
        tokens = [self.token(text) for text in texts]
        key_ids = [self._random(16) for _ in texts]
        seen = self._follow()
        claims = [Claim(key_id, from_seq, is_new=True) for key_id in key_ids]
        beside = [(claim_key(token), claim.encode()) for token, claim in zip(tokens, claims, strict=True)]
        if self._keys.make_claimed(key_ids, tokens, beside) is not None:
            for text, claim in zip(texts, claims, strict=True):
                self._keep(text, claim, seen)

    def recorded(self, text: str, claim: Claim) -> None:
        """Note that the log has the record of the making of this claim's key. `settle` writes it down."""
        after = Claim(claim.key_id)
        with self._lock:
            if self._cache.get(text) == claim:
                self._cache[text] = after
            self._unsettled[claim_key(self.token(text))] = claim.encode(), after.encode()
            is_due = len(self._unsettled) >= _MOST_UNSETTLED
        if is_due:
            self.settle()

    def settle(self) -> None:
        """Write down what `recorded` noted; durable on return. Until then a stop costs a search of the log, no more.

        Raises UnavailableError.
        """
        with self._lock:
            noted, self._unsettled = self._unsettled, {}
        if not noted or self._put([(place, after) for place, (_, after) in noted.items()], noted):
            return
        for place, (_, after) in noted.items():  # one of them was taken away or moved meanwhile
            self._put([(place, after)], noted)

    def _put(self, put: Sequence[Row], noted: dict[bytes, tuple[bytes, bytes]]) -> bool:
        with self._writing:
            return self._store.put(put, expected=[(place, noted[place][0]) for place, _ in put])

    def _follow(self) -> int:
        """Drop what was taken away. Returns the number of the feed's newest entry."""
        seen = self._seen
        number, gone = self._store.changes(seen)
        if number != seen:
            went = None if gone is None else frozenset(gone)
            with self._lock:
                for text in [text for text, claim in self._cache.items() if went is None or claim.key_id in went]:
                    del self._cache[text]
                self._seen = number
        return number

    def _keep(self, text: str, claim: Claim, seen: int) -> None:
        with self._lock:
            if self._seen != seen:
                return  # it may have been taken away since it was read
            self._cache[text] = claim
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
