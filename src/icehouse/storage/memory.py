"""Blobs in memory, with every promise of `BlobStore` but that of surviving the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from icehouse.errors import Conflict, Corrupt, InvalidFormat, NotFound, Unavailable
from icehouse.storage.blobs import BlobInfo, BlobKey
from icehouse.storage.keys import UNFINISHED, check_key, check_new_key


@dataclass(frozen=True, slots=True)
class _Blob:
    data: bytes
    modified_at: float


class MemoryBlobStore:
    """A `BlobStore` for tests and trials. *clock* gives the time of writing in seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._blobs: Final[dict[str, _Blob]] = {}
        self._writers: Final[dict[str, MemoryBlobWriter]] = {}
        self._numbers: Final = count()

    def create(self) -> MemoryBlobWriter:
        """See `BlobStore.create`."""
        with self._lock:
            name = f"{UNFINISHED}/{next(self._numbers)}"
            writer = self._writers[name] = MemoryBlobWriter(self, name, self._clock())
        return writer

    def put(self, key: BlobKey, data: bytes) -> None:
        """See `BlobStore.put`."""
        check_new_key(key)
        with self._lock:
            self._keep(key, bytes(data))

    def size(self, key: BlobKey) -> int:
        """See `BlobStore.size`."""
        return len(self._get(key).data)

    def describe(self, key: BlobKey) -> BlobInfo:
        """See `BlobStore.describe`."""
        blob = self._get(key)
        return BlobInfo(key, len(blob.data), blob.modified_at)

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        """See `BlobStore.read_into`."""
        data = self._get(key).data
        if offset < 0:
            raise InvalidFormat(f"blob {key}: offset {offset} is negative")
        if offset + buffer.nbytes > len(data):
            raise Corrupt(f"blob {key}: {len(data)} bytes long, expected at least {offset + buffer.nbytes}")
        buffer.cast("B")[:] = data[offset : offset + buffer.nbytes]

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        """See `BlobStore.read_warm`. False only where `read_into` would raise."""
        blob = self._blobs.get(key)
        if blob is None or not 0 <= offset <= len(blob.data) - buffer.nbytes:
            return False
        buffer.cast("B")[:] = blob.data[offset : offset + buffer.nbytes]
        return True

    def find_warm(self, key: BlobKey, offset: int, size: int) -> None:
        """See `BlobStore.find_warm`. There are no files."""

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """See `BlobStore.list`. What is stored after the first step is not in it."""
        with self._lock:
            found = [
                BlobInfo(BlobKey(key), len(blob.data), blob.modified_at)
                for key, blob in self._blobs.items()
                if key.startswith(prefix)
            ]
            found += [
                BlobInfo(BlobKey(name), writer.size_bytes, writer.modified_at, is_unfinished=True)
                for name, writer in self._writers.items()
                if name.startswith(prefix)
            ]
        yield from found

    def delete(self, key: BlobKey) -> None:
        """See `BlobStore.delete`."""
        check_key(key)
        with self._lock:
            self._blobs.pop(key, None)
            self._writers.pop(key, None)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        """See `BlobStore.delete_unchanged`."""
        with self._lock:
            blob = self._blobs.get(info.key)
            if blob is not None and BlobInfo(info.key, len(blob.data), blob.modified_at) != info:
                return False
            self._blobs.pop(info.key, None)
            self._writers.pop(info.key, None)
        return True

    def now(self) -> float:
        """The time for writers to note down."""
        return self._clock()

    def finish(self, name: str, key: BlobKey, data: bytes) -> None:
        """Turn the unfinished blob *name* into a blob, for its writer."""
        with self._lock:
            if self._writers.pop(name, None) is None:
                raise Unavailable(f"blob {key}: what was written was deleted before the commit")
            self._keep(key, data)

    def drop(self, name: str) -> None:
        """Forget the unfinished blob *name*, for its writer."""
        with self._lock:
            self._writers.pop(name, None)

    def _keep(self, key: BlobKey, data: bytes) -> None:
        self._blobs[key] = _Blob(data, self._clock())

    def _get(self, key: BlobKey) -> _Blob:
        check_key(key)
        blob = self._blobs.get(key)
        if blob is None:
            raise NotFound(f"blob {key}: not in this store")
        return blob


class MemoryBlobWriter:
    """A `BlobWriter` of `MemoryBlobStore.create`."""

    def __init__(self, store: MemoryBlobStore, name: str, created_at: float) -> None:
        self._store: Final = store
        self._name: Final = name
        self._data: bytearray | None = bytearray()
        self.modified_at = created_at

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        data = self._data
        return 0 if data is None else len(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `BlobWriter.write`."""
        self._open_data().extend(data)
        self.modified_at = self._store.now()

    def read_back(self, offset: int, size: int) -> bytes:
        """See `BlobWriter.read_back`."""
        data = self._open_data()
        if min(offset, size) < 0 or offset + size > len(data):
            raise Corrupt(f"{self._name}: {len(data)} bytes were written, expected {size} at offset {offset}")
        return bytes(data[offset : offset + size])

    def commit(self, key: BlobKey) -> None:
        """See `BlobWriter.commit`."""
        data = self._open_data()
        check_new_key(key)
        self._data = None
        self._store.finish(self._name, key, bytes(data))

    def abort(self) -> None:
        """See `BlobWriter.abort`."""
        if self._data is not None:
            self._data = None
            self._store.drop(self._name)

    def _open_data(self) -> bytearray:
        if self._data is None:
            raise Conflict(f"{self._name}: committed, aborted or failed before; expected an open writer")
        return self._data
