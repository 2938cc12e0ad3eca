"""FORMAT.md, the code and the golden files agree, and a second reader written from FORMAT.md opens them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import lmdb
import pytest

from coffer.keys.crypto import aead, derive, shamir
from coffer.keys.crypto.shamir import combine
from coffer.keys.crypto.signing import verify_note
from coffer.keys.errors import FormatError, ShreddedError
from coffer.keys.keyring import claims, keepers, rekey, rows, shred, tombstone
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.providers import key_file
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.shares.text import parse
from tests.keyless import change

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "vectors" / "keys"
TEXT = (ROOT / "keys" / "FORMAT.md").read_text(encoding="utf-8")
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def offsets_in(title: str) -> list[tuple[int, int]]:
    """Return (offset, size) of the fixed fields in the first offset table after `title`."""
    table = TEXT.split(title, 1)[1].split("| Offset | Size | Field |", 1)[1].split("\n\n", 1)[0]
    return [(int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)]


def offsets_of(layout: struct.Struct) -> list[tuple[int, int]]:
    """Return (offset, size) of the fields of a big-endian struct, pad bytes counted as one field."""
    found, at = [], 0
    for part in re.findall(r"\d*[a-zA-Z]", layout.format):
        size = struct.calcsize(">" + part)
        found.append((at, size))
        at += size
    return found


@pytest.mark.parametrize(
    ("title", "layout", "extra"),
    [
        ("## Key file", key_file.HEAD, []),
        ("\nHeader:", rows.HEADER, []),
        ("\nEpoch row:", rows.EPOCH_CLEAR, []),
        ("\nKeeper:", keepers.LAYOUT, []),
        ("\nBurned shares:", keepers.BURNED, []),
        ("\nShare group:", shamir.GROUP, []),
        ("\nOne share:", struct.Struct(f">{shamir.GROUP.size}s{shamir.BODY.format[1:]}"), []),
        ("\nTombstone:", tombstone._LAYOUT, []),
        ("\nRekey:", rekey._LAYOUT, []),
        ("\nClaim:", claims._LAYOUT, []),
        ("\nKey row:", rows.KEY_CLEAR, [(52, aead.sealed_length(32))]),
    ],
)
def test_offset_tables(title: str, layout: struct.Struct, extra: list[tuple[int, int]]) -> None:
    assert offsets_in(title) == offsets_of(layout) + extra


def example(number: int) -> bytes:
    """Return the bytes of the page's n-th example: the hex pairs at the start of each line."""
    block = TEXT.split("```")[2 * number + 1]
    lines = (re.match(r"((?:[0-9a-f]{2} )*[0-9a-f]{2})(?= {2,}|$| \.\.\.)", line) for line in block.splitlines())
    return b"".join(bytes.fromhex(match[1]) for match in lines if match)


def golden_rows() -> dict[bytes, bytes]:
    with lmdb.open(str(GOLDEN / "keyring"), readonly=True, lock=False) as env, env.begin() as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def test_worked_examples_are_the_golden_files() -> None:
    assert example(0) == (GOLDEN / "keyfile").read_bytes()
    row = golden_rows()[b"K" + bytes.fromhex("ad5bc67229835d85febe148ac6baa88f")]
    assert len(example(1)) == 56
    assert row.startswith(example(1))
    text = re.findall(r"-----BEGIN.*?-----END COFFER KEY SHARE-----", TEXT, re.DOTALL)[0]
    assert (GOLDEN / "share1.txt").read_text(encoding="utf-8").startswith(text)


def test_labels_and_limits_stand_in_the_page() -> None:
    labels = [value for value in vars(derive).values() if isinstance(value, bytes) and value.startswith(b"coffer/")]
    assert all(label.decode() in TEXT for label in labels)
    assert f"8p to {key_file.MOST_M_KIB}" in TEXT
    assert f"at most {key_file.MOST_SLOTS}" in TEXT
    assert f"{key_file.HEAD.size + key_file.CHECKSUM} + {key_file.SLOT.size} slots" in TEXT


def test_the_generator_still_writes_the_golden_rows(
    tmp_path: Path, load_vector_script: Callable[[str], ModuleType]
) -> None:
    load_vector_script("make_keys").make(tmp_path)
    assert (tmp_path / "keyfile").read_bytes() == (GOLDEN / "keyfile").read_bytes()
    for name in ("share1.txt", "share2.txt", "share3.txt"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
    assert json.loads((tmp_path / "expected.json").read_text(encoding="utf-8")) == EXPECTED
    with lmdb.open(str(tmp_path / "keyring"), readonly=True, lock=False) as env, env.begin() as txn:
        assert {bytes(key): bytes(value) for key, value in txn.cursor()} == golden_rows()


def test_the_product_opens_the_golden_keyring(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "g")
    (tmp_path / "g" / "keyfile").chmod(0o600)  # git keeps no such mode
    provider = KeyFileProvider(tmp_path / "g" / "keyfile", lambda: Secret(EXPECTED["passphrase"].encode()))
    ring = Keyring.open(tmp_path / "g" / "keyring", provider)
    assert ring.archive_key(derive.INDEX_TOKEN).reveal().hex() == EXPECTED["index_token"]
    for key_id, values in EXPECTED["studies"].items():
        key = ring.study(bytes.fromhex(key_id))
        assert {name: getattr(key, name).reveal().hex() for name in ("dek", "blob", "cid", "row")} == {
            name: values[name] for name in ("dek", "blob", "cid", "row")
        }
        assert key.kcv.hex() == values["kcv"]
    for key_id in EXPECTED["shredded"]:
        with pytest.raises(ShreddedError):
            ring.study(bytes.fromhex(key_id))
    assert len(shred.waiting(ring)) == 1
    told = {each.id.hex(): [each.epoch, each.state, each.kind, each.name] for each in ring.keepers()}
    assert told == EXPECTED["keepers"]
    assert {group.hex(): [each.numbers, each.closed_ms] for group, each in ring.burned().items()} == EXPECTED["burned"]
    ring.close()
    name = EXPECTED["vkey"].split("+")[0]
    assert verify_note(EXPECTED["note"].encode(), name, EXPECTED["vkey"]).startswith(name.encode())


def test_a_keyring_from_before_is_refused_with_one_sentence(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "g")
    header = golden_rows()[rows.HEADER_KEY]
    change(tmp_path / "g" / "keyring", {rows.HEADER_KEY: header[:8] + b"\0\2" + header[10:]})
    with pytest.raises(FormatError) as refused:
        Keyring.open(tmp_path / "g" / "keyring", KeyFileProvider(tmp_path / "g" / "keyfile"))
    assert str(refused.value) == "the keyring has format 2, and this Coffer has format 4"
    assert refused.value.hint().startswith("open it with the Coffer that made it")


def test_the_second_reader_opens_the_golden_keyring(load_vector_script: Callable[[str], ModuleType]) -> None:
    reader = load_vector_script("reader_keys")
    opened = reader.open_keyring((GOLDEN / "keyfile").read_bytes(), EXPECTED["passphrase"].encode(), GOLDEN / "keyring")
    assert opened.archive_id.hex() == EXPECTED["archive_id"]
    assert opened.epochs == {1: 1}
    assert {key_id.hex(): list(facts) for key_id, facts in opened.shredded.items()} == EXPECTED["shredded"]
    assert {group.hex(): place.hex() for group, place in opened.unfinished.items()} == EXPECTED["unfinished"]
    assert {each.hex(): list(facts) for each, facts in opened.keepers.items()} == EXPECTED["keepers"]
    assert {group.hex(): list(facts) for group, facts in opened.burned.items()} == EXPECTED["burned"]
    assert {key_id.hex(): opened.derived(key_id) for key_id in opened.deks} == EXPECTED["studies"]
    for text, (key_id, from_seq) in EXPECTED["claims"].items():
        assert opened.claim_of(text) == (bytes.fromhex(key_id), from_seq)
    assert len(opened.claims) == len(EXPECTED["claims"]) == 3
    body = EXPECTED["note"].split("\n\n")[0] + "\n"
    assert opened.vkey_and_note(body.split("\n", 1)[0], body.encode()) == (EXPECTED["vkey"], EXPECTED["note"])


def test_the_second_reader_opens_the_golden_keyring_with_shares(
    load_vector_script: Callable[[str], ModuleType],
) -> None:
    reader = load_vector_script("reader_keys")
    texts = [(GOLDEN / f"share{index}.txt").read_text(encoding="utf-8") for index in (1, 2, 3)]
    told = EXPECTED["shares"]
    for chosen in itertools.combinations(texts, 2):
        _, epoch, kek = reader.join_shares([*chosen])
        assert (epoch, kek.hex()) == (told["epoch"], told["kek"])
        opened = reader.open_with_shares([*chosen], GOLDEN / "keyring")
        assert {key_id.hex(): opened.derived(key_id) for key_id in opened.deks} == EXPECTED["studies"]
        ours = combine({str(number): parse(text, str(number)) for number, text in enumerate(chosen)})
        assert ours.kek.reveal() == kek
    for wrong in ([texts[0]], [texts[0], texts[0]], texts, [texts[0], texts[1].replace("1 ", "2 ", 1)]):
        with pytest.raises((reader.Rejected, ValueError)):
            reader.join_shares(wrong)
    group = golden_rows()[b"G" + bytes.fromhex(told["group"])]
    assert group == reader.read_share(texts[0])[: len(group)]


def test_the_second_reader_refuses_what_the_page_says(load_vector_script: Callable[[str], ModuleType]) -> None:
    reader = load_vector_script("reader_keys")
    data, passphrase = (GOLDEN / "keyfile").read_bytes(), EXPECTED["passphrase"].encode()
    wrapping = reader.wrapping_keys(data, passphrase)
    found = golden_rows()
    studies = [key for key in found if key[:1] == b"K"]
    swapped = {**found, studies[0]: found[studies[1]], studies[1]: found[studies[0]]}
    without = [{k: v for k, v in found.items() if k[:1] != prefix} for prefix in (b"H", b"U", b"G")]
    first, second = [key for key in found if key[:1] == b"J"][:2]
    crossed = [{**found, first: found[second]}, {key: row for key, row in found.items() if key != first}]
    total = found[b"S\x07"]
    sums = [{**found, b"S\x07": total[:at] + bytes([total[at] ^ 1]) + total[at + 1 :]} for at in (7, 8, 24, 55, 56)]
    sums.append({key: row for key, row in found.items() if key != b"S\x07"})
    others = [{**found, b"A": found[studies[0]]}, {**found, b"DK\0\0\0\1": bytes(8)}]
    for bad in (swapped, *others, *sums, *crossed, *without):
        with pytest.raises(reader.Rejected):
            reader.open_rows(bad, wrapping)
    for at in range(len(data)):
        with pytest.raises(reader.Rejected):
            reader.wrapping_keys(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], passphrase)
    with pytest.raises(reader.Rejected):
        reader.open_rows(found, reader.wrapping_keys(data, b"another passphrase"))


def test_the_second_reader_imports_nothing_of_the_product() -> None:
    source = (ROOT / "tests" / "vectors" / "reader_keys.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) (keys|archive|index|server)\b", source, re.MULTILINE)
