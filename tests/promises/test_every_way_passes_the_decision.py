"""Nothing is shown, stored, sent or changed before the decision was asked: by no command and by no service of DICOM.

The decision is made to say no, whatever it is asked, and then everything is tried that can be tried: every command that
the program has, and every command field of PS3.7 Table E.1-1 on every context that is negotiated. What does its work
without asking is told by its exit code or status, by what it prints, or by what it leaves on disk. A new command or
action that stands in no table here fails.
"""

import inspect
import pkgutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coffer.archive.copies.keyring_copies import KeysHeld
from coffer.index.dicom.identifier import encode_identifier
from coffer.keys.crypto.shamir import Recovered
from coffer.keys.errors import AccessDeniedError
from coffer.server import clock, erasure, keyops, retention, services
from coffer.server.access.action import AccessRequest, Action, PurposeOfUse, Resource
from coffer.server.access.decision import Policy, policy_of
from coffer.server.access.principal import Principal, PrincipalKind
from coffer.server.access.roles import GRANTS, Duty
from coffer.server.access.rules import DenialReason, Deny, Permit
from coffer.server.backup.copies import MadeCopy
from coffer.server.cli import main
from coffer.server.clock import watching
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.dimse.acceptor import Acceptor
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.engine.opening import open_writer
from coffer.server.erasure.approvals import ShredRequests
from coffer.server.erasure.certificate import Certifier
from coffer.server.erasure.finish import finish
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.keyops.copy_register import CopyRegister
from coffer.server.keyops.epochs import destroy, rotate
from coffer.server.keyops.rekey_order import RekeySelection, order
from coffer.server.keyops.share_files import burn_shares, split_key
from coffer.server.keyops.share_recovery import drill, recover
from coffer.server.observe.metrics import Metrics
from coffer.server.retention.holds import Hold, HoldAdmin
from coffer.server.retention.selection import by_study
from coffer.server.services.api import StoreRequest
from coffer.server.services.bundle import WriterServices
from coffer.server.services.find import Finder
from coffer.server.services.versions import one_version, versions_of
from tests.gates import open_gate
from tests.server.dimse.raw_peer import MAX_PDU, Broken, RawRequestor
from tests.server.filled import run, study_files

CAUSE = "denied by this test"
STUDY, INSTANCE, LEVEL = 0x0020000D, 0x00080018, 0x00080052
CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
UID = "1.2.840.99999.1"
WHO = Principal.person("Meyer", "a")
COPY = MadeCopy("vault", "id", 0, 0, KeysHeld(0, 0, 0), ())

# How each command is called, and what it must ask for first.
COMMANDS = [
    ("init", Action.CREATE),
    ("serve", Action.SERVE),
    ("demo --once", Action.CREATE),
    ("put in", Action.IMPORT),
    ("get --study 1.2.3 --out out", Action.EXPORT),
    ("get --instance 1.2.3 --version 1 --out out", Action.EXPORT),
    ("find", Action.FIND),
    ("versions 1.2.3", Action.RETRIEVE),
    ("verify", Action.VERIFY),
    ("repair --from copy", Action.REPAIR),
    ("recover show", Action.INSPECT),
    ("recover from copy", Action.RECOVER),
    ("recover accept-loss --to 1", Action.ACCEPT_LOSS),
    ("mark show", Action.INSPECT),
    ("mark renew --reason r", Action.RENEW_MARK),
    ("backup run /b --no-keys", Action.BACKUP),
    ("backup list /b", Action.INSPECT),
    ("backup verify latest /b", Action.VERIFY),
    ("backup prune /b", Action.PRUNE),
    ("backup drill latest /b", Action.REHEARSE),
    ("backup recipient new me.identity", Action.MAKE_RECIPIENT),
    ("backup recipient show coffer.toml", Action.INSPECT),
    ("restore latest restored --from /b --no-keys", Action.RESTORE),
    ("restore latest files --from /b --study 1.2.3", Action.RESTORE),
    ("scrub show", Action.INSPECT),
    ("scrub acknowledge", Action.ACKNOWLEDGE),
    ("checkpoint show", Action.INSPECT),
    ("checkpoint sign", Action.SIGN),
    ("checkpoint prove-inclusion 0", Action.PROVE),
    ("checkpoint prove-consistency 1", Action.PROVE),
    ("checkpoint check proof.json", Action.VERIFY),
    ("status", Action.INSPECT),
    ("status --list", Action.INSPECT),
    ("doctor", Action.INSPECT),
    ("keys list", Action.INSPECT),
    ("keys audit", Action.AUDIT_KEYS),
    ("keys rotate", Action.ROTATE),
    ("keys rekey 1.2.3 --reason r --yes", Action.REKEY),
    ("keys rotate-signing --reason r", Action.ROTATE_SIGNING),
    ("keys destroy 1 --yes", Action.DESTROY_EPOCH),
    ("keys export --public", Action.PUBLISH_KEYS),
    ("keys split -n 3 -k 2 -o shares", Action.SPLIT),
    ("keys recover --share a.txt --share b.txt", Action.RECOVER_KEY),
    ("keys drill --share a.txt --share b.txt", Action.DRILL),
    ("keys burn 5f1c0a77a52688ed 1", Action.BURN),
    ("keys copied --to tape", Action.REGISTER_COPY),
    ("keys copies", Action.INSPECT),
    ("shred study 1.2.3 --reason r --yes", Action.SHRED),
    ("shred study 1.2.3 --dry-run", Action.PREVIEW_SHRED),
    ("shred request 1.2.3 --reason r", Action.REQUEST_SHRED),
    ("shred request 1.2.3 --dry-run", Action.PREVIEW_SHRED),
    ("shred approve 5f1c0a77", Action.APPROVE),
    ("shred approve 5f1c0a77 --dry-run", Action.PREVIEW_SHRED),
    ("shred cancel 5f1c0a77", Action.CANCEL_REQUEST),
    ("shred finish", Action.FINISH_SHRED),
    ("shred list", Action.INSPECT),
    ("shred certificate 5f1c0a77", Action.CERTIFY),
    ("shred check erased.note", Action.VERIFY),
    ("hold add 1.2.3 --reason r", Action.HOLD),
    ("hold list", Action.INSPECT),
    ("hold remove 5f1c0a77", Action.RELEASE),
    ("clock show", Action.INSPECT),
    ("clock confirm --reason r", Action.CONFIRM_CLOCK),
    ("index rebuild", Action.REINDEX),
    ("config check", Action.CONFIGURE),
    ("reload", Action.RELOAD),
    ("tls check", Action.CHECK_TLS),
    ("users add anna --role admin --account anna", Action.MANAGE_USERS),
    ("users change anna --role admin", Action.MANAGE_USERS),
    ("users remove anna", Action.MANAGE_USERS),
    ("users passwd anna", Action.MANAGE_USERS),
    ("users none --yes", Action.MANAGE_USERS),
    ("users list", Action.LIST_USERS),
    ("access explain --as anna --action find", Action.EXPLAIN),
]
# They print what is in the program, or make files of no archive; they need no configuration either.
ASKS_NOBODY = {("completion",), ("tls", "init")}
OVER_THE_NETWORK = {Action.ASSOCIATE, Action.ECHO, Action.STORE, Action.FIND, Action.RETRIEVE, Action.MOVE}
OVER_HTTP = {Action.MONITOR}
NOT_BUILT = {action for of in GRANTS.values() for action, each in of.items() if Duty.NOT_BUILT in each.duties} - {
    Action.EXPORT
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small archive, its copy, and its configuration. What is denied changes nothing: all share it."""
    made = tmp_path_factory.mktemp("archive")
    config = made / "coffer.toml"
    peer = '[[peers]]\nae_title = "MOVEDST"\nhost = "127.0.0.1"\nport = 1\n'
    config.write_text(f"[storage]\nreserve_bytes = 0\n[http]\nenabled = false\n{peer}")
    run("--config", str(config), "init")
    files = study_files(made / "in")
    run("--config", str(config), "put", *map(str, files))
    (made / "copy").mkdir()
    return made


@pytest.fixture
def config(base: Path) -> Config:
    return load_config(base / "coffer.toml")


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[AccessRequest]]:
    """Let the decision say no to everything but some actions; what it was asked is in the list that is returned."""

    def start(*, but: frozenset[Action] = frozenset()) -> list[AccessRequest]:
        asked: list[AccessRequest] = []

        def decide(
            _: Policy, principal: Principal, action: Action, resource: Resource, purpose: PurposeOfUse, at: int
        ) -> Permit | Deny:
            asked.append(AccessRequest(principal, action, resource, purpose, at))
            return Permit() if action in but else Deny(DenialReason.UNKNOWN_PEER, CAUSE, "ask the test")

        monkeypatch.setattr(Policy, "decide", decide)
        return asked

    return start


def seen(folder: Path) -> dict[str, bytes]:
    """Everything that lies below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        return [leaf for name, one in command.commands.items() for leaf in leaves(one, (*path, name))]
    return [path]


def test_no_command_and_no_action_is_left_out() -> None:
    tried = {leaf for leaf in leaves(main) for line, _ in COMMANDS if tuple(line.split())[: len(leaf)] == leaf}
    assert tried | ASKS_NOBODY == set(leaves(main))
    assert {action for _, action in COMMANDS} | OVER_THE_NETWORK | OVER_HTTP | NOT_BUILT == set(Action)


@pytest.mark.parametrize(("line", "action"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_command_asks_before_it_shows_or_changes_anything(
    base: Path, deny: Callable[..., list[AccessRequest]], monkeypatch: pytest.MonkeyPatch, line: str, action: Action
) -> None:
    monkeypatch.chdir(base)
    before, asked = seen(base), deny()
    done = CliRunner().invoke(main, line.split(), env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""})
    assert (done.exit_code, done.stdout, done.stderr) == (10, "", f"error: {CAUSE}\nremedy: ask the test\n")
    assert seen(base) == before
    assert [one.action for one in asked] == [action]
    assert (asked[0].principal.kind, asked[0].purpose) == (PrincipalKind.PERSON, PurposeOfUse.ADMINISTRATION)


# Services of DICOM

FIELDS = [0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150]  # PS3.7 E.1
ABSTRACT = [*sorted(negotiation.SERVICES), CT]
OFFERS = [Offer(2 * i + 1, syntax, (EXPLICIT_LE,)) for i, syntax in enumerate(ABSTRACT)]
MEANT = {
    **dict.fromkeys(negotiation.FIND, dimse.C_FIND),
    **dict.fromkeys(negotiation.MOVE, dimse.C_MOVE),
    **dict.fromkeys(negotiation.GET, dimse.C_GET),
    negotiation.VERIFICATION: dimse.C_ECHO,
    CT: dimse.C_STORE,
}
IDENTIFIER = encode_identifier({LEVEL: ("STUDY",), STUDY: (UID,)}, (), implicit=False)


@contextmanager
def serving(config: Config) -> Iterator[int]:
    """The port where an acceptor serves one association after another, over the archive itself."""
    with open_writer(config) as archive, socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                connection = Connection(sock, max_pdu=MAX_PDU, gap_seconds=5.0)
                gate = open_gate(config, "127.0.0.1")
                Acceptor(
                    connection, "127.0.0.1", config, policy_of(config), WriterServices.of(archive), Metrics(), gate
                ).serve()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def status_of(peer: RawRequestor, syntax: str, field: int, destination: str = "MOVEDST") -> int:
    """How one request ends."""
    more = {"AFFECTED_INSTANCE": "1.2.3"} if field == dimse.C_STORE else {}
    if field == dimse.C_MOVE:
        more["DESTINATION"] = destination
    data = None if field == dimse.C_ECHO else IDENTIFIER
    peer.request(peer.context(syntax), field, data, **more)
    first = next(peer.responses())
    return first.status


def test_no_association_is_accepted_unasked(config: Config, deny: Callable[..., list[AccessRequest]]) -> None:
    with serving(config) as port:
        asked = deny()
        with pytest.raises(Broken) as refused:
            RawRequestor(port, OFFERS)
    assert (refused.value.kind, refused.value.body[1:]) == (3, bytes((1, 1, 3)))
    assert [(one.action, one.principal) for one in asked] == [
        (Action.ASSOCIATE, Principal.peer("TESTER", "COFFER", "127.0.0.1"))
    ]


def test_no_service_answers_unasked(config: Config, deny: Callable[..., list[AccessRequest]]) -> None:
    with serving(config) as port:
        asked = deny(but=frozenset({Action.ASSOCIATE}))
        with RawRequestor(port, OFFERS) as peer:
            for syntax in ABSTRACT:
                for field in FIELDS:
                    del asked[:]
                    served = MEANT[syntax] == field
                    known = field in MEANT.values()
                    expected = 0x0124 if served else 0x0122 if known else 0x0211
                    assert status_of(peer, syntax, field) == expected, (syntax, hex(field))
                    assert len(asked) == served
            assert status_of(peer, next(iter(negotiation.MOVE)), dimse.C_MOVE, "NOWHERE") == 0xA801


def test_a_move_needs_the_destination_and_the_retrieval(
    config: Config, deny: Callable[..., list[AccessRequest]]
) -> None:
    for denied in (Action.MOVE, Action.RETRIEVE):
        with serving(config) as port:
            asked = deny(but=frozenset(Action) - {denied})
            with RawRequestor(port, OFFERS) as peer:
                assert status_of(peer, next(iter(negotiation.MOVE)), dimse.C_MOVE) == 0x0124
        assert asked[-1].action is denied
        assert asked[1].resource == Resource.destination("MOVEDST")


# Use cases, for doors that are still to come


def _nothing(*_: int) -> None:
    return None


USE_CASES: dict[str, Callable[[WriterServices, Config, Path], object]] = {
    "store.begin": lambda s, c, p: s.ingest.begin(StoreRequest(CT, "1.2.3", EXPLICIT_LE, WHO)),
    "find.find": lambda s, c, p: s.finder.find(b"no identifier", implicit=True, model="study", caller=WHO),
    "find.rows": lambda s, c, p: s.finder.rows({}, model="study", caller=WHO),
    "retrieve.plan": lambda s, c, p: s.retriever.plan(b"none", implicit=True, model="study", caller=WHO),
    "retrieve.plan_in_steps": lambda s, c, p: s.retriever.plan_in_steps(b"", implicit=True, model="study", caller=WHO),
    "retrieve.instances": lambda s, c, p: s.retriever.instances({STUDY: (UID,)}, WHO),
    "versions.versions_of": lambda s, c, p: versions_of(s.archive, "1.2.3", WHO),
    "versions.one_version": lambda s, c, p: one_version(s.archive, "1.2.3", 1, WHO),
    "holds.add": lambda s, c, p: HoldAdmin(s.archive).add(Hold(UID, "", "r", "", WHO.officer, 0)),
    "copy_register.add": lambda s, c, p: CopyRegister(s.archive).add("keyring", "tape", 0, WHO),
    "copy_register.add_backup": lambda s, c, p: CopyRegister(s.archive).add_backup(COPY, WHO),
    "copy_register.report_gone": lambda s, c, p: CopyRegister(s.archive).report_gone("5f", "r", WHO),
    "holds.remove": lambda s, c, p: HoldAdmin(s.archive).remove("5f", WHO),
    "approvals.add": lambda s, c, p: ShredRequests(s.archive).add([], "r", WHO),
    "approvals.cancel": lambda s, c, p: ShredRequests(s.archive).cancel("5f", WHO),
    "watching.confirm": lambda s, c, p: watching.confirm(s.archive.keyring, s.archive.policy, "r", WHO),
    "shred.shred": lambda s, c, p: Shredding(s.archive).shred([], Authorization("r", (WHO.officer,))),
    "finish.finish": lambda s, c, p: finish(s.archive, WHO, destroy=True),
    "certificate.__init__": lambda s, c, p: Certifier(s.archive, WHO),
    "rekey_order.order": lambda s, c, p: order(s.archive, RekeySelection({}, 0, 0, 0), "r", WHO),
    "epochs.rotate": lambda s, c, p: rotate(c, _nothing, WHO),
    "epochs.destroy": lambda s, c, p: destroy(c, 1, WHO),
    "share_files.split_key": lambda s, c, p: split_key(c, 2, 3, p / "shares", WHO),
    "share_files.burn_shares": lambda s, c, p: burn_shares(c, "5f", [1], WHO, "r"),
    "share_recovery.drill": lambda s, c, p: drill(c, _no_shares(), WHO, _nothing),
    "share_recovery.recover": lambda s, c, p: recover(c, _no_shares(), p / "new.key", WHO, _nothing),
}
# Parts of a use case that ask later, or have been asked for; `approve` has a test of its own.
ASKED_BEFORE = {
    "epochs.__init__", "approvals.approve", "approvals.require_allowed", "importing.__init__",
}  # fmt: skip


def _no_shares() -> Recovered:
    return Recovered.__new__(Recovered)


@pytest.mark.parametrize("name", USE_CASES)
def test_a_use_case_asks_before_it_looks_or_changes_anything(
    base: Path, config: Config, deny: Callable[..., list[AccessRequest]], name: str
) -> None:
    with open_writer(config) as archive:
        offered, before = WriterServices.of(archive), seen(base)
        deny()
        with pytest.raises(AccessDeniedError, match=CAUSE):
            USE_CASES[name](offered, config, base)
        assert seen(base) == before


def test_an_approval_asks_too(base: Path, config: Config, deny: Callable[..., list[AccessRequest]]) -> None:
    with open_writer(config) as archive:
        study = next(Finder(archive).rows({LEVEL: ("STUDY",), STUDY: ()}, model="study", caller=WHO))[STUDY][0]
        assert isinstance(study, str)
        request = ShredRequests(archive).add(by_study(archive, study), "r", WHO)
        archive.reconcile()
        before, asked = seen(base), deny()
        with pytest.raises(AccessDeniedError, match=CAUSE):
            ShredRequests(archive).approve(request, Principal.person("Braun", "a"))
        assert seen(base) == before
    assert (asked[0].action, asked[0].resource) == (Action.APPROVE, Resource.erasure(("Meyer",)))


def test_whatever_takes_a_principal_is_among_them() -> None:
    found = set()
    for room in (services, retention, keyops, erasure, clock):
        for info in pkgutil.iter_modules(room.__path__):
            module = import_module(f"{room.__name__}.{info.name}")
            kinds = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
            for owner in (module, *(one for one in kinds if not getattr(one, "_is_protocol", False))):
                for name, one in vars(owner).items():
                    if not inspect.isfunction(one) or one.__module__ != module.__name__:
                        continue
                    takes = any(
                        "Principal" in str(each.annotation) for each in inspect.signature(one).parameters.values()
                    )
                    if takes and (name == "__init__" or not name.startswith("_")):
                        found.add(f"{info.name}.{name}")
    print(sorted(found))
    assert found - {"api.__init__"} <= USE_CASES.keys() | ASKED_BEFORE
