"""A receiving process can do what it must, and nothing else: tried in real processes, on a real archive."""

import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coffer.server.config.settings import Config, Keys
from coffer.server.confine import landlock, seccomp
from coffer.server.confine.needs import Needs, is_name, python_files
from coffer.server.engine.create import create_archive
from tests.conftest import ROOT, absent

NEEDED = {
    "connect to a destination",
    "read the log",
    "write a spool file",
    "remove a spool file",
    "follow the keyring's feed",
    "make a file as large as an object",
    "import",
    "find a host by its name",
    "start a thread",
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What became of every attempt, by whether the process was confined."""
    if landlock.version() < 6 or platform.machine() not in seccomp.MACHINES:
        absent("a kernel with Landlock 6")
    folder = tmp_path_factory.mktemp("confined")
    config = Config(archive=folder / "archive", keys=Keys(key_file=folder / "key"))
    create_archive(config)
    with socket.create_server(("127.0.0.1", 0)) as permitted, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(each.getsockname()[1]) for each in (permitted, other)]
        yield {mode: attempts(mode, config, ports) for mode in ("confined", "free")}


def attempts(mode: str, config: Config, ports: list[str]) -> dict[str, Any]:
    """Run the attempts in a process."""
    command = [sys.executable, "-m", "tests.server.confine.confined", mode]
    command += [str(config.archive), str(config.keys.key_file), *ports]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return {**json.loads(lines[0]), "escaped": lines[1:], "stderr": done.stderr}


def test_everything_is_confined(tried: dict[str, dict[str, Any]]) -> None:
    assert tried["confined"]["lacking"] == []


def test_what_leads_out_of_it_is_refused(tried: dict[str, dict[str, Any]]) -> None:
    worked = {name for name, failure in tried["confined"]["results"].items() if not failure}
    assert worked == NEEDED


def test_it_runs_no_program(tried: dict[str, dict[str, Any]]) -> None:
    assert tried["confined"]["escaped"] == []
    assert "PermissionError" in tried["confined"]["stderr"]


def test_the_same_attempts_work_without_confinement(tried: dict[str, dict[str, Any]]) -> None:
    refused = {name for name, failure in tried["free"]["results"].items() if failure}
    # Fast open and MPTCP may be switched off on this machine.
    assert refused <= {"speak another protocol", "connect to another port at once"}
    assert tried["free"]["escaped"] == ["escaped"]


def run(program: bytes, number: int, *arguments: int, arch: int = 0xC000003E) -> int:
    """What the filter returns for a call: a reader of classic BPF of this test's own (bpf(4), seccomp(2))."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


X86_64, AARCH64 = (seccomp.MACHINES[each].numbers for each in ("x86_64", "aarch64"))
HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}
ALLOW, REFUSE, END, UNKNOWN = 0x7FFF0000, 0x00050001, 0x80000000, 0x00050026
CLOEXEC = 0x80000
NOBODY = Needs(())
ADDRESS = Needs((), ports=frozenset({104}))
NAME = Needs((), ports=frozenset({104}), resolves=True)


@pytest.mark.parametrize(
    ("needs", "call", "expected"),
    [
        (NOBODY, (0,), ALLOW),  # read
        (NOBODY, (59,), REFUSE),  # execve
        (NOBODY, (62, 1, 9), REFUSE),  # kill
        (NOBODY, (425,), REFUSE),  # io_uring_setup
        (NOBODY, (0x40000000 | 59,), END),
        (NOBODY, (56, 0x3D0F00), ALLOW),  # clone, for a thread
        (NOBODY, (56, 17), REFUSE),  # clone, for a process
        (NOBODY, (435,), UNKNOWN),  # clone3
        (NOBODY, (234, 77, 77, 6), ALLOW),  # tgkill of itself
        (NOBODY, (234, 1, 1, 6), REFUSE),
        (NOBODY, (16, 0, 0x5413), ALLOW),  # the size of the terminal
        (NOBODY, (16, 0, 0x5412), REFUSE),
        (NOBODY, (16, 0, 0x541C), REFUSE),
        (NOBODY, (44, 3, 0, 0, 0x4000), ALLOW),  # sendto
        (NOBODY, (44, 3, 0, 0, 0x20000000), REFUSE),
        (NOBODY, (46, 3, 0, 0x20000000), REFUSE),
        (NOBODY, (307, 3, 0, 1, 0x20000000), REFUSE),
        (NOBODY, (53, 1, 1), ALLOW),  # socketpair
        (NOBODY, (41, 2, 1), REFUSE),  # socket
        (ADDRESS, (41, 2, 1 | CLOEXEC), ALLOW),
        (ADDRESS, (41, 10, 1, 6), ALLOW),
        (ADDRESS, (41, 2, 1, 262), REFUSE),
        (ADDRESS, (41, 2, 2), REFUSE),
        (ADDRESS, (41, 1, 1), REFUSE),
        (ADDRESS, (41, 16, 3), REFUSE),  # netlink
        (ADDRESS, (41, 17, 3), REFUSE),  # raw packets
        (ADDRESS, (41, 2, 3), REFUSE),
        (NAME, (41, 2, 2 | CLOEXEC), ALLOW),
        (NAME, (41, 10, 2, 17), ALLOW),
        (NAME, (41, 2, 2, 6), REFUSE),
        (NAME, (41, 1, 2), REFUSE),
    ],
)
def test_the_filter_decides_by_call_and_argument(needs: Needs, call: tuple[int, ...], expected: int) -> None:
    assert run(seccomp.program("x86_64", needs, 77), *call) == expected
    name = next((name for name, number in X86_64.items() if number == call[0]), None)
    if name in AARCH64:
        assert run(seccomp.program("aarch64", needs, 77), AARCH64[name], *call[1:], arch=0xC00000B7) == expected


def test_the_filter_ends_a_process_that_calls_as_another_machine() -> None:
    assert run(seccomp.program("x86_64", NAME, 77), 0, arch=0x40000003) == END
    assert run(seccomp.program("aarch64", NAME, 77), 0, arch=0x40000028) == END


def test_every_forbidden_call_is_refused_whatever_its_arguments() -> None:
    for machine, made in seccomp.MACHINES.items():
        program = seccomp.program(machine, NAME, 77)
        numbers = [made.numbers[name] for name in seccomp._FORBIDDEN if name in made.numbers]
        assert {run(program, number, 2, 1, arch=made.arch) for number in numbers} == {REFUSE}
        assert len(program) // 8 < 4096  # BPF_MAXINSNS


@pytest.mark.parametrize(("machine", "header"), HEADERS.items())
def test_every_number_is_the_kernel_s(machine: str, header: str) -> None:
    """A machine lacks a call only if the kernel has none there."""
    path = Path(header)
    if not path.exists():
        absent("the kernel's headers: apt install linux-libc-dev")
    defined = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", path.read_text())}
    numbers = seccomp.MACHINES[machine].numbers
    assert numbers == {name: defined[name] for name in {*X86_64, *seccomp._FORBIDDEN} if name in defined}


def test_an_archive_in_the_working_folder_is_not_among_what_python_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    readable = python_files()
    assert not any((tmp_path / "key").is_relative_to(folder) for folder in readable)
    assert any(Path(os.path.realpath(os.__file__)).is_relative_to(folder) for folder in readable)
    assert Path(os.path.realpath(ROOT / "server")) in readable


@pytest.mark.parametrize(("host", "name"), [("192.0.2.1", False), ("2001:db8::1", False), ("pacs.example", True)])
def test_only_names_are_resolved(host: str, name: bool) -> None:
    assert is_name(host) is name
