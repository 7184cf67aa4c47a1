"""Blobs as files below a folder, named by their keys.

A blob is written to ``unfinished/<random name>``, synced, and renamed to its key; then the folder is synced. So a key
has all its bytes or none, whenever the process or the machine dies, and what a dead writer left can be listed and
deleted.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from icehouse.errors import Conflict, Corrupt, IcehouseError, InvalidFormat, NotFound, OverQuota, Unavailable
from icehouse.storage.blobs import BlobInfo, BlobKey, FilePart
from icehouse.storage.keys import UNFINISHED, check_key, check_new_key, is_segment, is_unfinished_key
from icehouse.storage.page_cache import is_cached

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FILE_SYSTEMS_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class LocalBlobStore:
    """A `BlobStore` over *folder*, which is made if absent. Several processes may use one folder at once.

    Files directly in *folder*, and anything whose name cannot stand in a key, are not touched. Everything below it must
    be one file system. At most *max_open_files* files are kept open for reading.
    """

    def __init__(self, folder: Path, *, max_open_files: int = 256) -> None:
        self._root: Final = folder.absolute()
        self._open_files: Final = _OpenFiles(str(self._root), max_open_files)
        # Two commits of one key take turns: else one could report success, and the other, whose sync of the folder
        # failed, remove the file. Keys share the locks by their hash.
        self._key_locks: Final = tuple(threading.Lock() for _ in range(64))
        # Folders whose own names are known to be on the disk. As many as there are domains times 256.
        self._synced_folders: Final[set[Path]] = set()
        try:
            _make_folder_and_above(self._root)
            self._make_folder(self._root / UNFINISHED)
        except OSError as exc:
            raise _translated(exc, f"folder for blobs {self._root}") from exc

    def create(self) -> LocalBlobWriter:
        """See `BlobStore.create`."""
        return LocalBlobWriter(self, self._root / UNFINISHED / secrets.token_hex(16))

    def put(self, key: BlobKey, data: bytes) -> None:
        """See `BlobStore.put`."""
        check_new_key(key)
        writer = self.create()
        try:
            writer.write(data)
            writer.commit(key)
        finally:
            writer.abort()

    def size(self, key: BlobKey) -> int:
        """See `BlobStore.size`."""
        return self.describe(key).size_bytes

    def describe(self, key: BlobKey) -> BlobInfo:
        """See `BlobStore.describe`."""
        check_key(key)
        try:
            status = (self._root / key).stat()
        except OSError as exc:
            raise _read_error(exc, key) from exc
        if is_unfinished_key(key) or not stat.S_ISREG(status.st_mode):
            raise _not_found(key)
        return BlobInfo(key, status.st_size, status.st_mtime)

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        """See `BlobStore.read_into`."""
        if offset < 0:
            raise InvalidFormat(f"blob {key}: offset {offset} is negative")
        rest = buffer.cast("B")
        end = offset + rest.nbytes
        try:
            file = self._open_files.get(key)
            while rest.nbytes > 0:
                done = os.preadv(file.descriptor, (rest,), end - rest.nbytes)
                if done == 0:
                    raise Corrupt(f"blob {key}: {end - rest.nbytes} bytes long or less, expected at least {end}")
                rest = rest[done:]
        except OSError as exc:
            raise _read_error(exc, key) from exc

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        """See `BlobStore.read_warm`.

        False too for a file that is not open yet, since to open one may wait for the disk, and for whatever fails:
        `read_into` opens the file, or finds the right error.
        """
        file = self._open_files.find(key)
        # To the kernel, offset -1 of such a read is the file's position.
        if file is None or file.warm_flags is None or offset < 0:
            return False
        try:
            return os.preadv(file.descriptor, (buffer,), offset, file.warm_flags) == buffer.nbytes
        except OSError:
            return False

    def find_warm(self, key: BlobKey, offset: int, size: int) -> FilePart | None:
        """See `BlobStore.find_warm`.

        `None` too for a file that is not open yet, as `read_warm`, and on kernels that do not tell what is in memory.
        """
        file = self._open_files.find(key, min_bytes=offset + size)
        if file is None or offset < 0 or not is_cached(file.descriptor, offset, size):
            return None
        return FilePart(file.descriptor, offset, size, file)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """See `BlobStore.list`. Holds one folder open for each level of the key that it is at."""
        try:
            yield from _walk(str(self._root), "", prefix)
        except OSError as exc:
            raise _translated(exc, f"list of the blobs in {self._root}") from exc

    def delete(self, key: BlobKey) -> None:
        """See `BlobStore.delete`."""
        check_key(key)
        path = self._root / key
        try:
            with self._key_lock(key):
                # What is absent, or a folder, is no blob. The sync is due all the same: the file may be gone because of
                # an earlier call that failed between the two.
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    path.unlink()
                self._open_files.forget(key)
                with suppress(FileNotFoundError, NotADirectoryError):
                    _sync_folder(path.parent)
        except OSError as exc:
            raise _translated(exc, f"blob {key}: deleting") from exc

    def delete_unchanged(self, info: BlobInfo) -> bool:
        """See `BlobStore.delete_unchanged`.

        The file is moved aside before it is looked at, since another process may replace it at any moment.
        """
        check_key(info.key)
        path = self._root / info.key
        aside = self._root / UNFINISHED / secrets.token_hex(16)
        try:
            with self._key_lock(info.key), suppress(FileNotFoundError, NotADirectoryError):
                if not _is_same(path, info):
                    return False
                aside.parent.mkdir(FOLDER_MODE, exist_ok=True)
                path.rename(aside)
                if not _is_same(aside, info):
                    with suppress(FileExistsError):
                        path.hardlink_to(aside)
                    aside.unlink()
                    return False
                aside.unlink()
                self._open_files.forget(info.key)
                _sync_folder(path.parent)
        except OSError as exc:
            raise _translated(exc, f"blob {info.key}: deleting") from exc
        return True

    def publish(self, path: Path, key: BlobKey) -> None:
        """Give the synced file *path* its *key*, durably, for its writer. A blob that is there is replaced.

        After an error the key is absent if it was before.

        Raises:
            Conflict: *key* is a folder, or a part of it is a blob.
            OSError: the file system refused.
        """
        target = self._root / key
        with self._key_lock(key):
            inode = path.stat().st_ino
            was_there = os.path.lexists(target)
            self._rename(path, target, key)
            # A file kept open has the bytes that were replaced, and those may be damaged.
            self._open_files.forget(key)
            try:
                _sync_folder(target.parent)
            except OSError:
                with suppress(OSError):
                    # Unless another process has put its file there meanwhile, and may have succeeded.
                    if not was_there and target.lstat().st_ino == inode:
                        target.unlink()
                raise

    def _rename(self, path: Path, target: Path, key: BlobKey) -> None:
        tries_left = 3
        while True:
            tries_left -= 1
            try:
                self._make_folder(target.parent)
                path.rename(target)
            except IsADirectoryError:
                raise Conflict(f"blob {key}: a folder has that name") from None
            except NotADirectoryError:
                raise Conflict(f"blob {key}: a part of the key is the key of another blob") from None
            except FileNotFoundError:
                # A folder that was synced once has been removed from outside; or the file is gone, then it fails again.
                self._synced_folders.clear()
                if not tries_left:
                    raise
            else:
                return

    def _make_folder(self, folder: Path) -> None:
        """Make *folder* and those between it and the root, and sync each of their names."""
        if folder == self._root or folder in self._synced_folders:
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(FOLDER_MODE)
        # Also where it exists: whoever made it may not have synced it yet.
        _sync_folder(folder.parent)
        self._synced_folders.add(folder)

    def _key_lock(self, key: BlobKey) -> threading.Lock:
        return self._key_locks[hash(key) % len(self._key_locks)]


class LocalBlobWriter:
    """A `BlobWriter` of `LocalBlobStore.create`. One that is dropped without `commit` or `abort` leaves its file."""

    def __init__(self, store: LocalBlobStore, path: Path) -> None:
        self._store: Final = store
        self._path: Final = path
        self._size = 0
        try:
            self._file: _File | None = _File(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE))
        except OSError as exc:
            raise _translated(exc, f"new blob in {path}") from exc

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `BlobWriter.write`."""
        file = self._open_file()
        rest = memoryview(data).cast("B")
        try:
            while rest.nbytes > 0:
                done = os.write(file.descriptor, rest)
                self._size += done
                rest = rest[done:]
        except OSError as exc:
            self.abort()
            raise _translated(exc, f"new blob of {self._size} bytes so far") from exc

    def read_back(self, offset: int, size: int) -> bytes:
        """See `BlobWriter.read_back`."""
        file = self._open_file()
        if min(offset, size) < 0 or offset + size > self._size:
            raise Corrupt(f"{self._path}: {self._size} bytes were written, expected {size} at offset {offset}")
        found = bytearray(size)
        rest = memoryview(found)
        try:
            while rest.nbytes > 0:
                done = os.preadv(file.descriptor, (rest,), offset + size - rest.nbytes)
                if done == 0:
                    raise Corrupt(f"{self._path}: shorter than the {self._size} bytes that were written")
                rest = rest[done:]
        except OSError as exc:
            raise _translated(exc, str(self._path)) from exc
        return bytes(found)

    def commit(self, key: BlobKey) -> None:
        """See `BlobWriter.commit`."""
        file = self._open_file()
        check_new_key(key)
        try:
            # Its size comes with the data; only times, which nobody relies on after a power cut, do not.
            os.fdatasync(file.descriptor)
            self._store.publish(self._path, key)
        except OSError as exc:
            raise _translated(exc, f"blob {key}: storing {self._size} bytes") from exc
        finally:
            self.abort()

    def abort(self) -> None:
        """See `BlobWriter.abort`."""
        if self._file is not None:
            self._file = None
            with suppress(OSError):  # Gone already, or it stays and is listed as unfinished.
                self._path.unlink()

    def _open_file(self) -> _File:
        if self._file is None:
            raise Conflict(f"{self._path}: committed, aborted or failed before; expected an open writer")
        return self._file


class _File:
    """An open file, closed when the last reference goes.

    So a thread that reads from it keeps it open, whatever others do: a number that is in use is never closed, and never
    given to another file, without a lock or a count around each read.
    """

    __slots__ = ("descriptor", "warm_flags", "was_used")

    def __init__(self, descriptor: int) -> None:
        self.descriptor: Final = descriptor
        self.warm_flags: int | None = None
        """Flags of a `preadv` that does not wait; None if it always may."""
        self.was_used = False

    def __del__(self) -> None:
        with suppress(OSError):  # Nobody is left to tell. What matters was synced before.
            os.close(self.descriptor)


class _OpenFiles:
    """The files last read, kept open. All threads may use it; `find` takes no lock, since the event loop calls it.

    Room is made by going round, from the file opened longest ago: one used since the last round is spared, the first
    other one goes. That is nearly the one used longest ago, and costs a use no more than a mark.
    """

    def __init__(self, root: str, max_count: int) -> None:
        self._root: Final = root
        self._max_count: Final = max_count
        self._files: Final[dict[str, _File]] = {}
        self._lock: Final = threading.Lock()
        self._forgotten = 0

    def find(self, key: str, *, min_bytes: int = 0) -> _File | None:
        """The file of *key* if it is open, has that many bytes, and still has its name.

        Another process may have deleted or replaced it.
        """
        file = self._files.get(key)
        if file is None:
            return None
        status = os.fstat(file.descriptor)
        if not status.st_nlink or status.st_size < min_bytes:
            return None
        file.was_used = True
        return file

    def get(self, key: BlobKey) -> _File:
        """The open file of *key*.

        Raises:
            NotFound: there is no such blob.
            OSError: it cannot be opened.
        """
        file = self.find(key)
        if file is not None:
            return file
        check_key(key)
        forgotten_before = self._forgotten
        with self._lock:
            nameless = self._files.pop(key, None)
        del nameless  # Closed here, outside of the lock.
        file = self._open(key)
        with self._lock:
            # If a blob was deleted meanwhile it may be this one: then the file serves this call and is not kept.
            evicted: list[_File] = []
            if self._forgotten == forgotten_before:
                evicted = self._evict()
                self._files[key] = file
        evicted.clear()  # Closed here, outside of the lock.
        return file

    def forget(self, key: BlobKey) -> None:
        """Keep *key* open no longer, nor what another thread is just opening. Called once the name is gone."""
        with self._lock:
            self._forgotten += 1
            file = self._files.pop(key, None)
        del file  # As above.

    def _open(self, key: BlobKey) -> _File:
        if is_unfinished_key(key):
            raise _not_found(key)
        file = _File(os.open(f"{self._root}/{key}", os.O_RDONLY))
        status = os.fstat(file.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_found(key)
        file.warm_flags = _find_warm_flags(file.descriptor, status.st_dev)
        return file

    def _evict(self) -> list[_File]:
        """Make room for one more."""
        evicted: list[_File] = []
        while self._files and len(self._files) >= self._max_count:
            key = next(iter(self._files))
            file = self._files.pop(key)
            if file.was_used:
                file.was_used = False
                self._files[key] = file
            else:
                evicted.append(file)
        return evicted


def _find_warm_flags(descriptor: int, device: int) -> int | None:
    """Flags for reads that do not wait, found by trying once for each opened file.

    Kernels refuse RWF_NOWAIT on file systems that cannot promise it. On those in memory a plain read never waits for a
    disk either; on the others, such as overlay, no read can be called warm.
    """
    try:
        os.preadv(descriptor, (bytearray(1),), 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return os.RWF_NOWAIT
    except OSError:
        return 0 if _is_in_memory(device) else None
    return os.RWF_NOWAIT


def _is_in_memory(device: int) -> bool:
    """Whether *device* is mounted as one of the file systems without a disk, by proc_pid_mountinfo(5)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    for mount in mounts:
        fields = mount.decode(errors="replace").split(" ")
        if fields[2] == number:
            # Fields of a number that varies end in a dash; the file system's type follows.
            return fields[fields.index("-", 6) + 1] in _FILE_SYSTEMS_IN_MEMORY
    return False


def _walk(root: str, above: str, prefix: str) -> Iterator[BlobInfo]:
    """The files of `root/above` and below whose keys start with *prefix*. *above* is empty or ends in a slash."""
    try:
        entries = os.scandir(f"{root}/{above}")
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            key = above + entry.name
            if not is_segment(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from _walk(root, f"{key}/", prefix)
            elif above and key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield BlobInfo(BlobKey(key), status.st_size, status.st_mtime, is_unfinished=is_unfinished_key(key))


def _is_same(path: Path, info: BlobInfo) -> bool:
    status = path.lstat()
    return (status.st_size, status.st_mtime) == (info.size_bytes, info.modified_at)


def _make_folder_and_above(folder: Path) -> None:
    """Make *folder* and those above it where absent, and sync the names of those that were made."""
    if folder.is_dir():
        return
    _make_folder_and_above(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(FOLDER_MODE)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_found(key: BlobKey) -> NotFound:
    return NotFound(f"blob {key}: not in this store")


def _read_error(exc: OSError, key: BlobKey) -> IcehouseError:
    """One of our errors for a blob that cannot be read."""
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return _not_found(key)
    return _translated(exc, f"blob {key}")


def _translated(exc: OSError, place: str) -> IcehouseError:
    """One of our errors for what the kernel said of *place*, which opens the message."""
    if exc.errno in _FULL:
        return OverQuota(f"{place}: the disk or a quota is full: {exc.strerror}")
    return Unavailable(f"{place}: {exc.strerror}")
