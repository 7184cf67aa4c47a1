"""A store of blobs that counts how long another one takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator

from icehouse.errors import StorageError
from icehouse.rules.durations import Durations
from icehouse.storage.blobs import BlobInfo, BlobKey, BlobStore, BlobWriter


class StorageCounts:
    """How long each read, write and deletion of a blob took since the process started, and how many failed."""

    def __init__(self) -> None:
        self.durations = {"read": Durations(), "write": Durations(), "delete": Durations()}
        """A read is one of a range that may wait for the disk; a write makes a blob durable."""
        self.errors = dict.fromkeys(self.durations, 0)

    @contextlib.contextmanager
    def timing(self, operation: str) -> Generator[None]:
        """Count what is done inside."""
        began = time.perf_counter()
        try:
            yield
        except StorageError:
            self.errors[operation] += 1  # Two at the same moment may count as one.
            raise
        finally:
            self.durations[operation].add(time.perf_counter() - began)


class TimedBlobStore:
    """Does what *inner* does. What never waits, and listings, are not timed."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner
        self.counts = StorageCounts()
        # In the event loop, many times a second: nothing stands between.
        self.read_warm = inner.read_warm
        self.find_warm = inner.find_warm

    def create(self) -> BlobWriter:
        """See `BlobStore.create`."""
        return _TimedWriter(self._inner.create(), self.counts)

    def put(self, key: BlobKey, data: bytes) -> None:
        """See `BlobStore.put`."""
        with self.counts.timing("write"):
            self._inner.put(key, data)

    def size(self, key: BlobKey) -> int:
        """See `BlobStore.size`."""
        return self._inner.size(key)

    def describe(self, key: BlobKey) -> BlobInfo:
        """See `BlobStore.describe`."""
        return self._inner.describe(key)

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        """See `BlobStore.read_into`."""
        with self.counts.timing("read"):
            self._inner.read_into(key, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """See `BlobStore.list`."""
        return self._inner.list(prefix)

    def delete(self, key: BlobKey) -> None:
        """See `BlobStore.delete`."""
        with self.counts.timing("delete"):
            self._inner.delete(key)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        """See `BlobStore.delete_unchanged`."""
        with self.counts.timing("delete"):
            return self._inner.delete_unchanged(info)


class _TimedWriter:
    def __init__(self, inner: BlobWriter, counts: StorageCounts) -> None:
        self._inner = inner
        self._counts = counts
        self.write = inner.write
        self.read_back = inner.read_back
        self.abort = inner.abort

    def commit(self, key: BlobKey) -> None:
        with self._counts.timing("write"):
            self._inner.commit(key)
