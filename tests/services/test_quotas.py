"""Limits of caches, as whoever pushes meets them."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from icehouse.db.cache_settings import load_settings, set_settings
from icehouse.db.caches import CacheRow
from icehouse.errors import OverQuota
from icehouse.nix import nix32
from icehouse.rules.quotas import CacheSettings
from icehouse.services.nar_uploads import NarUploads
from tests.services.publishing import Store, nar_of

ABC = [f"{letter * 32}-{letter}" for letter in "abc"]


def contents(seed: int) -> bytes:
    return nar_of(random.Random(seed).randbytes(100_000))


class Limited:
    """A store with a cache that has settings."""

    def __init__(self, store: Store, cache: CacheRow) -> None:
        self.store = store
        self.cache = cache

    async def configure(self, settings: CacheSettings) -> None:
        await self.store.database.write(lambda connection: set_settings(connection, self.cache.id, settings))

    async def stored_bytes(self) -> int:
        return (await self.store.database.read(lambda connection: load_settings(connection, self.cache.id)))[1]

    async def push(self, number: int) -> None:
        await self.store.push(self.cache, (ABC[number], contents(number), []))


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Limited]:
    store = Store.open(tmp_path)
    yield Limited(store, await store.create_cache("main"))
    await store.close()


async def never() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


async def test_cache_grows_by_the_frames_of_what_was_new(limited: Limited) -> None:
    await limited.push(0)
    first = await limited.stored_bytes()
    assert 100_000 < first < 101_000
    await limited.store.push(limited.cache, (ABC[1], contents(0), []))
    assert await limited.stored_bytes() == first


async def test_push_to_a_cache_at_its_limit_is_refused_before_the_body_is_read(limited: Limited) -> None:
    await limited.configure(CacheSettings(limit_bytes=100_000))
    await limited.push(0)
    with pytest.raises(OverQuota, match=r"limit is 97\.7 KiB"):
        await limited.store.packs.receive_pack(limited.cache, never())
    store = limited.store
    uploads = NarUploads(
        store.database, store.blobs, store.workers, store.nars, lambda: store.now, zstd_level=3, max_nar_bytes=1 << 30
    )
    with pytest.raises(OverQuota):
        await uploads.receive_nar(limited.cache, f"{nix32.encode(bytes(32))}.nar", never(), token_id=None)
    await limited.configure(CacheSettings(limit_bytes=200_000))
    await limited.push(1)


async def test_log_warns_once_when_a_cache_becomes_nearly_full(limited: Limited) -> None:
    await limited.configure(CacheSettings(limit_bytes=230_000))
    with structlog.testing.capture_logs() as logs:
        await limited.push(0)
        assert logs == []
        await limited.push(1)
        await limited.push(2)
    assert [(entry["log_level"], entry["cache"]) for entry in logs] == [("warning", "main")]
    assert "% of the limit of 224.6 KiB" in logs[0]["size"]
