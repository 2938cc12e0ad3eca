"""Check a copy of a Coffer archive, without Coffer and without any secret key.

    python3 verify_coffer.py FOLDER [--vkey KEY] [--kept NOTE ...]

Written from archive/FORMAT.md alone, with the standard library of Python 3.9 or later. KEY is the archive's verifier
key, from its owner by a way that you trust. NOTE is a signed checkpoint that you kept. It prints a line for all that is
wrong, and a last one. Exit code 0: all is as it was signed; 1: not so; 17: without KEY, the copy agrees with itself.
Proofs and certificates of erasure are checked by verify_proof.py, which lies beside this file.
"""

import argparse
import base64
import hashlib
import json
import mmap
import re
import struct
import zlib
from contextlib import suppress
from functools import partial, reduce
from pathlib import Path

HEAD, LINES = re.compile(rb"(0|[1-9][0-9]*)\n([A-Za-z0-9+/]{43}=)"), rb"(?:\xe2\x80\x94 [^\n\0]+\n)+"
NOTE = re.compile(rb"(?<![^\n])([^\n\0]+)\n" + HEAD.pattern + rb"\n\n" + LINES)
TYPE, ENDORSEMENTS = "coffer/signing-key/v1", "checkpoints/endorsements"
LOST, CUT, BODY = "the record header is damaged", "the record is cut, or its end is damaged", "the body is damaged"
UNCHAINED = "it does not chain to the one before"
BY_ITSELF = "consistent with itself; not checked against any key from outside"
LOG_EPOCH, REGISTER = 256, 257  # kinds of records
P, Q = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # RFC 8032 5.1
D, ROOT_OF_MINUS_1 = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)
number = partial(int.from_bytes, byteorder="big")


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def must(condition, what):
    if not condition:
        raise ValueError(what)


def is_header(head):  # of a record
    return head[:6] == b"CFRC\0\3" and head[156:] == struct.pack(">I", zlib.crc32(head[:156]))


def add(a, b):  # points of edwards25519 as (X, Y, Z, T), RFC 8032 5.1.4
    m, n = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    o, r = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = n - m, r - o, r + o, n + m
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar, point):
    found = zero = (0, 1, 1, 0)
    for bit in f"{scalar:b}":
        found = add(add(found, found), point if bit == "1" else zero)
    return found


def point_of(data):  # RFC 8032 5.1.3
    y, sign = int.from_bytes(data, "little") & ((1 << 255) - 1), data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * ROOT_OF_MINUS_1 % P
    must(y < P and x * x % P == square and (x or not sign), "no point")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point_of((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def is_signed(public, signature, message):
    """RFC 8032 5.1.7; about 5 ms."""
    a, r, s = point_of(public), point_of(signature[:32]), int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    one, other = times(s, BASE), add(r, times(h, a))
    return s < Q and all((one[i] * other[2] - other[i] * one[2]) % P == 0 for i in (0, 1))


class Key:
    """A C2SP verifier key: name+hash+base64(0x01 || Ed25519 key)."""

    def __init__(self, text):
        self.name, hashed, encoded = [*text.split("+", 2), "", ""][:3]
        key = base64.b64decode(encoded, validate=True)
        self.public, self.hash = key[1:], sha256(self.name.encode() + b"\n" + key)[:4]
        must(len(key) == 33 and key[0] == 1 and self.hash.hex() == hashed, "the verifier key is malformed")

    def signs(self, note):
        """Whether a C2SP note has a signature by this key. Raises ValueError for one that is not good."""
        text, gap, block = note.rpartition(b"\n\n")
        must(gap and re.fullmatch(LINES, block), "no signed note")
        start = f"\u2014 {self.name} ".encode()
        lines = [line[len(start) :] for line in block.splitlines() if line.startswith(start)]
        ours = [base64.b64decode(line, validate=True) for line in lines]
        must(list(map(base64.b64encode, ours)) == lines, "a signature in another form")
        ours = [blob[4:] for blob in ours if blob[:4] == self.hash and len(blob) == 68]
        must(all(is_signed(self.public, s, text + b"\n") for s in ours), "not signed by this key")
        return bool(ours)


class Keys:
    """An archive's signing keys, for who trusts one; `standing`: what endorsements say that no later one takes back."""

    def __init__(self, trusted, notes):
        self.name, self.vkeys, self.made = Key(trusted).name, [], []  # made: (size, root) of each endorsement
        for note in notes:
            kind, name, count, old, new, size, root = note.rpartition(b"\n\n")[0].decode().split("\n")
            self.vkeys = self.vkeys or [old]
            wanted = [TYPE, self.name, str(len(self.vkeys) + 1), self.vkeys[-1]]
            must([kind, name, count, old] == wanted, "an endorsement is out of order")
            must(all(Key(k).name == name and Key(k).signs(note) for k in (old, new)), "not signed by both keys")
            must(HEAD.fullmatch(f"{size}\n{root}".encode()), "an endorsement in another form")
            self.vkeys.append(new)
            self.made.append((int(size), base64.b64decode(root)))
        self.vkeys = self.vkeys or [trusted]
        must(trusted in self.vkeys, "the endorsements do not lead to the verifier key")
        self.standing = [each for at, each in enumerate(self.made) if all(each[0] <= s for s, _ in self.made[at:])]

    def in_force(self, size):
        sizes = [0, *(at for at, _ in self.made)]
        return [Key(v) for at, v in enumerate(self.vkeys) if sizes[at] <= size <= min([*sizes[at + 1 :], size])]

    def require_signed(self, note, size):
        """Raise ValueError unless a key that is in force over so many records signed the note."""
        must(any(key.signs(note) for key in self.in_force(size)), "not signed by the key in force")

    def open(self, note):
        """(size, root) of a checkpoint that the key in force signed. Raises ValueError."""
        found = NOTE.fullmatch(note)
        must(found and found[1] == self.name.encode(), "no checkpoint of this archive")
        size, root = int(found[2]), base64.b64decode(found[3])
        self.require_signed(note, size)
        must(all(root == other for at, other in self.standing if at == size), "it contradicts an endorsement")
        return size, root


class Archive:
    """All records of a copy, in order. `found` gets a line for everything that is wrong."""

    def __init__(self, folder, vkey, kept):
        self.folder, self.found, self.torn, self.claims = folder, [], 0, {}
        raw = (folder / "archive.json").read_bytes()
        about = json.loads(raw)
        self.id, trusted, path = bytes.fromhex(about["archive_id"]), vkey or about["vkey"], ENDORSEMENTS
        data = (folder / path).read_bytes() if (folder / path).exists() else b""
        notes = re.findall(TYPE.encode() + rb"\n(?:[^\n\0]+\n){6}\n" + LINES, data)
        try:
            must(b"".join(notes) == data, "it cannot be read")
            self.keys = Keys(trusted, notes)
        except ValueError as error:
            self.say(path, error)
            self.keys = Keys(trusted, [])
        for size, root in self.keys.standing:
            self.claims.setdefault(size, []).append((path, root))
        meant = {"format": 3, "archive_id": self.id.hex(), "origin": self.keys.name, "vkey": self.keys.vkeys[0]}
        if raw != json.dumps(meant, indent=1).encode() + b"\n":
            self.say("archive.json", "altered, or another key than was given")
        self.seq, self.head, self.epoch, self.time = 0, sha256(b"coffer/genesis/v2\0", self.id, bytes(4)), 0, -1
        self.group, self.end = b"", (0, b"", b"")  # the open one, b"" between two; size, statement and tag of the last
        self.edge, self.leaves = [], bytearray()  # roots of complete subtrees, largest first; None behind damage
        self.latest, *_ = [self.claim(path) for path in (folder / "checkpoints" / "latest", *kept)]
        self.history(folder / "checkpoints" / "history")
        paths = sorted(p for p in (folder / "segments").iterdir() if re.fullmatch(r"[0-9]{8}\.seg", p.name))
        for path in paths:
            self.segment(path, path == paths[-1])
        for size in (s for s in self.claims if s > self.seq):
            self.say("log", f"it ends at {self.seq} records, {self.claims[size][0][0]} covers {size}")
        self.uncovered()
        if self.latest <= self.seq and len(self.leaves) == 32 * self.seq:
            self.tiles([bytes(self.leaves[i : i + 32]) for i in range(0, 32 * self.latest, 32)])

    def say(self, where, what):
        self.found.append(f"{where}: {what}")

    def claim(self, path, note=None):
        """Remember what a signed checkpoint says; its size, or 0."""
        try:
            size, root = self.keys.open(path.read_bytes() if note is None else note)
            self.claims.setdefault(size, []).append((path, root))
            return size
        except (OSError, ValueError) as error:
            self.say(path, error)
            return 0

    def history(self, path):
        data, at, sizes = path.read_bytes() if path.exists() else b"", 0, []
        for note in NOTE.finditer(data):
            sizes.append(int(note[2]))
            if note.start() != at or sizes[-2:] != sorted(set(sizes[-2:])):
                self.say(path, f"byte {at}: not the next note")
            at = note.end()
            self.claim(path, note[0])
        if self.latest not in sizes or (len(sizes) > 1 and self.latest < sizes[-2]):
            self.say(path, "latest is not its last checkpoint, nor the one before")

    def segment(self, path, is_last):
        with path.open("rb") as file:
            stop = file.seek(0, 2)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if stop else b""
        head, offsets = data[:88], None
        self.seq, self.head = (number(head[32:40]), head[40:72]) if self.head is None else (self.seq, self.head)
        place, is_begun = (self.id, int(path.stem), self.seq, self.head), is_header(data[88:248])
        self.begins, self.group = is_begun and number(data[94:96]) == LOG_EPOCH, b""
        self.epoch += self.begins  # without a record yet, the next one may be about to begin
        heads = [struct.pack(">4sHH16sQQ32sIQ", b"CFSG", 3, 0, *place, 0, self.epoch + n) for n in range(2 - is_begun)]
        if head not in [each + struct.pack(">I", zlib.crc32(each)) for each in heads]:
            self.say(path.name, "its header is damaged, or does not belong behind the segment and the records before")
        if data[-4:] == b"CFSX" and 108 <= (length := number(data[-44:-36])) <= stop - 88:
            footer = data[stop - length :]
            edges, records = number(footer[6:8]), number(footer[8:16])
            if sha256(footer[:-44]) == footer[-36:-4] and length == 108 + 32 * edges + 8 * records:
                offsets, stop = struct.unpack_from(f">{records}Q", footer, 64 + 32 * edges), stop - length
        if offsets is None and not is_last:
            self.say(path.name, "no whole footer")
        starts = self.records(path, data, stop, offsets, is_last and offsets is None)
        if offsets is not None:
            roots = [footer[64 + 32 * i : 96 + 32 * i] for i in range(edges)]
            state = footer[16:48], number(footer[48:56]), number(footer[56:64]), roots
            is_right = self.edge is None or state == (self.head, self.seq, self.time, self.edge)
            if (footer[:6], list(offsets), is_right) != (b"CFSF\0\3", starts, True) or not starts or self.group:
                self.say(path.name, "the footer does not describe this segment's records")
            self.head, self.seq, self.time, self.edge = state

    def records(self, path, data, stop, offsets, is_open):
        at, starts = 88, []
        while at < stop and not (is_open and not data[at] and not data[at:stop].strip(b"\0")):  # zeros are room
            head = data[at : at + 160]
            body_end = at + 160 + number(head[44:52])
            end, tag = (body_end + 103) // 8 * 8, data[body_end + 8 : body_end + 88]
            crc = zlib.crc32(head[44:52] + tag)
            closing = struct.pack(f">8s80sI4s{end - body_end - 96}x", head[44:52], tag, crc, b"CFRE")
            body, is_end = memoryview(data)[at + 160 : body_end], end <= stop and data[body_end:end] == closing
            checks = (is_header(head), LOST), (is_end, CUT), (hashlib.sha256(body).digest() == head[84:116], BODY)
            problem = next((what for holds, what in (*checks, *self.order(head, at == 88, body)) if not holds), None)
            if problem in (LOST, CUT, BODY) and is_open and self.is_torn(data, at):
                self.torn = stop - at
                break
            starts.append(at)
            if problem:
                self.say(path.name, f"offset {at}, record {self.seq}: {problem}")
            self.edge = None if problem == UNCHAINED else self.edge
            if problem in (LOST, CUT):  # what it was is not known: go on by the footer
                self.edge, self.head, self.seq, self.time, self.group = None, None, self.seq + 1, -1, None
                at = next((offset for offset in offsets or () if offset > at), stop)
            else:
                self.follow(path, head, tag)
                at = end
        return starts

    def order(self, head, is_first, body):
        """What the records before this one say of it: whether it is so, and what is wrong if not."""
        kind, begins = number(head[6:8]), self.begins and is_first
        told = b'{"code":"log.epoch_begun","epoch":%d,' % self.epoch
        is_epoch = not any(head[24:40]) and head[52:84] == head[84:116] and body[: len(told)] == told
        group = head[148:156] if self.group is None else self.group or head[8:16]
        yield (number(head[8:16]), head[116:148]) == (self.seq, self.head or head[116:148]), UNCHAINED
        yield is_epoch if begins else kind not in (LOG_EPOCH, REGISTER), "no such record can stand here"
        yield head[148:156] == group, "it is of another group than the one before says"
        yield begins or number(head[16:24]) > self.time, "it is not later than the one before"

    def is_torn(self, data, at):
        """Whether what begins here is the rest of a write that nobody was told of ("The end of the log")."""
        heads = (data[m.start() : m.start() + 160] for m in re.finditer(b"CFRC\0\3", data) if m.start() > at)
        behind = (number(head[148:156]) for head in heads if is_header(head))
        return self.seq >= max(self.claims, default=0) and all(group <= self.seq for group in behind)

    def follow(self, path, head, tag):
        """Take a record into chain, group and tree, and hold the tree against what was signed of it."""
        self.head, self.seq = node, count = sha256(b"\0", head), number(head[8:16]) + 1
        self.time, self.group = number(head[16:24]), b"" if any(tag) else head[148:156]
        if any(tag):
            place = struct.pack(">4xQ8sQ", self.epoch, head[148:156], count)
            self.end = count, b"coffer/group/v2\0" + self.id + place + node + tag[:16], tag[16:]
        if self.edge is None:
            return
        self.leaves += node
        while count & 1 == 0:
            node, count = sha256(b"\1", self.edge.pop(), node), count >> 1
        self.edge.append(node)
        for source, root in self.claims.get(self.seq, ()):
            if root != reduce(lambda top, left: sha256(b"\1", left, top), reversed(self.edge)):
                self.say(source, f"the first {self.seq} records up to {path.name} are not those that were signed")

    def uncovered(self):
        """Say which records neither a checkpoint covers nor the tag of the last group, by the key in force there."""
        (size, statement, tag), covered = self.end, max(self.claims, default=0)
        with suppress(ValueError):  # a tag that is no signature
            if size > covered and any(is_signed(key.public, tag, statement) for key in self.keys.in_force(size)):
                covered = size
        if self.seq > covered:
            self.say("log", f"neither a checkpoint nor a tag covers its {self.seq - covered} records from {covered} on")

    def tiles(self, row, level=0):
        above = []
        for at in range(-(-len(row) // 256)):
            part, digits = row[256 * at : 256 * at + 256], f"{at:0{(len(str(at)) + 2) // 3 * 3}d}"
            name = re.sub("(...)(?=.)", r"x\1/", digits) + (f".p/{len(part)}" if len(part) < 256 else "")
            path = self.folder / "tiles" / "tile" / str(level) / name
            if path.exists() and path.read_bytes() != b"".join(part):
                self.say(path, "the tile is not what the log says")
            if len(part) == 256:
                while len(part) > 1:
                    part = [sha256(b"\1", part[i], part[i + 1]) for i in range(0, len(part), 2)]
                above += part
        return self.tiles(above, level + 1) if above else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vkey", default="")
    parser.add_argument("--kept", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    try:
        archive = Archive(given.folder, given.vkey, given.kept)
        found, size = archive.found, f"{archive.seq} records, {len(archive.claims)} checkpoints"
        told = f"{size}, {archive.torn} bytes of an unfinished write"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found, told = [str(error)], str(given.folder)
    fine = "all is as it was signed" if given.vkey else BY_ITSELF
    print(*found, f"{told}: " + (f"{len(found)} findings" if found else fine), sep="\n")
    return 1 if found else 0 if given.vkey else 17


if __name__ == "__main__":
    raise SystemExit(main())
