"""The walk over a file system that feeds the NAR writer: one NAR as a stream of pieces, in bounded memory.

Many small files are the usual case, so such a file costs one open, one read, one close and one join, and entries are
gathered into pieces of about a block. A large file is read block by block into one buffer that is used again.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from icehouse.errors import Conflict, Denied, IcehouseError, InvalidFormat, NotFound, Unavailable
from icehouse.nix.nar_framing import MAX_DEPTH
from icehouse.nix.nar_write import (
    DIRECTORY_ENTRY_TAIL,
    DIRECTORY_HEAD,
    DIRECTORY_TAIL,
    NAR_MAGIC,
    directory_entry_head,
    regular_entry,
    regular_head,
    regular_tail,
    symlink,
)

BLOCK_BYTES: Final = 1024 * 1024
_SMALL_FILE_BYTES: Final = 128 * 1024
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS: Final = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


def walk_nar(root: Path) -> Iterator[bytearray | memoryview]:
    """The NAR of the file, symlink or folder *root*, in pieces of about `BLOCK_BYTES`.

    A piece is valid until the next one is asked for.

    Raises:
        NotFound: *root*, or what was in it a moment ago, is not there.
        Denied: a file or a folder may not be read.
        Conflict: a file changed its size while it was read.
        InvalidFormat: a special file, or a tree that is deeper than Nix reads.
        Unavailable: the file system failed.
    """
    return _Walk().pieces(os.fsencode(root))


class _Walk:
    """One walk: the piece that is being gathered, and the buffer for large files."""

    def __init__(self) -> None:
        self._gathered = bytearray(NAR_MAGIC)
        self._buffer: memoryview | None = None

    def pieces(self, root: bytes) -> Iterator[bytearray | memoryview]:
        try:
            info = os.lstat(root)
        except OSError as exc:
            raise _as_ours(exc, root) from exc
        yield from self._node(root, info, depth=1)
        yield self._gathered

    def _node(self, path: bytes, info: os.stat_result, *, depth: int) -> Iterator[bytearray | memoryview]:
        if stat.S_ISDIR(info.st_mode):
            yield from self._directory(path, depth=depth)
        elif stat.S_ISREG(info.st_mode):
            yield from self._large_file(path, info)
        elif stat.S_ISLNK(info.st_mode):
            self._gathered += symlink(_read_link(path))
        else:
            kind = _KINDS.get(stat.S_IFMT(info.st_mode), "of an unknown kind")
            raise InvalidFormat(f"{_printable(path)} is {kind}; a NAR holds files, folders and symlinks only")

    def _directory(self, path: bytes, *, depth: int) -> Iterator[bytearray | memoryview]:
        if depth >= MAX_DEPTH:
            raise InvalidFormat(f"{_printable(path)} lies {MAX_DEPTH} folders deep, which Nix does not read")
        self._gathered += DIRECTORY_HEAD
        for entry, info in _list_directory(path):
            if stat.S_ISREG(info.st_mode) and info.st_size <= _SMALL_FILE_BYTES:
                executable = bool(info.st_mode & stat.S_IXUSR)
                self._gathered += regular_entry(entry.name, _read_small(entry.path, info.st_size), executable)
            else:
                self._gathered += directory_entry_head(entry.name)
                yield from self._node(entry.path, info, depth=depth + 1)
                self._gathered += DIRECTORY_ENTRY_TAIL
            if len(self._gathered) >= BLOCK_BYTES:
                yield self._take_gathered()
        self._gathered += DIRECTORY_TAIL

    def _large_file(self, path: bytes, info: os.stat_result) -> Iterator[bytearray | memoryview]:
        size = info.st_size
        self._gathered += regular_head(size, bool(info.st_mode & stat.S_IXUSR))
        yield self._take_gathered()
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BLOCK_BYTES))
        try:
            descriptor = os.open(path, _OPEN_FLAGS)
            try:
                total = 0
                while count := os.readv(descriptor, [self._buffer]):
                    total += count
                    if total > size:
                        break
                    yield self._buffer[:count]
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise _as_ours(exc, path) from exc
        if total != size:
            raise _changed(path, size, total)
        self._gathered += regular_tail(size)

    def _take_gathered(self) -> bytearray:
        gathered, self._gathered = self._gathered, bytearray()
        return gathered


def _list_directory(path: bytes) -> list[tuple[os.DirEntry[bytes], os.stat_result]]:
    """The entries of a folder in bytewise order of their names, each with what `lstat` says of it."""
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=_name_of)
        return [(entry, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError as exc:
        raise _as_ours(exc, path) from exc


def _name_of(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name


def _read_small(path: bytes, size: int) -> bytes:
    """A small file, whole. One byte more is asked for, so that a file that grew shows."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            data = os.read(descriptor, size + 1)
            while 0 < len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise _as_ours(exc, path) from exc
    if len(data) != size:
        raise _changed(path, size, len(data))
    return data


def _read_link(path: bytes) -> bytes:
    try:
        return os.readlink(path)  # noqa: PTH115  a path of bytes, since names need not be text
    except OSError as exc:
        raise _as_ours(exc, path) from exc


def _changed(path: bytes, expected: int, found: int) -> Conflict:
    more = "at least " if found > expected else ""
    return Conflict(
        f"{_printable(path)} changed while it was read: {expected} bytes were expected, {more}{found} were there; "
        "nothing may write into a store path"
    )


def _as_ours(exc: OSError, path: bytes) -> IcehouseError:
    text = f"{_printable(path)}: {exc.strerror}"
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            return NotFound(f"{text}; it was expected to be there")
        case errno.EACCES | errno.EPERM:
            return Denied(f"{text}; it must be readable to be pushed")
        case _:
            return Unavailable(text)


def _printable(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
