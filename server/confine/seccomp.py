"""The filter of system calls of a confined process, as a program for the kernel (seccomp(2)).

Rule: pure. It lists what is forbidden and not what is allowed: Python, the C library and the codecs use calls that
change with their versions, and a forgotten one would fail a store on one customer's machine; what is forbidden is what
leads out of the process or deep into the kernel. What is forbidden fails with EPERM, and ends nothing.
"""

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from coffer.server.confine.needs import Needs

__all__ = ["MACHINES", "program"]

_NO_CALL: Final = 0xFFFFFFFF  # what a tracer puts in the place of a call that it lets fail; the kernel does nothing

_FORBIDDEN: Final = (
    # other programs and processes
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise",
    "kcmp", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kill", "tkill", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    # connections from outside: they come as descriptors
    "bind", "listen", "accept", "accept4",
    # parts of the kernel where most faults were found, and a way round this filter
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key",
    "request_key", "keyctl", "personality",
    # what root may do, where the server runs as root
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
    "acct", "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl",
    "ioperm", "quotactl", "quotactl_fd", "syslog", "setuid", "setgid", "setreuid", "setregid", "setresuid",
    "setresgid", "setgroups", "capset",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Machine:
    """How a machine's calls are numbered: its name for seccomp (linux/audit.h), and the numbers. It has no calls beside
    those; `other_bit` marks a second set of numbers for the same."""

    arch: int
    numbers: Mapping[str, int]
    other_bit: int = 0


_X86_64: Final = _Machine(
    0xC000003E,
    {  # arch/x86/entry/syscalls/syscall_64.tbl
        "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312, "pidfd_open": 434, "pidfd_getfd": 438,
        "pidfd_send_signal": 424, "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
        "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "add_key": 248,
        "request_key": 249, "keyctl": 250, "personality": 135, "unshare": 272, "setns": 308, "mount": 165,
        "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430,
        "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "open_by_handle_at": 304,
        "name_to_handle_at": 303, "mknod": 133, "mknodat": 259, "init_module": 175, "finit_module": 313,
        "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167,
        "swapoff": 168, "acct": 163, "sethostname": 170, "setdomainname": 171, "settimeofday": 164,
        "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "iopl": 172, "ioperm": 173, "quotactl": 179,
        "quotactl_fd": 443, "syslog": 103, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114,
        "setresuid": 117, "setresgid": 119, "setgroups": 116, "capset": 126, "clone": 56, "clone3": 435,
        "socket": 41, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "tgkill": 234, "ioctl": 16,
    },
    0x40000000,  # x32
)  # fmt: skip
_AARCH64: Final = _Machine(
    0xC00000B7,
    {  # include/uapi/asm-generic/unistd.h
        "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
        "process_madvise": 440, "kcmp": 272, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
        "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "bind": 200, "listen": 201,
        "accept": 202, "accept4": 242, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "add_key": 217, "request_key": 218, "keyctl": 219,
        "personality": 92, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "open_by_handle_at": 265, "name_to_handle_at": 264, "mknodat": 33, "init_module": 105,
        "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294, "reboot": 142,
        "swapon": 224, "swapoff": 225, "acct": 89, "sethostname": 161, "setdomainname": 162, "settimeofday": 170,
        "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "quotactl": 60, "quotactl_fd": 443,
        "syslog": 116, "setuid": 146, "setgid": 144, "setreuid": 145, "setregid": 143, "setresuid": 147,
        "setresgid": 149, "setgroups": 159, "capset": 91, "clone": 220, "clone3": 435, "socket": 198, "sendto": 206,
        "sendmsg": 211, "sendmmsg": 269, "tgkill": 131, "ioctl": 29,
    },
)  # fmt: skip
MACHINES: Final = MappingProxyType({"x86_64": _X86_64, "aarch64": _AARCH64})  # by the name that uname(2) gives

_CLONE_THREAD: Final = 0x10000  # linux/sched.h
_MSG_FASTOPEN: Final = 0x20000000  # connects without connect(2), which is what Landlock looks at
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into the terminal from which the server was started
_INET, _INET6, _STREAM, _DGRAM, _TYPE_MASK, _TCP, _UDP = 2, 10, 1, 2, 0xF, 6, 17

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _ANY, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000
_KILL: Final = 0x80000000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

Code = list[tuple[int, int, int, int]]


def program(machine: str, needs: Needs, pid: int) -> bytes:
    """The filter for a process with this id on one of `MACHINES`. Calls of another machine's set of numbers end the
    process."""
    made = MACHINES[machine]
    numbers = made.numbers
    code: Code = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, made.arch), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER_AT), (_EQUAL, 0, 1, _NO_CALL), (_RETURN, 0, 0, _ALLOW)]
    if made.other_bit:
        code += [(_ANY, 0, 1, made.other_bit), (_RETURN, 0, 0, _KILL)]
    for number in sorted(numbers[name] for name in _FORBIDDEN if name in numbers):
        code += [(_EQUAL, 0, 1, number), _fail(errno.EPERM)]
    # Its arguments are in memory, which a filter cannot read; the C library then uses clone.
    code += [(_EQUAL, 0, 1, numbers["clone3"]), _fail(errno.ENOSYS)]
    code += _only(numbers["clone"], [*_argument(0), (_ANY, 1, 0, _CLONE_THREAD), _fail(errno.EPERM)])
    code += _only(numbers["tgkill"], [*_argument(0), (_EQUAL, 1, 0, pid), _fail(errno.EPERM)])
    for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        code += _only(numbers[name], [*_argument(flags), (_ANY, 0, 1, _MSG_FASTOPEN), _fail(errno.EPERM)])
    for order in (_TIOCSTI, _TIOCLINUX):
        code += _only(numbers["ioctl"], [*_argument(1), (_EQUAL, 0, 1, order), _fail(errno.EPERM)])
    code += _only(numbers["socket"], _sockets(needs))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _sockets(needs: Needs) -> Code:
    """Allow TCP, and UDP for names, over IP; nothing for a process that connects to nobody."""
    kinds = [(_STREAM, _TCP)] if needs.ports else []
    kinds += [(_DGRAM, _UDP)] if needs.ports and needs.resolves else []
    code: Code = []
    for family in (_INET, _INET6):
        for kind, protocol in kinds:
            one: Code = [*_argument(0), (_EQUAL, 0, 7, family)]
            one += [*_argument(1), (_AND, 0, 0, _TYPE_MASK), (_EQUAL, 0, 4, kind)]
            # A protocol beside TCP (MPTCP, SCTP) is no business of Landlock's rules for ports.
            code += [*one, *_argument(2), (_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, protocol), (_RETURN, 0, 0, _ALLOW)]
    return [*code, _fail(errno.EPERM)]


def _only(number: int, code: Code) -> Code:
    """The code for one call; the number is loaded again for what follows."""
    return [(_EQUAL, 0, len(code), number), *code, (_LOAD, 0, 0, _NUMBER_AT)]


def _argument(index: int) -> Code:
    """Load the lower half of an argument: each that is looked at is an int, or flags below 2^32."""
    return [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)]


def _fail(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _FAIL | number)
