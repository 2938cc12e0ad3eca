"""Every key has one use: the labels of derived keys, where the code uses them, and the table in FORMAT.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from coffer.keys.crypto import derive

ROOT = Path(__file__).resolve().parents[3]
LABELS = {name: value for name, value in vars(derive).items() if isinstance(value, bytes) and name.isupper()}
TABLE = (ROOT / "keys" / "FORMAT.md").read_text(encoding="utf-8").split("## Derived keys", 1)[1].split("\n## ", 1)[0]
# Where a label is used: one module, or several with one use.
USES = {
    "BLOB": {"keys/crypto/study_key.py"},
    "CID": {"keys/crypto/study_key.py"},
    "ROW": {"keys/crypto/study_key.py"},
    "KCV": {"keys/crypto/study_key.py"},
    "ERASED_NAME": {"keys/crypto/study_key.py"},
    "KEK_WRAP": {"keys/keyring/rows.py"},
    "SHARE": {"keys/crypto/shamir.py"},
    "SHARE_POLYNOMIAL": {"keys/crypto/shamir.py"},
    "SALT": {"keys/crypto/aead.py"},
    "NEW_KEY": {"keys/crypto/hedge.py"},
    "INDEX_TOKEN": {"index/tables/row_cipher.py"},
    "INDEX_SUM": {"index/index.py", "index/keyed_check.py"},  # both hand it to the index's sum
    "SUM_ROWS": {"index/backends/row_sum.py"},
    "SUM_MASK": {"index/backends/row_sum.py"},
    "KEYRING_SUM": {"keys/store/sums.py"},
    "KEYRING_MASK": {"keys/store/sums.py"},
    "PSEUDONYM": {"server/erasure/certificate.py"},
    "EVENT_BLOB": {"archive/events/recorded.py"},
    "EVENT_CID": {"archive/events/recorded.py"},
    "CLAIM": {"keys/keyring/keyring.py"},
    "ACKNOWLEDGE": {"server/maintenance/acknowledged.py"},
    "LINEAGE": {"server/engine/checkpoint_signer.py"},
    "NOTE": {"keys/mailbox/officer_records.py"},
    "HOLD": {"server/retention/holds.py"},
    "CLOCK": {"keys/mailbox/clock.py"},
    "LOG_ID": {"server/engine/opening.py", "server/workers/supervisor.py"},  # for the process, for its workers
    "KEYFILE_WRAP": {"keys/providers/key_file.py"},
    "KEYFILE_ID": {"keys/providers/key_file.py"},
}
PARENTS = {"EVENT", "HEDGE", "NONCE"}  # used in several modules, each of which hands them to one


def used() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for floor in ("keys", "archive", "index", "server"):
        for path in (ROOT / floor).rglob("*.py"):
            where = str(path.relative_to(ROOT))
            if where == "keys/crypto/derive.py":
                continue
            tree = ast.parse(path.read_bytes())
            own = {
                each.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module == "coffer.keys.crypto.derive"
                for each in node.names
            }
            own |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "derive"
            }
            for name in own & LABELS.keys():
                found.setdefault(name, set()).add(where)
    return found


def test_every_label_is_another_and_none_begins_another() -> None:
    values = sorted(LABELS.values())
    assert len(set(values)) == len(values)
    assert not [value for value in values for other in values if other != value and other.startswith(value)]


def test_every_label_has_one_use() -> None:
    found = used()
    assert {name: where for name, where in found.items() if name not in PARENTS} == USES
    assert USES.keys() | PARENTS == LABELS.keys()


def test_no_label_is_written_anywhere_else() -> None:
    """A second spelling of a label would be a second use that the test above does not see."""
    contexts = {
        "archive/body/sealed_body.py",
        "archive/events/shreds.py",
        "keys/mailbox/clock.py",
        "keys/mailbox/officer_records.py",
    }
    for floor in ("keys", "archive", "index", "server"):
        for path in (ROOT / floor).rglob("*.py"):
            where = str(path.relative_to(ROOT))
            written = {value for value in LABELS.values() if value in path.read_bytes()}
            assert not written or where in contexts | {"keys/crypto/derive.py"}, where


def test_the_page_lists_every_label_once_with_its_parent() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `(coffer/[a-z-]+/v1)` \| ([^|]+) \|", TABLE, re.MULTILINE)
    labels = [label for _, label, _ in rows]
    hedged = {derive.SALT, derive.NONCE, derive.LINEAGE, derive.NEW_KEY, derive.SHARE_POLYNOMIAL}
    assert sorted(labels) == sorted(value.decode() for value in LABELS.values() if value not in hedged)
    assert all(label.decode() in TABLE for label in hedged)
    assert len({use for _, _, use in rows}) == len(rows)


def test_a_key_with_children_does_nothing_else() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `(coffer/[a-z-]+/v1)` \| ([^|]+) \|", TABLE, re.MULTILINE)
    parents = {label for _, label, _ in rows if any(f"`{label}`" in parent for parent, _, _ in rows)}
    assert parents == {"coffer/event/v1", "coffer/index-sum/v1"}
    assert all(use.startswith("parent") for _, label, use in rows if label in parents)
