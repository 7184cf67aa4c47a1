"""The contract of `BlobStore`, kept by every backend."""

import tempfile
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import Conflict, Corrupt, InvalidFormat, NotFound, Unavailable
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.memory import MemoryBlobStore
from icehouse.storage.timed import TimedBlobStore

KEY = BlobKey("packs/1/4f/4f00")
OTHER_KEY = BlobKey("packs/2/4f/4f00")

BACKENDS: dict[str, Callable[[Path], BlobStore]] = {
    "local": lambda folder: LocalBlobStore(folder, max_open_files=2),
    "memory": lambda _: MemoryBlobStore(),
    "timed": lambda _: TimedBlobStore(MemoryBlobStore()),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(backend: str, tmp_path: Path) -> BlobStore:
    return BACKENDS[backend](tmp_path / "blobs")


def read(store: BlobStore, key: BlobKey, offset: int = 0, size: int | None = None) -> bytes:
    buffer = bytearray(store.size(key) - offset if size is None else size)
    store.read_into(key, offset, memoryview(buffer))
    return bytes(buffer)


def keys(store: BlobStore, prefix: str = "") -> list[str]:
    return sorted(info.key for info in store.list(prefix))


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1024], ids=["empty", "one byte", "256 KiB"])
def test_what_was_put_is_read(store: BlobStore, data: bytes) -> None:
    store.put(KEY, data)
    assert store.size(KEY) == len(data)
    assert read(store, KEY) == data
    (info,) = store.list()
    assert (info.key, info.size_bytes, info.is_unfinished) == (KEY, len(data), False)


def test_writer_gathers_bytes_of_every_kind(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"ab")
    writer.write(bytearray(b"cd"))
    writer.write(memoryview(b"xefx")[1:3])
    writer.commit(KEY)
    assert read(store, KEY) == b"abcdef"


def test_writer_reads_back_what_it_wrote(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"0123")
    writer.write(b"456789")
    assert writer.read_back(2, 5) == b"23456"
    writer.write(b"ab")
    writer.commit(KEY)
    assert read(store, KEY) == b"0123456789ab"


def test_reading_back_more_than_was_written_fails(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"0123")
    with pytest.raises(Corrupt, match="4 bytes were written"):
        writer.read_back(2, 3)
    writer.abort()


def test_nothing_is_under_the_key_before_the_commit(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    with pytest.raises(NotFound):
        store.size(KEY)
    writer.commit(KEY)
    assert keys(store) == [KEY]


def test_writer_that_was_left_is_listed_as_unfinished_until_deleted(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    (info,) = store.list()
    assert (info.size_bytes, info.is_unfinished) == (3, True)
    store.delete(info.key)
    assert keys(store) == []
    with pytest.raises(Unavailable):
        writer.commit(KEY)
    assert keys(store) == []


def test_unfinished_blob_can_be_neither_read_nor_replaced(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    (info,) = store.list()
    with pytest.raises(NotFound):
        store.size(info.key)
    with pytest.raises(NotFound):
        store.read_into(info.key, 0, memoryview(bytearray(3)))
    assert not store.read_warm(info.key, 0, memoryview(bytearray(3)))
    with pytest.raises(InvalidFormat, match="name what writers left"):
        store.put(info.key, b"abc")
    writer.commit(KEY)
    assert read(store, KEY) == b"abc"


def test_aborted_writer_leaves_nothing(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    writer.abort()
    writer.abort()
    assert keys(store) == []


def test_abort_after_commit_does_nothing(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    writer.commit(KEY)
    writer.abort()
    assert read(store, KEY) == b"abc"


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "aborted"])
def test_finished_writer_refuses_work(store: BlobStore, *, is_committed: bool) -> None:
    writer = store.create()
    if is_committed:
        writer.commit(KEY)
    else:
        writer.abort()
    with pytest.raises(Conflict):
        writer.write(b"abc")
    with pytest.raises(Conflict):
        writer.read_back(0, 0)
    with pytest.raises(Conflict):
        writer.commit(OTHER_KEY)


def test_commit_under_a_malformed_key_leaves_the_writer_open(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    with pytest.raises(InvalidFormat):
        writer.commit(BlobKey("../escaped"))
    writer.commit(KEY)
    assert keys(store) == [KEY]


def test_blob_that_is_there_is_replaced(store: BlobStore) -> None:
    store.put(KEY, b"the damaged one")
    assert read(store, KEY) == b"the damaged one"
    (before,) = store.list()
    store.put(KEY, b"the healed one")
    (after,) = store.list()
    assert read(store, KEY) == b"the healed one"
    assert after.size_bytes == len(b"the healed one")
    assert after.modified_at >= before.modified_at


def test_warm_read_gives_nothing_of_a_blob_that_was_replaced(store: BlobStore) -> None:
    buffer = bytearray(3)
    store.put(KEY, b"old")
    store.read_into(KEY, 0, memoryview(buffer))
    store.put(KEY, b"new")
    assert not store.read_warm(KEY, 0, memoryview(buffer)) or buffer == b"new"


@pytest.mark.parametrize(("offset", "size"), [(0, 11), (10, 1), (99, 1), (5, 6)])
def test_reading_past_the_end_is_corrupt(store: BlobStore, offset: int, size: int) -> None:
    store.put(KEY, b"0123456789")
    read(store, KEY)
    with pytest.raises(Corrupt, match=f"expected at least {offset + size}"):
        store.read_into(KEY, offset, memoryview(bytearray(size)))
    assert not store.read_warm(KEY, offset, memoryview(bytearray(size)))


def test_negative_offset_is_refused(store: BlobStore) -> None:
    store.put(KEY, b"0123456789")
    read(store, KEY)
    with pytest.raises(InvalidFormat, match="negative"):
        store.read_into(KEY, -1, memoryview(bytearray(1)))
    assert not store.read_warm(KEY, -1, memoryview(bytearray(1)))


def test_absent_blob_is_not_found(store: BlobStore) -> None:
    store.put(KEY, b"abc")
    for absent in (OTHER_KEY, BlobKey("packs/1"), BlobKey(f"{KEY}/deeper")):
        with pytest.raises(NotFound, match=absent):
            store.size(absent)
        with pytest.raises(NotFound, match=absent):
            store.read_into(absent, 0, memoryview(bytearray(0)))
        assert not store.read_warm(absent, 0, memoryview(bytearray(0)))


def test_deleted_blob_is_gone(store: BlobStore) -> None:
    store.put(KEY, b"abc")
    store.put(OTHER_KEY, b"def")
    assert read(store, KEY) == b"abc"
    store.delete(KEY)
    with pytest.raises(NotFound):
        store.read_into(KEY, 0, memoryview(bytearray(3)))
    assert not store.read_warm(KEY, 0, memoryview(bytearray(3)))
    assert keys(store) == [OTHER_KEY]


def test_deleting_what_is_absent_is_no_error(store: BlobStore) -> None:
    store.put(KEY, b"abc")
    store.delete(OTHER_KEY)
    store.delete(BlobKey("packs/1"))
    store.delete(BlobKey(f"{KEY}/deeper"))
    assert read(store, KEY) == b"abc"


def test_blob_is_deleted_while_it_is_what_the_listing_said(store: BlobStore) -> None:
    store.put(KEY, b"abc")
    (info,) = store.list()
    assert info == store.describe(KEY)
    assert store.delete_unchanged(info)
    assert keys(store) == []
    assert store.delete_unchanged(info), "it is gone, as was asked"


def test_blob_that_was_put_again_is_not_deleted(store: BlobStore) -> None:
    store.put(KEY, b"abc")
    (info,) = store.list()
    store.put(KEY, b"abcd")
    assert not store.delete_unchanged(info)
    store.put(KEY, b"abc")
    assert not store.delete_unchanged(info), "the same bytes, but put by somebody who may be about to use them"
    assert read(store, KEY) == b"abc"
    assert keys(store) == [KEY]


def test_unfinished_blob_is_deleted_while_it_is_what_the_listing_said(store: BlobStore) -> None:
    writer = store.create()
    writer.write(b"abc")
    (info,) = store.list()
    assert store.delete_unchanged(info)
    assert keys(store) == []
    writer.abort()


def test_key_can_be_stored_again_after_it_was_deleted(store: BlobStore) -> None:
    store.put(KEY, b"abc")
    assert read(store, KEY) == b"abc"
    store.delete(KEY)
    store.put(KEY, b"defg")
    assert read(store, KEY) == b"defg"


def test_list_gives_the_keys_with_a_prefix(store: BlobStore) -> None:
    names = ["journal/1", "packs/1/aa/aa01", "packs/1/ab/ab01", "packs/12/aa/aa02"]
    for name in names:
        store.put(BlobKey(name), name.encode())
    writer = store.create()
    assert keys(store, "packs/1") == names[1:]
    assert keys(store, "packs/1/") == names[1:3]
    assert keys(store, "packs/1/ab/ab01") == [names[2]]
    assert keys(store, "unfinished/") == [info.key for info in store.list() if info.is_unfinished]
    assert keys(store, "absent/") == keys(store, "../") == keys(store, "/") == []
    writer.abort()
    assert keys(store) == names


def test_list_may_be_left_in_the_middle_and_blobs_may_go_meanwhile(store: BlobStore) -> None:
    for number in range(20):
        store.put(BlobKey(f"packs/{number % 4}/{number}"), b"")
    listing = store.list()
    first = next(listing)
    for key in keys(store):
        store.delete(BlobKey(key))
    assert {info.key for info in listing} <= {f"packs/{number % 4}/{number}" for number in range(20)} - {first.key}
    store.put(KEY, b"abc")
    next(store.list())


@pytest.mark.parametrize(
    "key",
    [
        *("", "secret", "/packs/1", "packs/1/", "packs//1", "./packs", "packs/.", "packs/../secret", "../secret"),
        *("packs/A", "packs/a b", "packs/é", "packs/1\n", "packs/\0", "packs/a\\b"),
        *(f"packs/{'a' * 256}", "/".join(["a" * 200] * 6)),
    ],
)
def test_malformed_key_is_refused_everywhere(store: BlobStore, key: str) -> None:
    malformed = BlobKey(key)
    with pytest.raises(InvalidFormat, match="blob key"):
        store.put(malformed, b"abc")
    with pytest.raises(InvalidFormat, match="blob key"):
        store.size(malformed)
    with pytest.raises(InvalidFormat, match="blob key"):
        store.read_into(malformed, 0, memoryview(bytearray(0)))
    with pytest.raises(InvalidFormat, match="blob key"):
        store.delete(malformed)
    assert not store.read_warm(malformed, 0, memoryview(bytearray(0)))
    assert keys(store) == []


@pytest.mark.parametrize("key", ["a/b", "packs/..a", "packs/...", "-/_", f"packs/{'a' * 255}", "unfinished-2/a"])
def test_unusual_key_is_fine(store: BlobStore, key: str) -> None:
    store.put(BlobKey(key), b"abc")
    assert keys(store) == [key]
    assert read(store, BlobKey(key)) == b"abc"


def test_many_threads_may_commit_one_key(store: BlobStore) -> None:
    data = bytes(range(256)) * 64
    failures = run_threads(8, lambda _: store.put(KEY, data))
    assert failures == []
    assert read(store, KEY) == data
    assert keys(store) == [KEY]


def test_reader_sees_right_bytes_or_none_while_others_store_and_delete(store: BlobStore) -> None:
    """More keys than files kept open, deleted under the readers: a mixed-up file would give another key's bytes."""
    blobs = {BlobKey(f"packs/1/{number}"): bytes([number]) * 4096 for number in range(6)}

    def work(thread: int) -> None:
        buffer = bytearray(4096)
        for turn in range(300):
            key = BlobKey(f"packs/1/{(turn * 7 + thread) % 6}")
            if thread < 2 and turn % 3 == 0:
                store.delete(key)
            elif thread < 2:
                store.put(key, blobs[key])
            elif store.read_warm(key, 0, memoryview(buffer)):
                assert buffer == blobs[key]
            else:
                try:
                    store.read_into(key, 0, memoryview(buffer))
                except NotFound:
                    continue
                assert buffer == blobs[key]

    assert run_threads(6, work) == []


def run_threads(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Run *work* in that many threads at once; gives what they raised."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as exc:  # noqa: BLE001 # Handed to the test, which shows it.
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@given(
    data=st.binary(max_size=5000),
    cuts=st.lists(st.integers(0, 5000), max_size=6),
    spans=st.lists(st.tuples(st.integers(0, 5200), st.integers(0, 5200)), min_size=1, max_size=8),
)
def test_any_span_of_a_blob_written_in_any_pieces_reads_as_a_slice(
    data: bytes, cuts: list[int], spans: list[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for make in BACKENDS.values():
            store = make(Path(folder))
            writer = store.create()
            for start, stop in pairwise([0, *sorted(cuts), len(data)]):
                writer.write(data[start:stop] if stop >= start else b"")
            written = b"".join(data[a:b] for a, b in pairwise([0, *sorted(cuts), len(data)]))
            writer.commit(KEY)
            for offset, size in spans:
                buffer = bytearray(size)
                if size and offset + size > len(written):
                    with pytest.raises(Corrupt):
                        store.read_into(KEY, offset, memoryview(buffer))
                    assert not store.read_warm(KEY, offset, memoryview(buffer))
                elif offset + size <= len(written):
                    store.read_into(KEY, offset, memoryview(buffer))
                    assert buffer == written[offset : offset + size]
                    again = bytearray(size)
                    if store.read_warm(KEY, offset, memoryview(again)):
                        assert again == buffer
