"""A worker that was taken over sends every message with every field wrong: only its own line ends.

After each attempt an honest worker is served as ever; at the end the archive is verified and opened again for writing.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.index.dicom.identifier import encode_identifier
from coffer.index.instance.identity import PartId
from coffer.server.engine.commit import Sealed
from coffer.server.identity.claim import AssociationClaim, IdentityType, UserIdentity
from coffer.server.workers import messages as m
from coffer.server.workers.transport import SEALS, LineClosed
from tests.server import hostile_worker
from tests.server.hostile_worker import EVIL, HONEST, Site, Worker

site = hostile_worker.site
QUERY = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: (HONEST,)}, (), implicit=True)
OUTSIDE = ("/etc/passwd", "../../key", "../archive.json", "../keyring/data.mdb")

# Values that have broken something somewhere, by their type: signs, sizes, names of files, odd text. One of another
# type ends with decoding, so most are of the type that is expected.
WILD: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.sampled_from([0, -1, 1, 2, 1 << 31, 1 << 53, -(1 << 63), (1 << 64) - 1])
    | st.integers(-(1 << 63), (1 << 64) - 1),
    float: st.sampled_from([float("nan"), float("inf"), -1.0, -0.0, 1e308]),
    bytes: st.sampled_from([b"", bytes(16), bytes(32), bytes(33), b"\xff" * 70_000]) | st.binary(max_size=40),
    str: st.sampled_from(
        [*OUTSIDE, ".", "LOCK", "0123456789abcdef.sealed", "", "\0", "\r\n", "\u202e", "A" * 5000, HONEST]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    list: st.lists(st.text(max_size=3), max_size=4),
    dict: st.just({}),
    type(None): st.none(),
}
ANY = st.one_of(*WILD.values())


@pytest.fixture(scope="module")
def honest(site: Site) -> tuple[Sealed, bytes]:
    """What an honest worker would have committed, which nobody committed yet."""
    kept: list[tuple[Sealed, bytes]] = []
    worker = Worker(site)
    worker.instead(EVIL, lambda sealed, body: kept.append((sealed, bytes(body))))
    worker.line.close()
    return kept[0]


@pytest.fixture(scope="module")
def opened() -> Iterator[list[str]]:
    """The names that this process opens from now on; a hook cannot be removed, so it is switched off."""
    names: list[str] = []
    is_on = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event == "open":
            names.append(str(arguments[0]))

    sys.addaudithook(hook)
    yield names
    is_on.clear()


@pytest.fixture(scope="module")
def foreign(site: Site) -> bytes:
    """The id of the key of a study that the honest worker stored."""
    line = Worker(site).line
    (place, *_) = line.ask(m.Plan(QUERY, True, "study"), m.Places).places
    line.close()
    return place.study_key_id


def samples(sealed: Sealed, length: int, foreign: bytes) -> list[m.Request]:
    """One of every message, as an honest worker sends it, but for the key of a study that its line did not ask for."""
    filed = msgspec.structs.replace(sealed, body_sha256=bytes(32))
    return [
        m.Commit(sealed, length, ""), m.Commit(filed, length, "0123456789abcdef.sealed"), m.StudyKeyFor(PartId(EVIL)),
        m.KeyOf(foreign), m.Renew(foreign), m.Find(QUERY, True, "study"),
        m.Plan(QUERY, True, "study"), m.More(), m.Stop(), m.AssociationOpened(), m.AssociationClosed(),
        m.Rejected("limit"), m.Aborted("idle"), m.Limited("request-rate"),
        m.Answered("find", 0, 0.1), m.Sent("get", 1, 1),
        m.Identify(AssociationClaim("OTHER", "COFFER", UserIdentity(IdentityType.PASSCODE, b"user", b"word"))),
    ]  # fmt: skip


def place(draw: st.DrawFn, container: Any) -> tuple[Any, Any]:
    """A place that holds a value: its container and its key in that. Every level counts alike, so that the few fields
    of an object are tried as often as its many attributes; the name of a message is left alone."""
    keys = range(1, len(container))
    while True:
        key = draw(st.sampled_from(list(keys)))
        inner = container[key]
        if not isinstance(inner, list | dict) or not inner or draw(st.integers(0, 3)) == 0:
            return container, key
        container, keys = inner, range(len(inner)) if isinstance(inner, list) else inner


@st.composite
def wild(draw: st.DrawFn, sent: bytes) -> bytes:
    """A message as it is, or with one or two values replaced, left out or put in."""
    value = msgspec.msgpack.decode(sent)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 0]))):
        if len(value) < 2:  # one without fields, or with none left
            value.append(draw(ANY))
        container, key = place(draw, value)
        match draw(st.sampled_from(["same"] * 8 + ["other", "remove", "add"])):
            case "same":
                container[key] = draw(WILD[type(container[key])])
            case "other":
                container[key] = draw(ANY)
            case "remove":
                del container[key]
            case "add" if isinstance(container, list):
                container.insert(key, draw(ANY))
            case "add":
                container[draw(st.sampled_from(["x", 0x00100010, -1]))] = draw(ANY)
    return msgspec.msgpack.encode(value)


def memory(body: bytes) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, body)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


def answers(evil: Worker) -> Iterator[m.Reply]:
    """What it is told until its line ends."""
    with contextlib.suppress(LineClosed):
        while True:
            yield m.decode_reply(evil.wire.receive())
            for fd in evil.wire.take_fds():
                os.close(fd)


KINDS = (
    "commit from memory", "commit from a file", "study key", "key", "renew", "find", "plan", "more", "stop", "opened",
    "closed", "rejected", "aborted", "limited", "answered", "sent", "identify",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
@given(data=st.data())
def test_whatever_a_message_holds_only_its_own_line_ends(
    site: Site, honest: tuple[Sealed, bytes], foreign: bytes, opened: list[str], number: int, data: st.DataObject
) -> None:
    sealed, body = honest
    assert len(samples(sealed, len(body), foreign)) == len(KINDS)
    sent = data.draw(wild(m.encode(samples(sealed, len(body), foreign)[number])))
    evil, fd = Worker(site), memory(body)
    opened.clear()
    before = site.engine.stats().objects
    given: list[m.Reply] = []
    with contextlib.suppress(LineClosed):
        evil.send(m.StudyKeyFor(PartId(EVIL, sealed.entry.patient_id, sealed.entry.issuer)))
        evil.wire.send(sent, (fd,))
        evil.send(m.KeyOf(b""))  # ends the line in any case
    given += answers(evil)
    os.close(fd)
    assert evil.over.wait(20)
    evil.line.close()
    stored = sum(isinstance(reply, m.Done) and not reply.committed.stale for reply in given)
    after = site.engine.stats().objects
    assert before <= after <= before + stored  # nothing that was not answered for
    site.stored += after - before
    keys = [reply for reply in given if isinstance(reply, m.Key)]
    assert foreign not in {reply.key_id for reply in keys}
    assert not any(isinstance(reply, m.Renewed) for reply in given)
    assert not any(name.endswith(OUTSIDE) for name in opened)
    site.check()
