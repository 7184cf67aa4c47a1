"""Receiving packs: what is refused, what is left behind, and what two clients at once get."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from backports.zstd import compress, decompress
from blake3 import blake3

from icehouse.api.publish import ChunksMissingRequest
from icehouse.db.caches import CacheRow, delete_cache
from icehouse.db.schema import chunk, pack
from icehouse.errors import InvalidFormat, NotFound, OverQuota, TooLarge, Unavailable
from icehouse.rules.chunks import MAX_CHUNK_BYTES
from icehouse.rules.packs import (
    MAX_INDEX_BYTES,
    MAX_PACK_ENTRIES,
    NO_PLACES,
    PackEntry,
    Places,
    parse_pack_end,
    render_index,
)
from icehouse.rules.varints import append_varint
from icehouse.services.packs import MAX_IDENTITIES
from icehouse.storage.blobs import BlobInfo, BlobKey, BlobStore, BlobWriter, FilePart
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import Store, Upload, identity_of, in_pieces, make_chunk

CHUNKS = [make_chunk(1), make_chunk(2, [100, 900]), make_chunk(3), make_chunk(4, [40])]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    return await store.create_cache("main")


async def receive(store: Store, cache: CacheRow, body: bytes) -> list[int]:
    return (await store.packs.receive_pack(cache, in_pieces(body, 1_000))).numbers


async def assert_nothing_is_left(store: Store) -> None:
    assert store.keys() == []
    assert await store.count(pack) == await store.count(chunk) == 0


def frame_lengths(upload: Upload) -> tuple[int, int]:
    body = upload.render()
    frames = sum(map(len, upload.frames))
    return len(body) - frames, len(body)


# What is kept


async def test_pack_is_named_by_its_bytes_and_zstd_reads_it_and_its_index_fits(store: Store, cache: CacheRow) -> None:
    upload = Upload.of(CHUNKS)
    answer = await store.packs.receive_pack(cache, in_pieces(upload.render(), 7))
    (key,) = store.keys()
    data = store.read_blob(key)
    name = blake3(data).hexdigest()
    assert key == f"packs/{cache.domain_id}/{name[:2]}/{name}"
    assert answer.stored_bytes == len(data)
    frames = sum(map(len, upload.frames))
    assert data[:frames] == b"".join(upload.frames)
    assert parse_pack_end(data[frames:]) == upload.entries
    placeholders_differ = [chunk for chunk in CHUNKS if not chunk.positions]
    text = decompress(data)
    assert len(text) == sum(len(chunk.raw) for chunk in CHUNKS)
    assert all(chunk.raw in text for chunk in placeholders_differ)


async def test_numbers_are_consecutive_and_in_the_order_of_the_index(store: Store, cache: CacheRow) -> None:
    numbers = await receive(store, cache, Upload.of(CHUNKS).render())
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    identities = [identity_of(chunk) for chunk in reversed(CHUNKS)]
    answer = await store.packs.find_missing_chunks(cache, ChunksMissingRequest(b"".join(identities)))
    assert (answer.known, answer.numbers) == (b"\x0f", numbers[::-1])


async def test_empty_pack_stores_nothing(store: Store, cache: CacheRow) -> None:
    answer = await store.packs.receive_pack(cache, in_pieces(Upload([], []).render()))
    assert (answer.numbers, answer.stored_bytes) == ([], 0)
    await assert_nothing_is_left(store)


async def test_known_chunks_are_not_stored_again(store: Store, cache: CacheRow) -> None:
    first = await receive(store, cache, Upload.of(CHUNKS[:3]).render())
    (old_key,) = store.keys()
    both = await receive(store, cache, Upload.of([CHUNKS[0], CHUNKS[3], CHUNKS[2]]).render())
    assert both == [first[0], first[2] + 1, first[2]]
    (new_key,) = set(store.keys()) - {old_key}
    only = Upload.of(CHUNKS[3:])
    assert parse_pack_end(store.read_blob(new_key)[len(only.frames[0]) :]) == only.entries


async def test_retry_after_a_lost_answer_gives_the_same_numbers_and_leaves_one_object(
    store: Store, cache: CacheRow
) -> None:
    body = Upload.of(CHUNKS).render()
    first = await store.packs.receive_pack(cache, in_pieces(body))
    again = await store.packs.receive_pack(cache, in_pieces(body))
    assert again.numbers == first.numbers
    assert again.stored_bytes == 0
    assert len(store.keys()) == await store.count(pack) == 1


async def test_two_identical_uploads_at_once_make_one_set_of_rows(store: Store, cache: CacheRow) -> None:
    body = Upload.of(CHUNKS).render()
    answers = await asyncio.gather(*(store.packs.receive_pack(cache, in_pieces(body, 50)) for _ in range(4)))
    assert len({tuple(answer.numbers) for answer in answers}) == 1
    assert len(store.keys()) == await store.count(pack) == 1
    assert await store.count(chunk) == len(CHUNKS)
    assert sum(answer.stored_bytes for answer in answers) == len(store.read_blob(store.keys()[0]))


async def test_two_overlapping_uploads_at_once_agree_on_every_number(store: Store, cache: CacheRow) -> None:
    one, other = Upload.of(CHUNKS[:3]), Upload.of(CHUNKS[1:])
    answers = await asyncio.gather(*(store.packs.receive_pack(cache, in_pieces(u.render(), 50)) for u in (one, other)))
    assert answers[0].numbers[1:] == answers[1].numbers[:2]
    assert await store.count(chunk) == len(CHUNKS)
    wanted = b"".join(identity_of(chunk) for chunk in CHUNKS)
    found = await store.packs.find_missing_chunks(cache, ChunksMissingRequest(wanted))
    assert found.numbers == [*answers[0].numbers, answers[1].numbers[2]]


async def test_chunk_of_one_domain_is_missing_in_another(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other", domain_id=await store.create_domain())
    body = Upload.of(CHUNKS).render()
    numbers = await receive(store, cache, body)
    identities = b"".join(identity_of(chunk) for chunk in CHUNKS)
    answer = await store.packs.find_missing_chunks(other, ChunksMissingRequest(identities))
    assert (answer.known, answer.numbers) == (b"\0", [])
    assert not set(numbers) & set(await receive(store, other, body))
    assert len(store.keys(f"packs/{other.domain_id}/")) == 1


# What is refused


@pytest.mark.parametrize("kept", [0, 3, 4, 50, -1, -3_000])
async def test_truncated_pack_is_refused(store: Store, cache: CacheRow, kept: int) -> None:
    body = Upload.of(CHUNKS).render()
    with pytest.raises(InvalidFormat, match="the body ends after"):
        await receive(store, cache, body[:kept])
    await assert_nothing_is_left(store)


async def test_pack_that_goes_on_after_its_frames_is_refused(store: Store, cache: CacheRow) -> None:
    with pytest.raises(InvalidFormat, match="the body goes on"):
        await receive(store, cache, Upload.of(CHUNKS).render() + b"x")
    await assert_nothing_is_left(store)


async def test_repeated_pack_that_goes_on_is_refused_too(store: Store, cache: CacheRow) -> None:
    body = Upload.of(CHUNKS).render()
    await receive(store, cache, body)
    with pytest.raises(InvalidFormat, match="the body goes on"):
        await receive(store, cache, body + b"x")


async def test_frames_in_another_order_than_the_index_are_refused(store: Store, cache: CacheRow) -> None:
    upload = Upload.of(CHUNKS)
    with pytest.raises(InvalidFormat):
        await receive(store, cache, Upload(upload.entries, upload.frames[::-1]).render())
    await assert_nothing_is_left(store)


async def test_exchanged_identities_are_refused(store: Store, cache: CacheRow) -> None:
    upload = Upload.of([CHUNKS[0], CHUNKS[2]])
    first, second = upload.entries
    entries = [replace(first, identity=second.identity), replace(second, identity=first.identity)]
    with pytest.raises(InvalidFormat, match="holds other bytes"):
        await receive(store, cache, Upload(entries, upload.frames).render())
    await assert_nothing_is_left(store)


async def test_exchanged_patch_tables_are_refused(store: Store, cache: CacheRow) -> None:
    upload = Upload.of([make_chunk(1, [100]), make_chunk(2, [200])])
    first, second = upload.entries
    entries = [replace(first, places=second.places), replace(second, places=first.places)]
    with pytest.raises(InvalidFormat):
        await receive(store, cache, Upload(entries, upload.frames).render())
    await assert_nothing_is_left(store)


@pytest.mark.parametrize("shift", [-1, 1])
async def test_shifted_patch_offset_is_refused(store: Store, cache: CacheRow, shift: int) -> None:
    upload = Upload.of([make_chunk(1, [100])])
    (entry,) = upload.entries
    places = Places(entry.places.positions, (entry.places.patch_offsets[0] + shift,), is_split=False)
    with pytest.raises(InvalidFormat, match="not inside a raw block"):
        await receive(store, cache, Upload([replace(entry, places=places)], upload.frames).render())
    await assert_nothing_is_left(store)


@pytest.mark.parametrize("size", [1_000, MAX_CHUNK_BYTES])
async def test_frame_that_gives_more_than_the_index_says_is_refused(store: Store, cache: CacheRow, size: int) -> None:
    bomb = compress(bytes(64 * 1024 * 1024))
    entry = PackEntry(bytes(32), len(bomb), size, NO_PLACES)
    with pytest.raises(InvalidFormat):
        await receive(store, cache, Upload([entry], [bomb]).render())
    await assert_nothing_is_left(store)


async def test_one_bad_frame_among_good_ones_keeps_all_of_them_out(store: Store, cache: CacheRow) -> None:
    chunks = [make_chunk(seed, size=300_000) for seed in range(30)]
    upload = Upload.of(chunks)
    damaged = bytearray(upload.frames[-1])
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(InvalidFormat):
        await receive(store, cache, Upload(upload.entries, [*upload.frames[:-1], bytes(damaged)]).render())
    await assert_nothing_is_left(store)


async def endless(start: bytes) -> AsyncIterator[bytes]:
    """A body whose sender must be stopped early."""
    yield start
    for _ in range(1_000):
        yield bytes(1_000_000)
    pytest.fail("the body was read on and on")


def many_entries() -> bytes:
    index = bytearray()
    append_varint(index, 1)
    append_varint(index, MAX_PACK_ENTRIES + 1)
    return bytes(index)


OVER_LIMITS = {
    "index": (MAX_INDEX_BYTES + 1).to_bytes(4, "little"),
    "entries": len(many_entries()).to_bytes(4, "little") + many_entries(),
    "frames together": Upload(
        [PackEntry(bytes([seed]) * 32, 1024 * 1024, 1024 * 1024, NO_PLACES) for seed in range(33)], []
    ).render(),
}


@pytest.mark.parametrize("start", OVER_LIMITS.values(), ids=OVER_LIMITS)
async def test_pack_over_a_limit_is_refused_before_it_is_read(store: Store, cache: CacheRow, start: bytes) -> None:
    with pytest.raises(TooLarge):
        await store.packs.receive_pack(cache, endless(start))
    await assert_nothing_is_left(store)


async def test_chunk_over_the_limit_is_refused_before_it_is_read(store: Store, cache: CacheRow) -> None:
    entry = PackEntry(bytes(32), 1_000, MAX_CHUNK_BYTES + 1, NO_PLACES)
    with pytest.raises(InvalidFormat, match="over the limit"):
        await store.packs.receive_pack(cache, endless(Upload([entry], []).render()))


async def test_index_that_names_a_chunk_twice_is_refused(store: Store, cache: CacheRow) -> None:
    upload = Upload.of(CHUNKS[:1])
    with pytest.raises(InvalidFormat, match="named twice"):
        await receive(store, cache, Upload(upload.entries * 2, upload.frames * 2).render())


async def test_garbage_in_the_place_of_an_index_is_refused(store: Store, cache: CacheRow) -> None:
    index = render_index(Upload.of(CHUNKS).entries)
    for end in range(1, len(index)):
        with pytest.raises(InvalidFormat):
            await receive(store, cache, end.to_bytes(4, "little") + index[:end])
    await assert_nothing_is_left(store)


async def test_pack_for_a_cache_that_was_deleted_meanwhile_is_not_found(store: Store, cache: CacheRow) -> None:
    await store.database.write(lambda connection: delete_cache(connection, cache.id))
    with pytest.raises(NotFound):
        await receive(store, cache, Upload.of(CHUNKS).render())
    assert await store.count(pack) == 0


async def test_question_about_broken_or_too_many_identities_is_refused(store: Store, cache: CacheRow) -> None:
    with pytest.raises(InvalidFormat, match="no multiple of 32"):
        await store.packs.find_missing_chunks(cache, ChunksMissingRequest(bytes(33)))
    with pytest.raises(TooLarge):
        await store.packs.find_missing_chunks(cache, ChunksMissingRequest(bytes(32 * (MAX_IDENTITIES + 1))))


# Clients that go, disks that are full


class ClientGoneError(Exception):
    """What a server's body iterator may raise."""


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
async def test_client_that_goes_in_the_middle_leaves_nothing(store: Store, cache: CacheRow, share: float) -> None:
    chunks = [make_chunk(seed, size=300_000) for seed in range(30)]
    body = Upload.of(chunks).render()

    async def broken_off() -> AsyncIterator[bytes]:
        async for piece in in_pieces(body[: int(share * len(body))]):
            yield piece
        raise ClientGoneError

    with pytest.raises(ClientGoneError):
        await store.packs.receive_pack(cache, broken_off())
    await assert_nothing_is_left(store)


async def test_upload_cancelled_while_it_waits_for_its_client_leaves_nothing(store: Store, cache: CacheRow) -> None:
    body = Upload.of([make_chunk(seed, size=900_000) for seed in range(20)]).render()
    is_waiting = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield body[:-100]
        is_waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.packs.receive_pack(cache, stalled()))
    await is_waiting.wait()
    assert store.keys("unfinished/") != []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_nothing_is_left(store)


@pytest.mark.parametrize("cancellations", [1, 5])
async def test_upload_cancelled_at_any_turn_is_whole_or_leaves_no_row(tmp_path: Path, cancellations: int) -> None:
    """Some frameworks cancel again at each await of the tearing down."""
    body = Upload.of(CHUNKS).render()
    for turns in range(0, 60, 3):
        folder = tmp_path / str(turns)
        folder.mkdir()
        store = Store.open(folder)
        cache = await store.create_cache("main")
        task = asyncio.create_task(store.packs.receive_pack(cache, in_pieces(body, 500)))
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        assert store.keys("unfinished/") == []
        assert await store.count(pack) <= len(store.keys("packs/"))
        numbers = await receive(store, cache, body)
        assert len(set(numbers)) == len(CHUNKS)
        assert len(store.keys()) == await store.count(pack) == 1
        await store.close()


class FullDisk:
    """A `BlobStore` over another, whose disk is full from the n-th write or commit on, until it gets room."""

    def __init__(self, blobs: BlobStore, first_failure: int) -> None:
        self._blobs = blobs
        self._writes = count(1)
        self.first_failure: float = first_failure

    def use(self) -> None:
        if next(self._writes) >= self.first_failure:
            raise OverQuota("the disk is full")

    def create(self) -> BlobWriter:
        self.use()
        return FullDiskWriter(self, self._blobs.create())

    def put(self, key: BlobKey, data: bytes) -> None:
        self.use()
        self._blobs.put(key, data)

    def size(self, key: BlobKey) -> int:
        return self._blobs.size(key)

    def describe(self, key: BlobKey) -> BlobInfo:
        return self._blobs.describe(key)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        return self._blobs.delete_unchanged(info)

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        self._blobs.read_into(key, offset, buffer)

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        return self._blobs.read_warm(key, offset, buffer)

    def find_warm(self, key: BlobKey, offset: int, size: int) -> FilePart | None:
        return self._blobs.find_warm(key, offset, size)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        return self._blobs.list(prefix)

    def delete(self, key: BlobKey) -> None:
        self._blobs.delete(key)


class FullDiskWriter:
    """The `BlobWriter` of `FullDisk`."""

    def __init__(self, disk: FullDisk, writer: BlobWriter) -> None:
        self._disk = disk
        self._writer = writer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._disk.use()
        except OverQuota:
            self._writer.abort()
            raise
        self._writer.write(data)

    def read_back(self, offset: int, size: int) -> bytes:
        return self._writer.read_back(offset, size)

    def commit(self, key: BlobKey) -> None:
        self._disk.use()
        self._writer.commit(key)

    def abort(self) -> None:
        self._writer.abort()


async def test_full_disk_at_any_write_leaves_nothing_and_the_next_try_succeeds(tmp_path: Path) -> None:
    chunks = [make_chunk(seed, size=500_000) for seed in range(12)]
    body = Upload.of(chunks).render()
    failures = 0
    for first_failure in count(1):
        folder = tmp_path / str(first_failure)
        folder.mkdir()
        disk = FullDisk(MemoryBlobStore(), first_failure)
        store = Store.open(folder, disk)
        cache = await store.create_cache("main")
        try:
            await receive(store, cache, body)
        except OverQuota:
            failures += 1
            await assert_nothing_is_left(store)
            disk.first_failure = float("inf")
            assert len(set(await receive(store, cache, body))) == len(chunks)
            assert len(store.keys()) == await store.count(pack) == 1
        else:
            break
        finally:
            await store.close()
    assert failures >= 4  # making the file, two batches of frames, the index, the commit


class Asleep(MemoryBlobStore):
    """Between a pack's bytes and its rows, the machine sleeps for some days."""

    store: Store

    def finish(self, name: str, key: BlobKey, data: bytes) -> None:
        super().finish(name, key, data)
        self.store.now += 2 * 86_400


async def test_rows_of_a_pack_that_may_have_been_taken_for_a_stray_are_not_added(tmp_path: Path) -> None:
    blobs = Asleep()
    blobs.store = store = Store.open(tmp_path, blobs)
    cache = await store.create_cache("main")
    with pytest.raises(Unavailable, match="took 172800 seconds"):
        await receive(store, cache, Upload.of(CHUNKS).render())
    assert await store.count(pack) == await store.count(chunk) == 0
    await store.close()
