"""What is done with blobs is counted, whether it succeeds or not."""

import pytest

from icehouse.errors import NotFound, Unavailable
from icehouse.storage.blobs import BlobKey
from icehouse.storage.memory import MemoryBlobStore
from icehouse.storage.timed import TimedBlobStore

KEY = BlobKey("packs/1/aa")


class BrokenBlobStore(MemoryBlobStore):
    """One whose disk fails."""

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        raise Unavailable(f"{key} at {offset}: {len(buffer)} bytes cannot be read")


def counts(store: TimedBlobStore) -> dict[str, tuple[int, int]]:
    return {
        operation: (sum(durations.read()[0]), store.counts.errors[operation])
        for operation, durations in store.counts.durations.items()
    }


def test_each_kind_of_operation_is_counted_for_itself() -> None:
    store = TimedBlobStore(MemoryBlobStore())
    assert counts(store) == {"read": (0, 0), "write": (0, 0), "delete": (0, 0)}
    store.put(KEY, b"abc")
    writer = store.create()
    writer.write(b"abc")
    writer.commit(BlobKey("packs/1/bb"))
    store.read_into(KEY, 0, memoryview(bytearray(3)))
    store.delete(KEY)
    assert counts(store) == {"read": (1, 0), "write": (2, 0), "delete": (1, 0)}


def test_what_the_storage_fails_is_an_error_and_what_is_absent_is_none() -> None:
    store = TimedBlobStore(BrokenBlobStore())
    with pytest.raises(Unavailable):
        store.read_into(KEY, 0, memoryview(bytearray(3)))
    assert counts(store)["read"] == (1, 1)
    store = TimedBlobStore(MemoryBlobStore())
    with pytest.raises(NotFound):
        store.read_into(KEY, 0, memoryview(bytearray(3)))
    assert counts(store)["read"] == (1, 0)
