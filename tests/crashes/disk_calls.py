"""A process that is stopped before each of its calls of the kernel that changes files below a folder.

The process is forked, and watched by ptrace(2) with a filter by seccomp(2), so that all its threads are seen, and what
SQLite does too, while its other calls cost nothing. Only a process with a single thread can fork like this.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

_libc: Final = ctypes.CDLL(None, use_errno=True)

# Source: Linux, asm/unistd_64.h and asm-generic/unistd.h.
_NUMBERS: Final = {
    "x86_64": {
        "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "pwritev2": 328, "truncate": 76, "ftruncate": 77,
        "fallocate": 285, "fsync": 74, "fdatasync": 75, "open": 2, "openat": 257, "rename": 82, "renameat": 264,
        "renameat2": 316, "link": 86, "linkat": 265, "unlink": 87, "unlinkat": 263, "mkdir": 83, "mkdirat": 258,
        "rmdir": 84,
    },
    "aarch64": {
        "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "pwritev2": 287, "truncate": 45, "ftruncate": 46,
        "fallocate": 47, "fsync": 82, "fdatasync": 83, "openat": 56, "renameat": 38, "renameat2": 276, "linkat": 37,
        "unlinkat": 35, "mkdirat": 34,
    },
}  # fmt: skip
_CALLS: Final = {number: name for name, number in _NUMBERS.get(platform.machine(), {}).items()}
_BY_DESCRIPTOR: Final = {
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
}
_WRITES: Final = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate"}
_SYNCS: Final = {"fsync", "fdatasync"}
_OF_TWO: Final = {"rename", "renameat", "renameat2", "link", "linkat"}

# Source: Linux, linux/ptrace.h, linux/seccomp.h, linux/filter.h and linux/prctl.h.
_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_OPTIONS: Final = 0x100000 | 0x80 | 0x8 | 0x4 | 0x2 | 0x1  # kill with us; seccomp, clone, vfork, fork, marked calls
_SECCOMP_STOP: Final = 7
_CALL_STOP: Final = signal.SIGTRAP | 0x80
_ALL_THREADS: Final = 0x40000000
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD_NUMBER, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000

_NAMES_BY_CHANCE: Final = re.compile(r"[0-9a-f]{32,}|[0-9]{9,}")


@dataclass(frozen=True, slots=True)
class DiskCall:
    """A call that is about to change the disk."""

    name: str
    path: Path
    target: Path | None = None
    """Of a rename or a link."""

    @property
    def is_write(self) -> bool:
        return self.name in _WRITES

    @property
    def is_sync(self) -> bool:
        return self.name in _SYNCS

    def describe(self, folder: Path) -> str:
        """The same in words, without what chance or the clock named."""
        places = [str(place.relative_to(folder)) for place in (self.path, self.target) if place is not None]
        return f"{self.name} {_NAMES_BY_CHANCE.sub('…', ' to '.join(places))}"


class Watcher:
    """Told of each call, by the process that watches."""

    def before(self, call: DiskCall) -> bool:
        """A call is about to happen. False: the process dies instead."""
        del call
        return True

    def after(self, call: DiskCall) -> None:
        """It succeeded."""


def is_possible() -> bool:
    """Whether processes can be watched here: on Linux, unless a container forbids it."""
    return bool(_CALLS) and _run_nothing() == 0


def _run_nothing() -> int:
    try:
        return run_watched(lambda: None, Path("/nowhere"), Watcher())
    except OSError:
        return -1


def run_watched(work: Callable[[], None], folder: Path, watcher: Watcher) -> int:
    """Run *work* in a forked process; give its exit code, or the negative number of the signal that ended it."""
    main = os.fork()
    if main == 0:
        _work_and_exit(work)
    os.waitpid(main, 0)
    _ptrace(_SETOPTIONS, main, 0, _OPTIONS)
    _ptrace(_CONT, main, 0, 0)
    under_way: dict[int, DiskCall] = {}
    while True:
        pid, status = os.waitpid(-1, _ALL_THREADS)
        if not os.WIFSTOPPED(status):
            if pid == main:
                return os.waitstatus_to_exitcode(status)
            continue
        number, event = os.WSTOPSIG(status), status >> 16
        how, passed_on = _CONT, 0
        if event == _SECCOMP_STOP:
            call = _find_call(pid, folder)
            if call is not None:
                if not watcher.before(call):
                    os.kill(main, signal.SIGKILL)
                    continue
                under_way[pid] = call
                how = _SYSCALL
        elif number == _CALL_STOP:
            call = under_way.pop(pid)
            if _has_succeeded(pid):
                watcher.after(call)
        elif not event and number != signal.SIGSTOP:  # A new thread begins by such a stop.
            passed_on = number
        _ptrace(how, pid, 0, passed_on)


def _work_and_exit(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        instructions = [(_LOAD_NUMBER, 0, 0, 0)]
        count = len(_CALLS)
        instructions += [(_JUMP_EQUAL, count - index, 0, number) for index, number in enumerate(_CALLS)]
        instructions += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _TRACE)]
        code_bytes = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
        buffer = ctypes.create_string_buffer(code_bytes)
        program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(buffer)))
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _check(_libc.prctl(_SET_SECCOMP, _FILTER, ctypes.c_void_p(ctypes.addressof(program)), 0, 0))
        work()
        code = 0
    finally:
        os._exit(code)


def _ptrace(request: int, pid: int, address: int, data: int) -> int:
    result = _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), ctypes.c_void_p(address), ctypes.c_void_p(data))
    if result < 0 and ctypes.get_errno() == errno.ESRCH:
        return result  # It was killed meanwhile, which the next wait tells.
    return _check(result)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _call_info(pid: int) -> bytes:
    buffer = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, pid, len(buffer), ctypes.addressof(buffer))
    return buffer.raw


def _has_succeeded(pid: int) -> bool:
    return struct.unpack_from("=q", _call_info(pid), 24)[0] >= 0


def _find_call(pid: int, folder: Path) -> DiskCall | None:
    """The call that a thread is about to make, if it changes something below *folder*."""
    number, *arguments = struct.unpack_from("=7Q", _call_info(pid), 24)
    name = _CALLS.get(number)
    if name is None:
        return None  # It was killed meanwhile.
    try:
        if name in _BY_DESCRIPTOR:
            paths = [_path_of(pid, arguments[0])]
        elif name.endswith(("at", "at2")):
            paths = [_path_below(pid, arguments[0], arguments[1])]
            if name in _OF_TWO:
                paths.append(_path_below(pid, arguments[2], arguments[3]))
        else:
            paths = [_path_below(pid, None, address) for address in arguments[: 1 + (name in _OF_TWO)]]
    except OSError:
        return None
    if not any(path.is_relative_to(folder) for path in paths) or paths[0].name.endswith(" (deleted)"):
        return None
    if name.startswith("open"):
        flags = arguments[1 + (name == "openat")]
        changes = flags & os.O_TRUNC if paths[0].exists() else flags & os.O_CREAT
        return DiskCall("create", paths[0]) if changes else None
    return DiskCall(name, *paths)


def _path_of(pid: int, descriptor: int) -> Path:
    return Path(f"/proc/{pid}/fd/{descriptor & 0xFFFFFFFF}").readlink()


def _path_below(pid: int, descriptor: int | None, address: int) -> Path:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123  unbuffered, and no file of a folder
        memory.seek(address)
        text = memory.read(4096).partition(b"\0")[0]
    if text.startswith(b"/"):
        return Path(os.fsdecode(text))
    at_working_folder = descriptor is None or descriptor & 0xFFFFFFFF == 0xFFFFFF9C
    above = Path(f"/proc/{pid}/cwd").readlink() if at_working_folder else _path_of(pid, descriptor or 0)
    return above / os.fsdecode(text)
