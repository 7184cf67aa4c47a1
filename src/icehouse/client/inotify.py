"""What happens in one folder, as Linux tells it by inotify.

Source: inotify(7), and linux/inotify.h for the numbers.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from icehouse.errors import Denied, NotFound, Unavailable

_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_UNMOUNT: Final = 0x2000
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLY_FOLDERS: Final = 0x1000000

_HEAD: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name with its padding
_READ_BYTES: Final = 256 * 1024


class Happened(Enum):
    """What happened to an entry of the folder."""

    APPEARED = auto()
    """It was made, or renamed into the folder."""
    DISAPPEARED = auto()
    """It was deleted."""
    OVERFLOWED = auto()
    """To more entries than the kernel remembers, and nobody knows to which; the name is empty."""


@dataclass(frozen=True, slots=True)
class FolderEvent:
    """Something that happened to the entry *name*."""

    happened: Happened
    name: str


class FolderWatch:
    """Tells what happens in a folder from the moment it is made. Owns a descriptor, which becomes readable then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise self._failed("the kernel gives no inotify, of which it has few for each user")
        mask = _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _ONLY_FOLDERS
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask) < 0:
            error = self._failed(f"{folder} cannot be watched")
            self.close()
            raise error

    @staticmethod
    def _failed(what: str) -> Exception:
        number = ctypes.get_errno()
        kinds = {2: NotFound, 20: NotFound, 13: Denied}
        return kinds.get(number, Unavailable)(f"{what}: {os.strerror(number)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)

    def fileno(self) -> int:
        """The descriptor that becomes readable when something happened."""
        return self._descriptor

    def read(self) -> list[FolderEvent]:
        """What happened since the last call, in order; waits for nothing.

        Raises:
            Unavailable: the folder is no more, so nothing will ever happen in it.
        """
        events: list[FolderEvent] = []
        while True:
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                return events
            for mask, name in _split(data):
                if mask & (_DELETE_SELF | _UNMOUNT | _IGNORED):
                    raise Unavailable(f"{self._folder} was deleted or unmounted while it was watched")
                events.append(FolderEvent(_meaning(mask), name))


def _split(data: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(data):
        _, mask, _, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length


def _meaning(mask: int) -> Happened:
    if mask & _OVERFLOW:
        return Happened.OVERFLOWED
    return Happened.DISAPPEARED if mask & _DELETE else Happened.APPEARED
