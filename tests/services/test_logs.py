"""Build logs: what is stored, what a broken or a second upload leaves, and what comes back."""

import asyncio
import bz2
import gzip
import lzma
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backports.zstd import compress, decompress
from blake3 import blake3

from icehouse.db.caches import CacheRow, delete_cache
from icehouse.db.schema import build_log
from icehouse.errors import Corrupt, InvalidFormat, NotFound, TooLarge
from icehouse.nix.compression import Compression
from icehouse.nix.derivations import parse_derivation
from icehouse.services.logs import MAX_LOG_BYTES, Logs, TextLog, ZstdLog
from icehouse.storage.blobs import BlobKey
from tests.services.publishing import NOW, Store, in_pieces

DERIVATION = parse_derivation(f"{'a' * 32}-hello.drv")
OTHER = parse_derivation(f"{'b' * 32}-other.drv")
TEXT = b"".join(b"line %d: %s\n" % (n, random.Random(n).randbytes(20).hex().encode()) for n in range(60_000))
"""Over 2 MiB, so that it comes in several batches and goes in several blocks."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    return await store.create_cache("main")


@pytest.fixture
def logs(store: Store) -> Logs:
    return Logs(store.database, store.blobs, store.workers, lambda: NOW)


async def put(logs: Logs, cache: CacheRow, text: bytes, piece_bytes: int = 65_536) -> None:
    await logs.receive_log(cache, DERIVATION, in_pieces(text, piece_bytes), token_id=None)


async def read(file: TextLog | ZstdLog, start: int = 0, stop: int | None = None) -> bytes:
    blocks = [bytes(block) async for block in file.blocks(start, file.file_size if stop is None else stop)]
    assert all(0 < len(block) <= 1024 * 1024 for block in blocks)
    return b"".join(blocks)


@pytest.mark.parametrize("text", [b"", b"x", b"\0\xff\n", TEXT], ids=["empty", "one", "binary", "long"])
async def test_a_log_comes_back_in_both_forms(logs: Logs, cache: CacheRow, text: bytes) -> None:
    await put(logs, cache, text)
    log = await logs.open_log(cache, DERIVATION)
    plain, packed = log.as_text(), log.as_zstd()
    assert plain.file_size == len(text)
    assert await read(plain) == text
    assert decompress(await read(packed)) == text


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 900), (1_048_576, 1_048_577), (1_500_000, 2_200_000)])
async def test_any_part_of_a_log_can_be_read(logs: Logs, cache: CacheRow, start: int, stop: int) -> None:
    await put(logs, cache, TEXT)
    log = await logs.open_log(cache, DERIVATION)
    assert await read(log.as_text(), start, stop) == TEXT[start:stop]


async def test_a_log_is_one_object_named_by_its_bytes(logs: Logs, store: Store, cache: CacheRow) -> None:
    await put(logs, cache, TEXT)
    (key,) = store.keys()
    name = blake3(store.read_blob(key)).hexdigest()
    assert key == f"logs/{cache.domain_id}/{name[:2]}/{name}"


async def test_the_same_log_in_other_pieces_changes_nothing(logs: Logs, store: Store, cache: CacheRow) -> None:
    await put(logs, cache, TEXT)
    before = store.keys()
    await put(logs, cache, TEXT, 777)
    await asyncio.gather(*(put(logs, cache, TEXT, 60_000 + n) for n in range(6)))
    assert store.keys() == before
    assert await store.count(build_log) == 1


async def test_another_log_of_a_derivation_takes_its_place(logs: Logs, store: Store, cache: CacheRow) -> None:
    await put(logs, cache, b"first")
    await put(logs, cache, b"second")
    assert await read((await logs.open_log(cache, DERIVATION)).as_text()) == b"second"
    assert await store.count(build_log) == 1
    assert len(store.keys()) == 2  # the first is a stray


async def test_logs_of_other_derivations_and_caches_are_not_there(logs: Logs, store: Store, cache: CacheRow) -> None:
    await put(logs, cache, TEXT)
    with pytest.raises(NotFound):
        await logs.open_log(cache, OTHER)
    with pytest.raises(NotFound):
        await logs.open_log(await store.create_cache("other"), DERIVATION)


async def test_a_body_that_breaks_off_leaves_nothing(logs: Logs, store: Store, cache: CacheRow) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for piece in in_pieces(TEXT):
            yield piece
        raise InvalidFormat("the body ended")

    with pytest.raises(InvalidFormat):
        await logs.receive_log(cache, DERIVATION, broken(), token_id=None)
    assert store.keys() == []
    assert await store.count(build_log) == 0


async def test_a_client_that_stops_sending_leaves_nothing(logs: Logs, store: Store, cache: CacheRow) -> None:
    async def silent() -> AsyncIterator[bytes]:
        async for piece in in_pieces(TEXT):
            yield piece
        reached.set()
        await asyncio.Event().wait()

    reached = asyncio.Event()
    task = asyncio.create_task(logs.receive_log(cache, DERIVATION, silent(), token_id=None))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.keys() == []
    await put(logs, cache, TEXT)


async def test_a_log_for_a_cache_that_was_deleted_meanwhile_is_refused(
    logs: Logs, store: Store, cache: CacheRow
) -> None:
    await store.database.write(lambda connection: delete_cache(connection, cache.id))
    with pytest.raises(NotFound):
        await put(logs, cache, TEXT)


async def test_logs_go_with_their_cache(logs: Logs, store: Store, cache: CacheRow) -> None:
    await put(logs, cache, TEXT)
    await store.database.write(lambda connection: delete_cache(connection, cache.id))
    assert await store.count(build_log) == 0


COMPRESSED = {
    Compression.GZIP: gzip.compress(TEXT),
    Compression.BZIP2: bz2.compress(TEXT),
    Compression.XZ: lzma.compress(TEXT),
    Compression.ZSTD: compress(TEXT),
}


@pytest.mark.parametrize("compression", COMPRESSED)
async def test_a_log_may_come_compressed(logs: Logs, store: Store, cache: CacheRow, compression: Compression) -> None:
    await put(logs, cache, TEXT)
    before = store.keys()
    body = in_pieces(COMPRESSED[compression], 50_000)
    await logs.receive_log(cache, DERIVATION, body, compression=compression, token_id=None)
    assert store.keys() == before
    assert await read((await logs.open_log(cache, DERIVATION)).as_text()) == TEXT


@pytest.mark.parametrize("compression", COMPRESSED)
async def test_a_compressed_log_that_is_cut_leaves_nothing(
    logs: Logs, store: Store, cache: CacheRow, compression: Compression
) -> None:
    body = in_pieces(COMPRESSED[compression][:-20])
    with pytest.raises(InvalidFormat):
        await logs.receive_log(cache, DERIVATION, body, compression=compression, token_id=None)
    assert store.keys() == []


async def test_a_compressed_log_that_is_too_long_leaves_nothing(logs: Logs, store: Store, cache: CacheRow) -> None:
    body = in_pieces(compress(bytes(MAX_LOG_BYTES + 1)))
    with pytest.raises(TooLarge):
        await logs.receive_log(cache, DERIVATION, body, compression=Compression.ZSTD, token_id=None)
    assert store.keys() == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "other"])
async def test_a_damaged_object_is_told(logs: Logs, store: Store, cache: CacheRow, damage: str) -> None:
    await put(logs, cache, b"other text")
    (other,) = store.keys()
    replacement = store.read_blob(other)
    await put(logs, cache, TEXT)
    (key,) = set(store.keys()) - {other}
    data = bytearray(store.read_blob(key))
    match damage:
        case "flipped":
            data[len(data) // 2] ^= 0xFF
        case "cut":
            del data[len(data) // 2 :]
        case _:
            data[: len(replacement)] = replacement
    store.blobs.put(BlobKey(key), bytes(data))
    log = await logs.open_log(cache, DERIVATION)
    with pytest.raises(Corrupt):
        await read(log.as_text())
