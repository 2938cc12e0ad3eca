"""Check a proof or a certificate of erasure from a Coffer archive, without Coffer and without any secret key.

    python3 verify_proof.py FILE --vkey KEY [--archive COPY]

Written from archive/FORMAT.md ("Proofs", "Certificates of erasure") alone, with the standard library of Python 3.9 or
later and verify_coffer.py, which must lie beside it. KEY is the archive's verifier key, from its owner by a way that
you trust. With COPY, the whole copy of the log is verified, and a certificate held against it: objects that came under
the study's keys since, or that it leaves out, are found. It cannot look into a keyring: `coffer shred check` does.
It prints a line for all that is wrong, and a last one. Exit code 0: proved, or erased; 3: a genuine notice of a study
that is NOT erased yet; 1: it proves nothing.
"""

import argparse
import json
from pathlib import Path

from verify_coffer import Archive, Keys, must, number, sha256

EFFECTIVE, SCHEDULED = "coffer/erasure/v4", "coffer/scheduled-erasure/v4"
TITLES = {
    EFFECTIVE: "ERASED: the keys of this study are destroyed, and so is everything that ever opened their epochs.",
    SCHEDULED: "NOT ERASED YET: a shred is scheduled. Older copies of the keys may still open this study.",
}
NOT_PROMISED = [
    "Copies of keyring and key file from before that nobody registered, or that an officer said were destroyed.",
    "Shares that an officer said were burned and were not, and copies of shares.",
    "Memory of other hosts and processes that had opened the study, and keys that were copied out of it.",
    "What had left the archive before: exports, retrievals, prints.",
    "What a provider keeps by itself: backups of an HSM, of a key service, of a file system with the key file.",
    "The same study where it is stored again: it then has another key.",
    "The host's clock: all times are as it told them.",
]
OBJECT, SHRED_SCHEDULED, EPOCH_DESTROYED, STATE, STUDY_REKEYED = 1, 4, 5, 6, 9  # kinds of records
OR_NULL = (int, type(None))
STEP = {"what": str, "ms": int, "officer": str, "account": str, "record": int}
KEY = {"key": str, "why": str, "successor": str, "gone_ms": int, "backups_until_ms": int, "last_epoch": int}
KEY.update({"record": int, "objects": str})
OPENER = {"kind": str, "id": str, "name": str, "receipt_ms": OR_NULL, "effective_ms": OR_NULL, "record": OR_NULL}
OPENER.update({"caveat": str})
EPOCH = {"epoch": int, "openers": [OPENER]}
FIELDS = {"type": str, "archive": str, "log": int, "issued_ms": int, "officer": str, "account": str}
FIELDS.update({"study": str, "study_uid": str, "reason": str, "request": str, "steps": [STEP]})
FIELDS.update({"scheduled_ms": int, "backups_until_ms": int, "copies_until_ms": OR_NULL})
FIELDS.update({"effective_ms": OR_NULL, "keys": [KEY], "epochs": [EPOCH]})
FIELDS.update({"proofs": [{"record": str, "hashes": [str]}], "checkpoint": str, "endorsements": [str]})
FIELDS.update({"not_promised": [str]})


def walk_up(place, last, steps, nodes):
    """RFC 9162 2.1.3.2 and 2.1.4.2: nodes[0] is the tree's own, nodes[1], if any, the older tree's."""
    for step in steps:
        must(last, "the proof is too long")
        if place & 1 or place == last:
            nodes = [sha256(b"\1", step, node) for node in nodes]
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            nodes = [sha256(b"\1", nodes[0], step), *nodes[1:]]
        place, last = place >> 1, last >> 1
    must(last == 0, "the proof is too short")
    return nodes


def check_proof(told, vkey):
    """What a proof of FORMAT.md proves to who trusts a verifier key, as a sentence. Raises ValueError."""
    key = Keys(vkey, [each.encode() for each in told["endorsements"]])
    steps = [bytes.fromhex(step) for step in told["hashes"]]
    must(told["log"] == 0, "it is of another log")
    if told["type"] == "coffer/inclusion/v2":
        record, (size, root) = bytes.fromhex(told["record"]), key.open(told["checkpoint"].encode())
        index = number(record[8:16])
        must(len(record) == 160 and (index, size) == (told["index"], told["size"]) and index < size, "numbers differ")
        must(
            walk_up(index, size - 1, steps, [sha256(b"\0", record)]) == [root], "the record is not under the checkpoint"
        )
        return f"record {index}, body SHA-256 {record[84:116].hex()}, is one of the {size} records of {key.name}"
    (old, before), (new, after) = key.open(told["old"].encode()), key.open(told["new"].encode())
    must((told["type"], told["old_size"], told["new_size"]) == ("coffer/consistency/v2", old, new), "sizes differ")
    if old in (0, new) or old > new:
        proved = not steps and old <= new and before == (after if old else sha256())
    else:
        steps = [before, *steps] if old & (old - 1) == 0 else steps
        shift = (old & -old).bit_length() - 1
        proved = steps and walk_up(old - 1 >> shift, new - 1 >> shift, steps[1:], steps[:1] * 2) == [after, before]
    must(proved, "the older checkpoint is not the beginning of the newer one")
    return f"the {new} records of {key.name} begin with the {old} signed before"


def kind(head):
    return number(head[6:8])


def time_ms(head):
    return number(head[16:24])


def fits(value, shape):
    """Whether a JSON value has these members in this order, and these types."""
    if isinstance(shape, dict):
        return type(value) is dict and list(value) == list(shape) and all(fits(value[n], shape[n]) for n in shape)
    if isinstance(shape, list):
        return type(value) is list and all(fits(part, shape[0]) for part in value)
    return type(value) in (shape if isinstance(shape, tuple) else (shape,))


def read(note, vkey):
    """The fields of a certificate in its one form, and the archive's signing keys, of which the one in force at its
    checkpoint signed it. Raises ValueError."""
    title, _, text = note.rpartition(b"\n\n")[0].decode().partition("\n")
    told = json.loads(text)
    must(fits(told, FIELDS), "this is no certificate of an erasure")
    key = Keys(vkey, [each.encode() for each in told["endorsements"]])
    key.require_signed(note, key.open(told["checkpoint"].encode())[0])
    is_one_form = text == json.dumps(told, indent=1, ensure_ascii=False)
    must(is_one_form and TITLES.get(told["type"]) == title, "the certificate is not in canonical form")
    must(told["not_promised"] == NOT_PROMISED, "it promises more, or less, than a certificate does")
    must(told["archive"] == key.name and told["log"] == 0, "it is of another archive or log")
    return told, key


def proved(told, key):
    """The record headers that its proofs prove to be under its checkpoint, by number, and the checkpoint's size."""
    size, root = key.open(told["checkpoint"].encode())
    heads = {}
    for each in told["proofs"]:
        head, steps = bytes.fromhex(each["record"]), [bytes.fromhex(step) for step in each["hashes"]]
        must(head.hex() == each["record"] and len(head) == 160 and head[:6] == b"CFRC\0\3", "a proof of no record")
        seq = number(head[8:16])
        must(seq > max(heads, default=-1), "its proofs are not in order")
        must(seq < size, f"record {seq} is not under its checkpoint")
        must(walk_up(seq, size - 1, steps, [sha256(b"\0", head)]) == [root], f"record {seq} is not proved")
        heads[seq] = head
    return heads, size


def check_keys(told, heads):
    before = set()
    must(told["keys"], "it names no key")
    for each in told["keys"]:
        head, what = heads[each["record"]], f"key {each['key'][:8]}: "
        must(head[24:40].hex() == each["key"] and each["key"] not in before, what + "its record is about another key")
        if each["why"] == "shredded":
            must(kind(head) == SHRED_SCHEDULED and not each["successor"], what + "its record is no shred")
            must(time_ms(head) >= each["gone_ms"] == told["scheduled_ms"], what + "shredded at another time")
        else:
            must(each["why"] == "rekeyed" and kind(head) == STUDY_REKEYED, what + "its record is no rekey")
            must(each["successor"] in before, what + "replaced by a key that is not shown to be gone")
        before.add(each["key"])


def check_steps(told, heads):
    words = [each["what"] for each in told["steps"]]
    must(words and words == ["asked", *["approved"] * (len(words) - 1)], "who asked or approved is not told")
    must(told["steps"][-1]["record"] == told["keys"][0]["record"], "who took the last step is not told")
    for each in told["steps"]:
        head = heads[each["record"]]
        must(kind(head) in (STATE, SHRED_SCHEDULED), f"record {each['record']} is no officer's step")
        must(time_ms(head) >= each["ms"], f"{each['what']}: later than its record")


def openers(told):
    """Everything that could ever open an epoch, each with the epoch's number."""
    return [(epoch["epoch"], each) for epoch in told["epochs"] for each in epoch["openers"]]


def check_epochs(told, heads):
    last, used = max(each["last_epoch"] for each in told["keys"]), set()
    must([each["epoch"] for each in told["epochs"]] == [*range(1, last + 1)], "it does not tell of every epoch")
    for epoch in told["epochs"]:
        names, what = [each["id"] for each in epoch["openers"]], f"epoch {epoch['epoch']}: "
        must(any(each["kind"] != "shares" for each in epoch["openers"]), what + "nothing is said to have opened it")
        must(len({*names}) == len(names), what + "it names something twice")
    for epoch, each in openers(told):
        what, seq = f"epoch {epoch}: ", each["record"]
        if seq is None:
            must(each["receipt_ms"] is None and each["effective_ms"] is None, what + "a receipt without a record")
            continue
        head, end = heads[seq], STATE if each["kind"] == "shares" else EPOCH_DESTROYED
        is_end = kind(head) == end and head[24:40] == bytes(16) and seq not in used
        must(is_end, what + "a record is not of the end of what opened it")
        must(time_ms(head) >= each["receipt_ms"], what + "a receipt is later than its record")
        must(each["effective_ms"] is not None, what + "a receipt without an end")
        used.add(seq)


def check_times(told):
    until = max(each["backups_until_ms"] for each in told["keys"])
    must(told["backups_until_ms"] == until, "the holding window differs")
    if told["type"] == SCHEDULED:
        must(told["effective_ms"] is None, "it is scheduled, and says since when it is effective")
        return
    ends = [each["effective_ms"] for _, each in openers(told)]
    must(None not in ends, "something opens an epoch yet that held the key")
    must(told["copies_until_ms"] is not None, "a registered copy still has one of the keys")
    effective = max(told["scheduled_ms"], until, told["copies_until_ms"], *ends)
    must(told["effective_ms"] == effective, "it is effective since another time")
    must(effective <= told["issued_ms"], "it was issued before it was effective")


def check_certificate(note, vkey):
    """The fields of a certificate that is genuine for who trusts a verifier key, and its checkpoint's size.

    Raises ValueError for any other.
    """
    told, key = read(note, vkey)
    heads, size = proved(told, key)
    steps, keys = ([each["record"] for each in told[name]] for name in ("steps", "keys"))
    ends = [each["record"] for _, each in openers(told)]
    must(set(heads) == {*steps, *keys, *ends} - {None}, "it proves other records than it names")
    for part in (check_keys, check_steps, check_epochs):
        part(told, heads)
    check_times(told)
    return told, size


class Copy(Archive):
    """A copy of the log that is held against a certificate; `objects` gets the records under each of its keys."""

    def __init__(self, folder, vkey, told):
        self.told, self.objects = told, {bytes.fromhex(each["key"]): [] for each in told["keys"]}
        super().__init__(folder, vkey, [])

    def history(self, path):
        super().history(path)
        self.claim("the certificate's checkpoint", self.told["checkpoint"].encode())

    def follow(self, path, head, tag):
        if kind(head) == OBJECT and head[24:40] in self.objects:
            self.objects[head[24:40]].append(number(head[8:16]))
        super().follow(path, head, tag)

    def contradict(self, size):
        """All that is wrong with the copy, or says otherwise; `size` is that of the certificate's checkpoint."""
        for each in self.told["keys"]:
            found = self.objects[bytes.fromhex(each["key"])]
            if runs([seq for seq in found if seq < size]) != each["objects"]:
                self.say(f"key {each['key'][:8]}", "the log has other objects under it than the certificate covers")
            if self.told["type"] == EFFECTIVE and found and found[-1] >= size:
                self.say(f"key {each['key'][:8]}", "objects were stored under it since: the key lives")
        return self.found


def runs(numbers):
    """Ascending numbers as text: "0-4 7"."""
    found = []
    for each in numbers:
        if found and found[-1][1] + 1 == each:
            found[-1][1] = each
        else:
            found.append([each, each])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def judge(data, vkey, folder):
    """(exit code, findings, last line) of a proof or a certificate. Raises ValueError for one that proves nothing."""
    if data.startswith(b"{"):
        return 0, [], check_proof(json.loads(data), vkey)
    told, size = check_certificate(data, vkey)
    by = [f"epoch {epoch}: {each['kind']} {each['name']}" for epoch, each in openers(told) if each["record"] is None]
    word = f"genuine, and NOT ERASED YET{'; it can be opened by ' * bool(by)}{', '.join(by)}"
    code, word = (0, "ERASED") if told["type"] == EFFECTIVE else (3, word)
    copy = Copy(folder, vkey, told) if folder else None
    found = copy.contradict(size) if copy else []
    return code, found, f"study {told['study_uid'] or told['study']} of {told['archive']}: {word}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--vkey", required=True)
    parser.add_argument("--archive", type=Path)
    given = parser.parse_args()
    try:
        code, found, last = judge(given.path.read_bytes(), given.vkey, given.archive)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = [f"{type(error).__name__}: {error}"]
    if found:
        code, last = 1, f"{given.path}: {len(found)} findings: it proves nothing"
    print(*found, last, sep="\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
