"""The filter of system calls of a confined process, as a program for the kernel (seccomp(2)).

Rule: pure. It lists what is forbidden and not what is allowed: Python, the C library and the codecs use calls that
change with their versions, and a forgotten one would fail a store on one customer's machine; what is forbidden is what
leads out of the process or deep into the kernel. What is forbidden fails with EPERM, and ends nothing.
"""

import errno
import struct
from typing import Final

from coffer.server.confine.needs import Needs

__all__ = ["MACHINE", "program"]

MACHINE: Final = "x86_64"
_ARCH_X86_64: Final = 0xC000003E  # linux/audit.h
_NO_CALL: Final = 0xFFFFFFFF  # what a tracer puts in the place of a call that it lets fail; the kernel does nothing
_X32: Final = 0x40000000  # a second set of numbers for the same calls

# arch/x86/entry/syscalls/syscall_64.tbl
_FORBIDDEN: Final = {
    # other programs and processes
    "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "ptrace": 101, "process_vm_readv": 310,
    "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312, "pidfd_open": 434, "pidfd_getfd": 438,
    "pidfd_send_signal": 424, "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    # connections from outside: they come as descriptors
    "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
    # parts of the kernel where most faults were found, and a way round this filter
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "add_key": 248, "request_key": 249, "keyctl": 250, "personality": 135,
    # what root may do, where the server runs as root
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "mknod": 133, "mknodat": 259, "init_module": 175,
    "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167,
    "swapoff": 168, "acct": 163, "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227,
    "clock_adjtime": 305, "adjtimex": 159, "iopl": 172, "ioperm": 173, "quotactl": 179, "quotactl_fd": 443,
    "syslog": 103, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setresuid": 117, "setresgid": 119,
    "setgroups": 116, "capset": 126,
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET, _SENDTO, _SENDMSG, _SENDMMSG, _TGKILL, _IOCTL = 56, 435, 41, 44, 46, 307, 234, 16

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


def program(needs: Needs, pid: int) -> bytes:
    """The filter for a process with this id. Calls of another machine's set of numbers end the process."""
    code: Code = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, _ARCH_X86_64), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER_AT), (_EQUAL, 0, 1, _NO_CALL), (_RETURN, 0, 0, _ALLOW)]
    code += [(_ANY, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in sorted(_FORBIDDEN.values()):
        code += [(_EQUAL, 0, 1, number), _fail(errno.EPERM)]
    # Its arguments are in memory, which a filter cannot read; the C library then uses clone.
    code += [(_EQUAL, 0, 1, _CLONE3), _fail(errno.ENOSYS)]
    code += _only(_CLONE, [*_argument(0), (_ANY, 1, 0, _CLONE_THREAD), _fail(errno.EPERM)])
    code += _only(_TGKILL, [*_argument(0), (_EQUAL, 1, 0, pid), _fail(errno.EPERM)])
    for number, flags in ((_SENDTO, 3), (_SENDMSG, 2), (_SENDMMSG, 3)):
        code += _only(number, [*_argument(flags), (_ANY, 0, 1, _MSG_FASTOPEN), _fail(errno.EPERM)])
    for order in (_TIOCSTI, _TIOCLINUX):
        code += _only(_IOCTL, [*_argument(1), (_EQUAL, 0, 1, order), _fail(errno.EPERM)])
    code += _only(_SOCKET, _sockets(needs))
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
