from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from backports import zstd
from sqlalchemy import delete, update

from icehouse.db.schema import chunk, recipe
from icehouse.errors import NotFound
from icehouse.services import nar_files
from icehouse.services.nar_files import NarFiles
from tests.rules.samples import noise
from tests.services.publishing import Store, nar_of

HELLO = f"{'1' * 32}-hello"
SMALL = nar_of(f"/nix/store/{HELLO}/bin".encode() + noise("small", 20_000))
SHORT = nar_of(f"/nix/store/{HELLO}/bin".encode() + noise("short", 2_000_000))
LONG = nar_of(noise("long", 30_000_000))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    store = Store.open(tmp_path)
    yield store
    await store.close()


@pytest.mark.parametrize("nar", [SHORT, LONG], ids=["read at once", "read in a thread"])
async def test_stored_nar_is_opened_as_its_file_and_as_its_contents(store: Store, nar: bytes) -> None:
    cache = await store.create_cache("main")
    await store.push(cache, (HELLO, nar, []))
    file = await store.nar_files.open_nar(1)
    assert zstd.decompress(b"".join([bytes(block) async for block in file.blocks(0, file.file_size)])) == nar
    contents = await store.nar_files.open_contents(1)
    assert contents.nar_size == len(nar)
    assert b"".join([block async for block in contents.blocks(0, len(nar))]) == nar


async def test_nar_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="there is no NAR 7"):
        await store.nar_files.open_contents(7)


async def test_long_nar_is_laid_out_once_until_the_database_changes(store: Store) -> None:
    cache = await store.create_cache("main")
    await store.push(cache, (HELLO, LONG, []))
    file = await store.nar_files.open_nar(1)
    assert await store.nar_files.open_nar(1) is file
    await store.database.write(lambda connection: connection.execute(update(chunk).values(pack_offset=0)))
    moved = await store.nar_files.open_nar(1)
    assert moved is not file
    assert [bytes(block) async for block in moved.blocks(0, 100)] == [
        bytes(block) async for block in file.blocks(0, 100)
    ]
    assert moved.read(8_000_000, 8_000_100) != file.read(8_000_000, 8_000_100)
    await store.database.write(lambda connection: connection.execute(delete(recipe)))
    with pytest.raises(NotFound, match="there is no NAR 1"):
        await store.nar_files.open_nar(1)


async def test_what_changes_while_a_nar_is_laid_out_is_not_missed(store: Store) -> None:
    cache = await store.create_cache("main")
    await store.push(cache, (HELLO, LONG, []))
    opening = asyncio.create_task(store.nar_files.open_nar(1))
    await asyncio.sleep(0)
    await store.database.write(lambda connection: connection.execute(update(chunk).values(pack_offset=0)))
    await opening
    fresh = await NarFiles(store.database, store.reader, store.blobs).open_nar(1)
    assert (await store.nar_files.open_nar(1)).read(8_000_000, 8_000_100) == fresh.read(8_000_000, 8_000_100)


async def test_layout_that_was_kept_longest_goes_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = await store.create_cache("main")
    for number in range(3):
        await store.push(cache, (f"{number + 2}" * 32 + "-long", nar_of(noise(f"long {number}", 30_000_000)), []))
    files = [await store.nar_files.open_nar(number) for number in (1, 2, 3)]
    monkeypatch.setattr(nar_files, "_KEPT_BYTES", files[1].layout_bytes + files[2].layout_bytes)
    other = NarFiles(store.database, store.reader, store.blobs)
    first, second, third = [await other.open_nar(number) for number in (1, 2, 3)]
    assert await other.open_nar(2) is second
    assert await other.open_nar(3) is third
    assert await other.open_nar(1) is not first


@pytest.mark.parametrize(("nar", "is_small"), [(SMALL, True), (SHORT, False), (LONG, False)])
async def test_a_small_nar_comes_whole(store: Store, nar: bytes, *, is_small: bool) -> None:
    cache = await store.create_cache("main")
    await store.push(cache, (HELLO, nar, []))
    whole = store.nar_files.read_small(1)
    assert (None if whole is None else zstd.decompress(whole)) == (nar if is_small else None)
    with pytest.raises(NotFound, match="there is no NAR 7"):
        store.nar_files.read_small(7)
