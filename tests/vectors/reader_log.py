"""A second reader of the log, written from archive/FORMAT.md alone: `python tests/vectors/reader_log.py [folder]`.

It uses the standard library only, shares no code with the product and stops at the first thing that is wrong, the torn
end of a write included. Checkpoints and the tags of groups are signed with Ed25519, which the standard library lacks:
of a checkpoint, its text and the hash of the key are checked; of a tag, whether it stands where one must, and whether
it has the form of a signature. What it must sign is kept in `Log.groups`.
"""

import base64
import json
import re
import struct
import sys
import zlib
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent / "log"
LOG = bytes(4)  # the number of the only log
LOG_EPOCH, REGISTER = 256, 257  # kinds
ORDER = 2**252 + 27742317777372353535851937790883648493  # of edwards25519, RFC 8032 5.1


class RejectedError(Exception):
    """A MUST of the format is broken."""


def must(condition: bool, what: str) -> None:
    """Raise RejectedError unless `condition` holds."""
    if not condition:
        raise RejectedError(what)


def number(data: bytes) -> int:
    """Unsigned, big endian."""
    return int.from_bytes(data, "big")


class Tree:
    """RFC 6962 2.1: the complete subtrees' hashes, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.hashes: list[tuple[int, bytes]] = []

    def add(self, header: bytes) -> None:
        """Add the leaf of one record header."""
        leaves, top = 1, sha256(b"\0" + header).digest()
        while self.hashes and self.hashes[-1][0] == leaves:
            _, left = self.hashes.pop()
            leaves, top = 2 * leaves, sha256(b"\1" + left + top).digest()
        self.hashes.append((leaves, top))
        self.size += 1

    def root(self) -> bytes:
        """The head of the tree."""
        if not self.hashes:
            return sha256(b"").digest()
        top = self.hashes[-1][1]
        for _, left in reversed(self.hashes[:-1]):
            top = sha256(b"\1" + left + top).digest()
        return top


def tree_head(leaves: list[bytes]) -> bytes:
    """RFC 6962 2.1: MTH over leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"").digest()
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return sha256(b"\1" + tree_head(leaves[:half]) + tree_head(leaves[half:])).digest()


NOTE = re.compile(rb"(?<![^\n])([^\n\0]+)\n([0-9]+)\n([^\n\0]+)\n\n(?:\xe2\x80\x94 [^\n\0]+\n)+")
PARTS = rb".*", rb"[0-9]*", rb".*", rb"", rb"(\xe2.*)?"  # the lines of a note, the last of them perhaps cut


ENDORSEMENT = re.compile(
    rb"coffer/signing-key/v1\n([^\n\0]+)\n([0-9]+)\n([^\n\0]+)\n([^\n\0]+)\n([0-9]+)\n([A-Za-z0-9+/]{43}=)\n\n"
    rb"(?:\xe2\x80\x94 [^\n\0]+\n)+"
)


def signers(note: bytes) -> set[str]:
    """The hashes of the keys that signed a note."""
    lines = note.rpartition(b"\n\n")[2].splitlines()
    return {base64.b64decode(line.split(b" ")[2])[:4].hex() for line in lines}


def is_holed(rest: bytes) -> bool:
    """Whether this can be one note, some of whose sectors were never written."""
    return rest.count(b"\n\n") < 2 and NOTE.search(rest) is None


def is_json_object(text: bytes) -> bool:
    """Whether this is a JSON object in the form of events: UTF-8, keys sorted, no spaces, at most 1 MiB."""
    try:
        told = json.loads(text)
    except ValueError:
        return False
    plain = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return isinstance(told, dict) and len(text) <= 1 << 20 and plain == text


def is_verifier_key(vkey: str, origin: str) -> bool:
    """Whether this is a verifier key in the name of the origin, with that key's hash."""
    name, tag, key = [*vkey.split("+", 2), "", ""][:3]
    is_key = name == origin and re.fullmatch("[A-Za-z0-9+/]{44}", key) is not None
    return is_key and sha256(f"{name}\n".encode() + base64.b64decode(key)).digest()[:4].hex() == tag


def about(path: Path) -> tuple[bytes, str, str]:
    """Archive id, origin and first verifier key that archive.json names."""
    raw = path.read_bytes()
    try:
        told = json.loads(raw)
        meant = {"format": 3, **{name: str(told[name]) for name in ("archive_id", "origin", "vkey")}}
    except (ValueError, KeyError, TypeError) as error:
        raise RejectedError("archive.json") from error
    must(raw == json.dumps(meant, indent=1).encode() + b"\n", "archive.json in another form")
    must(re.fullmatch("[0-9a-f]{32}", told["archive_id"]) is not None, "archive id")
    must(is_verifier_key(told["vkey"], told["origin"]), "the first verifier key")
    return bytes.fromhex(told["archive_id"]), told["origin"], told["vkey"]


class Log:
    """All records of an archive, read in order; raises RejectedError."""

    def __init__(self, folder: Path) -> None:
        self.archive_id, self.origin, vkey = about(folder / "archive.json")
        self.tree = Tree()
        self.head = sha256(b"coffer/genesis/v2\0" + self.archive_id + LOG).digest()
        self.records: list[dict[str, object]] = []
        self.groups: list[tuple[int, bytes, bytes]] = []  # records in the log after each, what its tag signs, the tag
        self.epoch, self.time_ms, self.group = 0, -1, -1  # group: first record of the one that has no end yet, or -1
        self.leaves: list[bytes] = []
        self.tiles = 0
        self.keys = self._keys(folder / "checkpoints" / "endorsements", vkey)
        self.signed = self._checkpoint(folder / "checkpoints" / "latest")
        paths = sorted((folder / "segments").glob("*.seg"))
        for at, path in enumerate(paths, 1):
            must(path.name == f"{at:08d}.seg", "a segment is missing")
            self._segment(path.read_bytes(), at, is_last=at == len(paths))
        must(self.tree.size >= self.signed[0], "shorter than its checkpoint")
        for at, (_, size, root) in enumerate(self.keys):
            if all(size <= later for _, later, _ in self.keys[at:]):
                must(tree_head(self.leaves[:size]) == root and size <= self.tree.size, "an endorsement of another log")
        self.history = self._history(folder / "checkpoints" / "history")
        self._tiles(folder / "tiles", self.signed[0])

    def _keys(self, path: Path, first: str) -> list[tuple[str, int, bytes]]:
        """Hash of each signing key, from how many records on it signs, and their root."""
        data, at, vkey = path.read_bytes() if path.exists() else b"", 0, first
        found = [(first.split("+")[1], 0, sha256(b"").digest())]
        while note := ENDORSEMENT.match(data, at):
            at = note.end()
            origin, generation, old, new, size, root = (part.decode() for part in note.groups())
            must((origin, old) == (self.origin, vkey) and int(generation) == len(found) + 1, "endorsement")
            must(all(is_verifier_key(each, self.origin) for each in (old, new)), "an endorsed key")
            must({old.split("+")[1], new.split("+")[1]} <= signers(note[0]), "an endorsement without both signatures")
            must(size == str(int(size)), "the size of an endorsement")
            vkey = new
            found.append((new.split("+")[1], int(size), base64.b64decode(root, validate=True)))
        must(at == len(data), "behind the endorsements")
        return found

    def _must_be_in_force(self, note: bytes, size: int, root: bytes) -> None:
        """One of the signatures is by the key that signs over so many records; and it says what is endorsed."""
        spans = [(key, least, min((s for _, s, _ in self.keys[at + 1 :]), default=size)) for at, (key, least, _) in
                 enumerate(self.keys)]  # fmt: skip
        must(any(key in signers(note) and least <= size <= most for key, least, most in spans), "the key in force")
        standing = [(s, head) for at, (_, s, head) in enumerate(self.keys) if all(s <= t for _, t, _ in self.keys[at:])]
        must(all(head == root for s, head in standing[1:] if s == size), "a checkpoint against an endorsement")

    def _checkpoint(self, path: Path) -> tuple[int, bytes]:
        must(path.exists(), "no checkpoint: that of the empty log was signed first")
        origin, size, root, *_ = path.read_text(encoding="utf-8").split("\n")
        must(origin == self.origin, "checkpoint origin")
        self._must_be_in_force(path.read_bytes(), int(size), base64.b64decode(root))
        return int(size), base64.b64decode(root)

    def _history(self, path: Path) -> list[tuple[int, bytes]]:
        data, at = path.read_bytes() if path.exists() else b"", 0
        found: list[tuple[int, bytes]] = []
        while note := NOTE.match(data, at):
            at = note.end()
            must(note[1] == self.origin.encode(), "a note of the history")
            must(re.fullmatch(rb"[A-Za-z0-9+/]{43}=", note[3]) is not None, "a note's root")
            size, head = int(note[2]), base64.b64decode(note[3])
            must(not found or size > found[-1][0], "sizes of the history")
            self._must_be_in_force(note[0], size, head)
            must(size <= len(self.leaves) and tree_head(self.leaves[:size]) == head, "a note of another log")
            found.append((size, head))
        rest = data[at:]
        is_cut = all(re.fullmatch(part, line) for part, line in zip(PARTS, rest.split(b"\n"), strict=False))
        must(
            len(rest.split(b"\n")) <= len(PARTS) and is_cut if b"\0" not in rest else is_holed(rest), "behind the notes"
        )
        must(self.signed in found, "history without the latest")
        must(len(found) < 2 or self.signed[0] >= found[-2][0], "latest was put back")
        return found

    def _tiles(self, folder: Path, size: int) -> None:
        row, level = self.leaves[:size], 0
        while row:
            for at in range(0, len(row), 256):
                part = row[at : at + 256]
                digits = str(at // 256)
                digits = digits.zfill((len(digits) + 2) // 3 * 3)
                groups = [digits[n : n + 3] for n in range(0, len(digits), 3)]
                path = folder / f"tile/{level}" / "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
                if len(part) < 256:
                    path = path.with_name(path.name + ".p") / str(len(part))
                must(not path.exists() or path.read_bytes() == b"".join(part), "a tile")
                self.tiles += path.exists()
            row = [tree_head(row[at : at + 256]) for at in range(0, len(row) - 255, 256)]
            level += 1

    def _segment(self, data: bytes, at: int, *, is_last: bool) -> None:
        head = data[:88]
        must(len(head) == 88 and head[:8] == b"CFSG\0\3\0\0" and head[72:76] == LOG, "segment header")
        must(number(head[84:]) == zlib.crc32(head[:84]), "segment header CRC")
        must(head[8:24] == self.archive_id and number(head[24:32]) == at, "segment of another place")
        must(number(head[32:40]) == self.tree.size and head[40:72] == self.head, "segment does not chain")
        self.epoch += number(data[94:96]) == LOG_EPOCH  # the kind of its first record
        must(self.epoch == number(head[76:84]), "epoch of the segment")
        stop, footer = len(data), b""
        if data[-4:] == b"CFSX":
            stop -= number(data[-44:-36])
            must(stop >= 88, "footer length")
            footer = data[stop:]
        must(bool(footer) or is_last, "no footer")
        offsets, offset = [], 88
        while offset < stop and (footer or any(data[offset:])):  # else: room at the end
            offsets.append(offset)
            offset = self._record(data, offset, stop)
        must(self.group == -1, "the last group has no tag")
        if footer:
            self._footer(footer, offsets)

    def _record(self, data: bytes, offset: int, stop: int) -> int:
        head = data[offset : offset + 160]
        must(len(head) == 160 and head[:6] == b"CFRC\0\3", "record header")
        must(number(head[156:]) == zlib.crc32(head[:156]), "record header CRC")
        must(number(head[8:16]) == self.tree.size and head[116:148] == self.head, "record does not chain")
        length = number(head[44:52])
        body_end = offset + 160 + length
        end = (body_end + 96 + 7) // 8 * 8
        must(end <= stop, "record cut")
        body, closing = data[offset + 160 : body_end], data[body_end:end]
        must(sha256(body).digest() == head[84:116], "body")
        must(closing[:8] == head[44:52] and closing[92:96] == b"CFRE" and not any(closing[96:]), "record end")
        must(number(closing[88:92]) == zlib.crc32(closing[:88]), "record end CRC")
        kind, time_ms, flags = number(head[6:8]), number(head[16:24]), number(head[40:44])
        must(kind != REGISTER, "a kind that is not written yet")
        must(kind != LOG_EPOCH or offset == 88, "an epoch that begins inside a segment")
        key_id, content_id = head[24:40], head[52:84]
        if kind == LOG_EPOCH:
            must(is_json_object(body) and not any(key_id) and content_id == head[84:116], "the record of an epoch")
            told = json.loads(body)
            must((told.get("code"), told.get("epoch")) == ("log.epoch_begun", self.epoch), "the epoch of the record")
        must(kind == LOG_EPOCH or time_ms > self.time_ms, "a time that is not later")
        self.records.append(
            {"kind": kind, "time_ms": time_ms, "flags": flags, "key_id": key_id, "content_id": content_id, "body": body}
        )
        self.head, self.time_ms = sha256(b"\0" + head).digest(), time_ms
        self.tree.add(head)
        self.leaves.append(self.head)
        self._follow_group(number(head[148:156]), closing[8:88])
        if self.signed is not None and self.tree.size == self.signed[0]:
            must(self.tree.root() == self.signed[1], "a fork")
        return end

    def _follow_group(self, group: int, tag: bytes) -> None:
        """Take the record that was read last into its group, which a tag ends."""
        must(group == (self.tree.size - 1 if self.group == -1 else self.group), "another group")
        self.group = group
        if any(tag):
            must(int.from_bytes(tag[48:], "little") < ORDER, "a tag that is no signature")
            place = struct.pack(">QQQ", self.epoch, group, self.tree.size)
            statement = b"coffer/group/v2\0" + self.archive_id + LOG + place + self.head + tag[:16]
            self.groups.append((self.tree.size, statement, tag[16:]))
            self.group = -1

    def _footer(self, footer: bytes, offsets: list[int]) -> None:
        must(108 <= len(footer) <= 33_556_588 and footer[:6] == b"CFSF\0\3", "footer")
        must(sha256(footer[:-44]).digest() == footer[-36:-4], "footer hash")
        hashes = [top for _, top in self.tree.hashes]
        must(number(footer[6:8]) == len(hashes), "footer roots")
        must(0 < number(footer[8:16]) == len(offsets) <= 4_194_304, "footer records")
        must(footer[16:48] == self.head and number(footer[48:56]) == self.tree.size, "footer chain")
        must(number(footer[56:64]) == self.time_ms, "footer time")
        listed = b"".join(hashes) + struct.pack(f">{len(offsets)}Q", *offsets)
        must(footer[64:-44] == listed, "footer lists")


if __name__ == "__main__":
    log = Log(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    print(f"{log.tree.size} records, root {log.tree.root().hex()}")
