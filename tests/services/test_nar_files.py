from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from backports import zstd

from icehouse.errors import NotFound
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


@pytest.mark.parametrize(("nar", "is_small"), [(SMALL, True), (SHORT, False), (LONG, False)])
async def test_a_small_nar_comes_whole(store: Store, nar: bytes, *, is_small: bool) -> None:
    cache = await store.create_cache("main")
    await store.push(cache, (HELLO, nar, []))
    whole = store.nar_files.read_small(1)
    assert (None if whole is None else zstd.decompress(whole)) == (nar if is_small else None)
    with pytest.raises(NotFound, match="there is no NAR 7"):
        store.nar_files.read_small(7)
