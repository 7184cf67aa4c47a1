"""NAR files that stock Nix uploads: what is stored of them, and what a broken one leaves."""

import asyncio
import contextlib
import hashlib
import random
import struct
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from backports.zstd import decompress
from sqlalchemy import select

from icehouse.db.caches import delete_cache
from icehouse.db.engine import Database, connect
from icehouse.db.schema import chunk, nar, pack, upload
from icehouse.db.uploads import find_upload
from icehouse.errors import Conflict, InvalidFormat, NotFound, OverQuota, TooLarge, Unavailable, Unsupported
from icehouse.nix import nix32
from icehouse.nix.compression import Compression
from icehouse.nix.store_paths import StoreDir
from icehouse.rules.recipes import MAX_RECIPE_BYTES
from icehouse.storage.blobs import BlobKey, BlobWriter
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import Store, cut, identity_of, in_pieces, nar_of
from tests.services.uploading import MAX_NAR_BYTES, NarUpload, StockNix

LIB = f"{'a' * 32}-lib"
BIG = nar_of(
    random.Random(1).randbytes(3_000_000)
    + f" /nix/store/{LIB}/lib ".encode() * 500
    + b"text " * 500_000
    + random.Random(2).randbytes(1_500_000)
)
"""Several chunks and batches, with store hashes in them."""
SMALL = nar_of(b"hello")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def nix(store: Store) -> StockNix:
    return StockNix(store, await store.create_cache("main"))


async def assert_nothing_is_left(store: Store) -> None:
    assert await store.count(upload) == await store.count(nar) == 0
    assert store.keys("unfinished/") == []


async def assert_stored(nix: StockNix, file: NarUpload) -> None:
    found = await nix.store.database.read(lambda connection: find_upload(connection, nix.cache.id, file.name))
    assert found is not None
    assert (found.file.compression, found.file.file_size) == (file.compression.value, len(file.data))
    assert found.file.file_hash == hashlib.sha256(file.data).digest()
    assert (found.nar_hash, found.nar_size) == (hashlib.sha256(file.nar).digest(), len(file.nar))
    assert found.path_id is None
    assert decompress(await nix.store.download(nix.cache, file.nar)) == file.nar


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("contents", [SMALL, BIG], ids=["small", "big"])
async def test_nar_is_stored_from_any_compression(
    nix: StockNix, store: Store, compression: Compression, contents: bytes
) -> None:
    file = NarUpload.make(contents, compression)
    await nix.put_nar(file)
    await assert_stored(nix, file)
    assert store.keys("unfinished/") == []


@pytest.mark.parametrize("compression", Compression)
async def test_file_may_come_byte_by_byte(nix: StockNix, compression: Compression) -> None:
    file = NarUpload.make(SMALL, compression)
    await nix.put_nar(file, 1)
    await assert_stored(nix, file)


async def test_same_nar_in_other_compressions_and_from_our_client_is_stored_once(nix: StockNix, store: Store) -> None:
    await nix.put_nar(NarUpload.make(BIG, Compression.XZ))
    packs = {key: store.read_blob(key) for key in store.keys("packs/")}
    assert packs
    for compression in Compression:
        await nix.put_nar(NarUpload.make(BIG, compression))
    await store.push(nix.cache, (LIB, BIG, [LIB]))
    assert {key: store.read_blob(key) for key in store.keys("packs/")} == packs
    assert await store.count(pack) == len(packs)
    assert await store.count(chunk) == len({identity_of(piece) for piece in cut(BIG)})
    assert (await store.count(nar), await store.count(upload)) == (1, len(Compression))


async def test_what_our_client_pushed_is_not_stored_again(nix: StockNix, store: Store) -> None:
    await store.push(nix.cache, (LIB, BIG, [LIB]))
    packs = store.keys("packs/")
    await nix.put_nar(NarUpload.make(BIG))
    assert store.keys("packs/") == packs
    assert await store.count(nar) == 1


async def test_repeated_upload_changes_nothing(nix: StockNix, store: Store) -> None:
    file = NarUpload.make(BIG)
    await nix.put_nar(file)
    before = store.keys()
    for piece_bytes in (1_000, 999_999):
        await nix.put_nar(file, piece_bytes)
    assert store.keys() == before
    assert await store.count(upload) == 1


async def test_many_clients_may_upload_the_same_nar_at_once(nix: StockNix, store: Store) -> None:
    file, other = NarUpload.make(BIG), NarUpload.make(BIG, Compression.ZSTD)
    await asyncio.gather(*(nix.put_nar(each, 50_000 + n) for n in range(4) for each in (file, other)))
    await assert_stored(nix, file)
    await assert_stored(nix, other)
    assert await store.count(chunk) == len({identity_of(piece) for piece in cut(BIG)})
    assert (await store.count(nar), await store.count(upload)) == (1, 2)


async def test_upload_belongs_to_its_cache(nix: StockNix, store: Store) -> None:
    file = NarUpload.make(SMALL)
    await nix.put_nar(file)
    other = StockNix(store, await store.create_cache("other"))
    assert await other.aliases.find(other.cache, file.name) is None


async def test_store_hashes_of_another_store_directory_are_found(nix: StockNix, store: Store) -> None:
    contents = nar_of(f"/gnu/store/{LIB}/lib".encode() + random.Random(5).randbytes(9_000))
    elsewhere = StockNix(store, replace(nix.cache, store_dir=StoreDir.parse("/gnu/store")))
    await elsewhere.put_nar(NarUpload.make(contents))
    assert await store.database.read(lambda connection: connection.execute(select(chunk.c.places)).scalar_one())
    assert decompress(await store.download(nix.cache, contents)) == contents


# What is refused


def renamed(file: NarUpload, letters: str) -> NarUpload:
    return replace(file, name=file.name.replace(file.name[:52], letters))


def directory(*names: bytes) -> bytes:
    """A NAR of a folder of symlinks, in the order given."""

    def text(*values: bytes) -> bytes:
        return b"".join(struct.pack("<Q", len(value)) + value + bytes(-len(value) % 8) for value in values)

    link = text(b"(", b"type", b"symlink", b"target", b"x", b")")
    entries = [text(b"entry", b"(", b"name", name, b"node") + link + text(b")") for name in names]
    return text(b"nix-archive-1", b"(", b"type", b"directory") + b"".join(entries) + text(b")")


XZ = NarUpload.make(BIG)
REFUSED = {
    "another hash": (renamed(XZ, nix32.encode(bytes(32))), InvalidFormat, "has the SHA-256"),
    "cut": (NarUpload.of_file(XZ.data[:-9], BIG, Compression.XZ), InvalidFormat, "before it is complete"),
    "cut without compression": (NarUpload.make(BIG[:-8], Compression.NONE), InvalidFormat, "NAR"),
    "junk after the end": (NarUpload.of_file(XZ.data + b"junk", BIG, Compression.XZ), InvalidFormat, "xz data"),
    "unsorted": (NarUpload.make(directory(b"b", b"a")), InvalidFormat, "NAR"),
    "named twice": (NarUpload.make(directory(b"a", b"a")), InvalidFormat, "NAR"),
    "out of the folder": (NarUpload.make(directory(b"..")), InvalidFormat, "NAR"),
    "bytes after the NAR": (NarUpload.make(SMALL + bytes(8)), InvalidFormat, "NAR"),
    "no NAR": (NarUpload.make(b"no NAR at all", Compression.ZSTD), InvalidFormat, "NAR"),
    "nothing": (NarUpload.of_file(b"", b"", Compression.XZ), InvalidFormat, "before it is complete"),
    "nothing without compression": (NarUpload.make(b"", Compression.NONE), InvalidFormat, "expected a NAR, gzip"),
    "nothing in it": (NarUpload.make(b""), InvalidFormat, "NAR"),
    "another compression": (NarUpload.of_file(XZ.data, BIG, Compression.ZSTD), InvalidFormat, "zstd data"),
    "lrzip": (NarUpload.of_file(b"LRZI" + bytes(99), b"", Compression.NONE), Unsupported, "expected one of none, gzip"),
    "lzma": (NarUpload.of_file(b"\x5d\0\0" + bytes(99), b"", Compression.NONE), Unsupported, "'lzma' is not read here"),
    "unknown": (NarUpload.of_file(b"what is this?", b"", Compression.NONE), InvalidFormat, "expected a NAR, gzip"),
    "over the limit": (NarUpload.make(nar_of(bytes(MAX_NAR_BYTES))), InvalidFormat, "make the NAR longer than"),
    "a bomb": (NarUpload.make(nar_of(bytes(80_000_000)), Compression.BZIP2), TooLarge, "expected at most"),
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_broken_file_is_refused_and_leaves_nothing(nix: StockNix, store: Store, reason: str) -> None:
    file, error, message = REFUSED[reason]
    for piece_bytes in (7_777, 10_000_000):
        with pytest.raises(error, match=message) as caught:
            await nix.put_nar(file, piece_bytes)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
        await assert_nothing_is_left(store)
    await nix.put_nar(XZ)
    await assert_stored(nix, XZ)


@pytest.mark.parametrize(
    "name",
    [
        "x.nar",
        f"{'0' * 51}.nar",
        f"{'0' * 53}.nar",
        f"{'e' * 52}.nar",
        f"{'0' * 52}",
        f"{'0' * 52}.nar.",
        f"{'0' * 52}.nar.XZ",
        f"{'0' * 52}.nar.verylongend",
        f"{'0' * 52}.nar.xz\n",
        f"z{'0' * 51}.nar",
    ],
)
async def test_file_that_is_not_named_as_nix_names_them_is_refused_unread(nix: StockNix, name: str) -> None:
    async def read() -> AsyncIterator[bytes]:
        yield b""
        pytest.fail("it was read")

    with pytest.raises(InvalidFormat):
        await nix.uploads.receive_nar(nix.cache, name, read(), token_id=None)


async def test_nar_with_more_store_hashes_than_a_recipe_holds_is_refused_before_they_fill_the_memory(
    nix: StockNix, store: Store
) -> None:
    """Each distinct one took some 200 bytes of memory, for as long as their number alone fitted a recipe."""
    contents = nar_of(b"".join(b"/nix/store/%032d-" % number for number in range(MAX_RECIPE_BYTES // 33 + 1)))
    with pytest.raises(TooLarge, match="too many for a recipe"):
        await nix.put_nar(NarUpload.make(contents, Compression.NONE), 1_000_000)
    await assert_nothing_is_left(store)


# Clients and disks that fail


async def test_body_that_breaks_off_leaves_nothing(nix: StockNix, store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for piece in in_pieces(XZ.data[:-100]):
            yield piece
        raise InvalidFormat("the body ended")

    with pytest.raises(InvalidFormat, match="the body ended"):
        await nix.uploads.receive_nar(nix.cache, XZ.name, broken(), token_id=None)
    await assert_nothing_is_left(store)
    await nix.put_nar(XZ)
    await assert_stored(nix, XZ)


async def test_client_that_stops_sending_leaves_nothing_when_it_is_given_up(nix: StockNix, store: Store) -> None:
    task = await begin(nix, XZ)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_nothing_is_left(store)


async def begin(nix: StockNix, file: NarUpload) -> asyncio.Task[None]:
    """A client that sends all but the end of a file and then nothing."""

    async def silent() -> AsyncIterator[bytes]:
        async for piece in in_pieces(file.data[:-100], 1024 * 1024):
            yield piece
        reached.set()
        await asyncio.Event().wait()

    reached = asyncio.Event()
    task = asyncio.create_task(nix.uploads.receive_nar(nix.cache, file.name, silent(), token_id=None))
    await reached.wait()
    return task


async def test_slow_clients_do_not_keep_others_waiting(nix: StockNix) -> None:
    """Four that sent nothing for minutes once kept everybody else out."""
    slow = [await begin(nix, XZ) for _ in range(8)]
    await nix.put_nar(XZ)
    await assert_stored(nix, XZ)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


class HookedBlobs(MemoryBlobStore):
    """Calls a hook in the worker thread before each write of each writer."""

    def __init__(self, before_write: Callable[[], None]) -> None:
        super().__init__()
        self.before_write = before_write

    def create(self) -> BlobWriter:  # type: ignore[override]  # what it gives is used as a `BlobWriter` only
        return HookedWriter(super().create(), self)


class HookedWriter:
    def __init__(self, writer: BlobWriter, blobs: HookedBlobs) -> None:
        self._writer = writer
        self._blobs = blobs

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._blobs.before_write()
        self._writer.write(data)

    def read_back(self, offset: int, size: int) -> bytes:
        return self._writer.read_back(offset, size)

    def commit(self, key: BlobKey) -> None:
        self._writer.commit(key)

    def abort(self) -> None:
        self._writer.abort()


async def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise OverQuota("the disk is full")

    blobs = HookedBlobs(fail)
    store = Store.open(tmp_path, blobs)
    nix = StockNix(store, await store.create_cache("main"))
    with pytest.raises(OverQuota):
        await nix.put_nar(XZ)
    await assert_nothing_is_left(store)
    blobs.before_write = lambda: None
    await nix.put_nar(XZ)
    await assert_stored(nix, XZ)
    await store.close()


@pytest.mark.parametrize("cancels", [1, 2, 5])
async def test_upload_that_is_cancelled_while_threads_work_leaves_nothing(tmp_path: Path, cancels: int) -> None:
    """Also if it is cancelled again while it tears down."""
    loop = asyncio.get_running_loop()
    is_writing, may_go_on = asyncio.Event(), threading.Event()

    def hold() -> None:
        loop.call_soon_threadsafe(is_writing.set)
        may_go_on.wait()

    blobs = HookedBlobs(hold)
    store = Store.open(tmp_path, blobs)
    nix = StockNix(store, await store.create_cache("main"))
    task = asyncio.create_task(nix.put_nar(XZ))
    await is_writing.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()  # the thread still uses what would be torn down
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_nothing_is_left(store)
    await nix.put_nar(XZ)
    await assert_stored(nix, XZ)
    await store.close()


async def test_database_that_stays_locked_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    Store.open(tmp_path).database.close()
    store = Store(Database.open(tmp_path / "icehouse.db", busy_timeout_seconds=0.01), MemoryBlobStore())
    nix = StockNix(store, await store.create_cache("main"))
    with contextlib.closing(connect(tmp_path / "icehouse.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await nix.put_nar(XZ)
    await assert_nothing_is_left(store)
    await nix.put_nar(XZ)
    await assert_stored(nix, XZ)
    await store.close()


async def test_upload_to_a_cache_that_was_deleted_meanwhile_is_not_found(nix: StockNix, store: Store) -> None:
    await store.database.write(lambda connection: delete_cache(connection, nix.cache.id))
    with pytest.raises(NotFound):
        await nix.put_nar(XZ)
    await assert_nothing_is_left(store)


async def test_uploads_go_with_their_cache(nix: StockNix, store: Store) -> None:
    await nix.put_nar(XZ)
    await store.database.write(lambda connection: delete_cache(connection, nix.cache.id))
    assert await store.count(upload) == 0


async def test_chunk_that_is_found_damaged_is_healed_by_the_next_upload(nix: StockNix, store: Store) -> None:
    await nix.put_nar(XZ)
    (key,) = store.keys("packs/")
    damaged = bytearray(store.read_blob(key))
    damaged[1_000_000] ^= 0xFF
    store.blobs.put(BlobKey(key), bytes(damaged))
    changed = NarUpload.make(nar_of(BIG), Compression.ZSTD)  # cut as BIG is, but for its first chunks
    with pytest.raises(Conflict, match="upload it again"):
        await nix.put_nar(changed)
    await nix.put_nar(changed)
    await assert_stored(nix, changed)
    await assert_stored(nix, XZ)
