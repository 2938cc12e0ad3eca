"""Claims: everyone who asks for a text gets the same key until it is shredded or replaced, and never another's."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from coffer.keys.clock import clock_ms
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.keyring import founding, rekey, rows, shred
from coffer.keys.keyring.claims import RECORDED, Claim, claim_key
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rekey import Phase, Rekey
from coffer.keys.keyring.rows import KeyRow
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.store.keyring_store import KeyringStore, scan
from coffer.keys.store.memory_store import MemoryKeyringStore
from tests.keys.conftest import ARCHIVE_ID
from tests.keys.left import left
from tests.keys.store.faulty_store import FaultyStore

NAME = bytes(range(16))
PART, OTHER = "1.2.3\0P1\0\0", "1.2.3\0P2\0\0"


def opened(store: KeyringStore, provider: KeyFileProvider) -> Keyring:
    return Keyring(store, provider, os.urandom, clock_ms)


@pytest.fixture
def store(provider: KeyFileProvider) -> MemoryKeyringStore:
    made = MemoryKeyringStore()
    founding.create_rows(made, provider, ARCHIVE_ID, os.urandom, clock_ms)
    return made


@pytest.fixture
def ours(store: MemoryKeyringStore, provider: KeyFileProvider) -> Keyring:
    return opened(store, provider)


@pytest.fixture
def theirs(store: MemoryKeyringStore, provider: KeyFileProvider) -> Keyring:
    """As another process has it."""
    return opened(store, provider)


def key_of(ring: Keyring, text: str) -> bytes:
    return ring.claims.keys_for([text], 7)[0].key_id


def claims_in(store: KeyringStore) -> dict[bytes, bytes]:
    """Key ids by token, as the rows of claims have it and as the rows of keys have it, which must agree."""
    by_claim = {key[1:]: Claim.decode(value).key_id for key, value in scan(store, rows.CLAIM_PREFIX)}
    keys = {key[1:]: KeyRow.decode(value) for key, value in scan(store, rows.STUDY_PREFIX)}
    assert by_claim == {row.claim: key_id for key_id, row in keys.items() if row.claim != rows.NO_CLAIM}
    return by_claim


def replaced(ring: Keyring, old: bytes) -> Rekey:
    """A rekey of this key, switched to the new one."""
    begun = rekey.begin(ring, old, NAME, 0, 1, os.urandom, lambda made: left(made.old))
    assert Claim.decode(ring.row(claim_key(ring.claims.token(PART))) or b"").key_id == old
    return rekey.switch(ring, begun, replace(begun, phase=Phase.SWITCHED))


def test_every_process_gets_the_same_key_and_each_text_its_own(ours: Keyring, theirs: Keyring) -> None:
    mine, other = ours.claims.keys_for([PART, OTHER], 7)
    assert [each.key_id for each in theirs.claims.keys_for([OTHER, PART, OTHER], 9)] == [
        other.key_id, mine.key_id, other.key_id
    ]  # fmt: skip
    assert mine.key_id != other.key_id
    assert theirs.claims.find(PART) == Claim(mine.key_id, 7)
    assert theirs.claims.find("never stored") is None
    assert theirs.claims.find("\udcff\0not UTF-8\0\0") is None
    assert ours.count() == 2


def test_of_many_who_ask_at_once_one_makes_the_key(store: MemoryKeyringStore, provider: KeyFileProvider) -> None:
    rings = [opened(FaultyStore(store, seed, lost=0.3), provider) for seed in range(6)]
    got: list[bytes] = []

    def ask(ring: Keyring) -> None:
        for number in range(5):
            while True:
                try:
                    got.append(key_of(ring, f"1.2.{number}\0P1\0\0"))
                    break
                except UnavailableError:
                    continue

    threads = [threading.Thread(target=ask, args=(ring,)) for ring in rings]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(got) == 30
    assert len(set(got)) == len(claims_in(store)) == rings[0].count() == 5


def test_a_shredded_study_that_comes_again_gets_another_key(
    ours: Keyring, theirs: Keyring, store: MemoryKeyringStore
) -> None:
    old, kept = key_of(ours, PART), key_of(ours, OTHER)
    assert key_of(theirs, PART) == old
    shred.schedule(ours, {old: NAME}, now_ms=1, until_ms=2)
    assert theirs.claims.find(PART) is None
    assert set(claims_in(store).values()) == {kept}
    new = key_of(theirs, PART)
    assert new != old
    assert key_of(ours, PART) == new
    shred.drop(ours, [old])
    assert set(claims_in(store).values()) == {kept, new}


def test_a_replaced_key_hands_its_claim_over_when_the_new_records_count(
    ours: Keyring, theirs: Keyring, store: MemoryKeyringStore
) -> None:
    old = key_of(theirs, PART)
    done = replaced(ours, old)
    assert theirs.claims.find(PART) == Claim(done.new, RECORDED)
    assert claims_in(store) == {ours.claims.token(PART): done.new}
    shred.supersede(ours, done, now_ms=1, until_ms=2)
    assert key_of(theirs, PART) == done.new
    shred.schedule(theirs, {old: NAME}, now_ms=1, until_ms=2)  # stands for the key that replaced it
    assert ours.claims.find(PART) is None
    assert not claims_in(store)


def test_both_keys_of_a_rekey_lose_the_claim_with_the_study(ours: Keyring, store: MemoryKeyringStore) -> None:
    done = replaced(ours, key_of(ours, PART))
    shred.schedule(ours, {done.old: NAME}, now_ms=1, until_ms=2)
    assert not claims_in(store)
    assert key_of(ours, PART) not in {done.old, done.new}


def test_a_rotation_leaves_every_claim(ours: Keyring, theirs: Keyring, store: MemoryKeyringStore) -> None:
    key_id = key_of(ours, PART)
    theirs.rotate()
    theirs.destroy_epoch(1)
    assert key_of(ours, PART) == key_of(theirs, PART) == key_id
    assert list(claims_in(store).values()) == [key_id]


def test_a_claim_that_leads_to_another_key_is_refused(
    ours: Keyring, store: MemoryKeyringStore, provider: KeyFileProvider
) -> None:
    mine, other = (key_of(ours, text) for text in (PART, OTHER))
    place = claim_key(ours.claims.token(PART))
    for planted in (other, bytes(16), ours.new_study().key_id):
        store.put([(place, Claim(planted).encode())])
        with pytest.raises(IntegrityError, match="not its own"):
            key_of(opened(store, provider), PART)
    store.put([(place, Claim(mine).encode())])
    assert key_of(opened(store, provider), PART) == mine
    row = KeyRow.decode(store.get(rows.STUDY_PREFIX + mine) or b"")
    assert row.claim == ours.claims.token(PART)
    edited = (store.get(rows.STUDY_PREFIX + mine) or b"").replace(row.claim, ours.claims.token(OTHER))
    store.put([(rows.STUDY_PREFIX + mine, edited), (claim_key(ours.claims.token(OTHER)), Claim(mine).encode())])
    with pytest.raises(IntegrityError, match="altered"):
        key_of(opened(store, provider), OTHER)


def test_what_was_recorded_is_settled_later_and_only_where_the_claim_still_stands(
    ours: Keyring, theirs: Keyring
) -> None:
    texts = [PART, OTHER, "1.2.9\0\0\0"]
    ours.claims.keys_for(texts, 7)
    claims = [ours.claims.find(text) for text in texts]
    assert [(claim.from_seq, claim.is_new) for claim in claims if claim] == [(7, True)] * 3
    for text, claim in zip(texts, claims, strict=True):
        assert claim is not None
        ours.claims.recorded(text, claim)
    assert claims[0] is not None
    assert {claim.from_seq for claim in map(ours.claims.find, texts) if claim} == {RECORDED}
    assert {(claim.from_seq, claim.is_new) for claim in map(theirs.claims.find, texts) if claim} == {(7, False)}
    shred.schedule(theirs, {claims[0].key_id: NAME}, now_ms=1, until_ms=2)
    again = key_of(theirs, PART)
    ours.claims.settle()
    assert theirs.row(claim_key(theirs.claims.token(PART))) == Claim(again, 7).encode()
    for text in texts[1:]:
        assert Claim.decode(theirs.row(claim_key(theirs.claims.token(text))) or b"").from_seq == RECORDED


def neighbours(ring: Keyring) -> tuple[str, str, str]:
    """Two texts with claims in one bucket, and one whose claim and key have nothing to do with that bucket."""
    by_bucket: dict[int, str] = {}
    for number in range(1000):
        text = f"1.2.{number}\0P\0\0"
        key_of(ring, text)
        bucket = ring.claims.token(text)[0]
        if bucket in by_bucket:
            break
        by_bucket[bucket] = text
    far = next(t for b, t in by_bucket.items() if b not in {0, bucket} and key_of(ring, t)[0] not in {0, bucket})
    return by_bucket[bucket], text, far


@pytest.mark.parametrize("what", ["removed", "altered", "planted"])
def test_no_claim_decides_from_a_bucket_in_which_somebody_wrote(
    store: MemoryKeyringStore, ours: Keyring, provider: KeyFileProvider, what: str
) -> None:
    """Another claim is wrong than the one that is asked for; no row of that bucket is changed."""
    text, other, far = neighbours(ours)
    place = claim_key(ours.claims.token(other))
    value = store.get(place) or b""
    again = MemoryKeyringStore()  # which has looked at no bucket yet
    for key, row in scan(store, b""):
        again._set(key, row)
    again._set(place + b"x" if what == "planted" else place, None if what == "removed" else value[:-1] + b"\1")
    fresh = opened(again, provider)
    with pytest.raises(IntegrityError, match="were removed, altered or put back"):
        fresh.claims.find(text)
    assert fresh.claims.find(far) is not None
