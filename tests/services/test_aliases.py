"""NARs under the names of their uploads: each decodes to the NAR, and any part of it is the part of the whole."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from icehouse.db.schema import chunk, nar, path
from icehouse.errors import Corrupt, NotFound
from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.stored import has_stored_form
from icehouse.services.aliases import RecompressedAlias, StoredAlias
from icehouse.storage.nars import NarFile
from tests.services.publishing import Store, nar_of
from tests.services.uploading import NarUpload, StockNix

LIB = f"{'a' * 32}-lib"
CONTENTS = nar_of(random.Random(1).randbytes(1_600_000) + f"/nix/store/{LIB}/lib ".encode() * 90 + b"text " * 200_000)
SMALL = nar_of(b"x")
STORED = [compression for compression in Compression if has_stored_form(compression)]
RECOMPRESSED = [Compression.BZIP2, Compression.LZIP]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def nix(store: Store) -> StockNix:
    return StockNix(store, await store.create_cache("main"))


async def open_alias(nix: StockNix, file: NarUpload) -> NarFile | StoredAlias | RecompressedAlias:
    found = await nix.aliases.find(nix.cache, file.name)
    assert found is not None
    return await nix.aliases.open(found)


async def read_all(file: NarFile | StoredAlias | RecompressedAlias) -> bytes:
    blocks = file.blocks() if isinstance(file, RecompressedAlias) else file.blocks(0, file.file_size)
    return b"".join([bytes(block) async for block in blocks])


async def read_part(file: NarFile | StoredAlias, start: int, stop: int) -> bytes:
    blocks = [bytes(block) async for block in file.blocks(start, stop)]
    assert all(0 < len(block) < 3 * 1024 * 1024 for block in blocks)
    return b"".join(blocks)


def decode(data: bytes, compression: Compression) -> bytes:
    decompressor = Decompressor(compression, max_bytes=10_000_000)
    decoded = b"".join(decompressor.feed(data))
    decompressor.finish()
    return decoded


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("contents", [SMALL, CONTENTS], ids=["small", "big"])
async def test_alias_decodes_to_the_nar_in_the_compression_of_its_name(
    nix: StockNix, compression: Compression, contents: bytes
) -> None:
    file = NarUpload.make(contents, compression)
    await nix.put_nar(file)
    alias = await open_alias(nix, file)
    data = await read_all(alias)
    assert decode(data, compression) == contents
    if not isinstance(alias, RecompressedAlias):
        assert len(data) == alias.file_size


async def test_alias_in_zstd_is_the_file_of_the_nars_own_url(nix: StockNix, store: Store) -> None:
    file = NarUpload.make(CONTENTS, Compression.ZSTD)
    await nix.put_nar(file)
    data = await read_all(await open_alias(nix, file))
    assert data == await store.download(nix.cache, CONTENTS)
    found = await nix.aliases.find(nix.cache, file.name)
    assert found is not None
    assert found.stored_hash == hashlib.sha256(data).digest()


async def test_every_alias_of_a_nar_is_there(nix: StockNix) -> None:
    files = [NarUpload.make(CONTENTS, compression) for compression in Compression]
    for file in files:
        await nix.put_nar(file)
    assert [decode(await read_all(await open_alias(nix, file)), file.compression) for file in files] == [
        CONTENTS
    ] * len(files)


@pytest.mark.parametrize("compression", [*STORED, Compression.ZSTD])
async def test_every_range_of_a_small_file_is_its_slice(nix: StockNix, compression: Compression) -> None:
    file = NarUpload.make(SMALL, compression)
    await nix.put_nar(file)
    alias = await open_alias(nix, file)
    assert not isinstance(alias, RecompressedAlias)
    whole = await read_all(alias)
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            assert await read_part(alias, start, stop) == whole[start:stop]


@pytest.mark.parametrize("compression", [*STORED, Compression.ZSTD])
async def test_ranges_of_a_big_file_are_its_slices(nix: StockNix, compression: Compression) -> None:
    file = NarUpload.make(CONTENTS, compression)
    await nix.put_nar(file)
    alias = await open_alias(nix, file)
    assert not isinstance(alias, RecompressedAlias)
    whole = await read_all(alias)
    chosen = random.Random(compression.value)
    cuts = sorted({0, 1, 65_535, 65_536, 65_600, 1_048_576, len(whole), *chosen.sample(range(len(whole)), 20)})
    for start, stop in [*pairwise(cuts), *((cut, len(whole)) for cut in cuts)]:
        assert await read_part(alias, start, stop) == whole[start:stop]


async def test_upload_of_another_cache_is_not_found(nix: StockNix, store: Store) -> None:
    file = NarUpload.make(SMALL)
    await nix.put_nar(file)
    assert await nix.aliases.find(await store.create_cache("other"), file.name) is None
    assert await nix.aliases.find(nix.cache, file.name + "x") is None


async def test_alias_is_staged_until_a_path_of_the_cache_has_its_nar(nix: StockNix, store: Store) -> None:
    file = NarUpload.make(SMALL)
    await nix.put_nar(file)
    other = StockNix(store, await store.create_cache("other"))
    await other.push(LIB, SMALL)
    found = await nix.aliases.find(nix.cache, file.name)
    assert found is not None
    assert found.path_id is None
    await nix.put_narinfo(file.narinfo(LIB))
    staged, found = found, await nix.aliases.find(nix.cache, file.name)
    assert found is not None
    assert found.path_id is not None
    assert found == replace(staged, path_id=found.path_id)
    await store.database.write(lambda connection: connection.execute(update(path).values(hidden_at=1)).close())
    assert await nix.aliases.find(nix.cache, file.name) == found
    assert not store.uses
    await nix.aliases.open(found)
    assert store.uses == [(found.path_id, store.now)]


@pytest.mark.parametrize("compression", [Compression.XZ, Compression.ZSTD, Compression.BZIP2])
async def test_alias_whose_nar_was_removed_is_not_found(nix: StockNix, store: Store, compression: Compression) -> None:
    file = NarUpload.make(SMALL, compression)
    await nix.put_nar(file)
    found = await nix.aliases.find(nix.cache, file.name)
    assert found is not None
    await store.database.write(lambda connection: connection.execute(delete(nar)).close())
    assert await nix.aliases.find(nix.cache, file.name) is None
    with pytest.raises(NotFound):
        await nix.aliases.open(found)


@pytest.mark.parametrize("compression", [Compression.XZ, Compression.NONE, Compression.BZIP2])
async def test_damage_is_told_and_nothing_wrong_is_given(nix: StockNix, store: Store, compression: Compression) -> None:
    file = NarUpload.make(CONTENTS, compression)
    await nix.put_nar(file)
    await store.database.write(
        lambda connection: connection.execute(update(chunk).values(pack_offset=chunk.c.pack_offset + 1)).close()
    )
    alias = await open_alias(nix, file)
    with pytest.raises(Corrupt):
        await read_all(alias)


@pytest.mark.parametrize("compression", [Compression.XZ, *RECOMPRESSED])
async def test_reader_that_leaves_stops_the_reading(nix: StockNix, compression: Compression) -> None:
    file = NarUpload.make(CONTENTS, compression)
    await nix.put_nar(file)
    for _ in range(4):
        alias = await open_alias(nix, file)
        blocks = alias.blocks() if isinstance(alias, RecompressedAlias) else alias.blocks(0, alias.file_size)
        await anext(blocks)
        await blocks.aclose()  # type: ignore[attr-defined]  # an async generator
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.cancelling()] == []


@pytest.mark.parametrize("compression", RECOMPRESSED)
async def test_many_may_have_a_nar_compressed_for_them_at_once(nix: StockNix, compression: Compression) -> None:
    file = NarUpload.make(CONTENTS, compression)
    await nix.put_nar(file)
    aliases = [await open_alias(nix, file) for _ in range(5)]
    answers = await asyncio.gather(*(read_all(alias) for alias in aliases))
    assert decode(answers[0], compression) == CONTENTS
    assert set(answers) == {answers[0]}
