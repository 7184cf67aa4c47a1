"""A collection killed at each of its steps: what can be pulled stays whole, and the next collection ends the work."""

import asyncio
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from backports.zstd import decompress
from blake3 import blake3
from sqlalchemy import select, update

from icehouse.api.collection import CollectionReport
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.schema import cache as cache_table
from icehouse.db.schema import pack, path
from icehouse.storage.blobs import BlobKey
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.nars import pack_key
from tests.services.publish_and_die import CACHE, COLLECTED_AT, find_cache, run_collection
from tests.services.publishing import Store, cut, nar_of

ROOT = Path(__file__).parents[2]
DAY = 86_400

KEPT, KEEPER, UNUSED, PURGED, DELETED, DROPPED = (
    f"{letter * 32}-{name}"
    for letter, name in zip("abcdfg", ("kept", "keeper", "unused", "purged", "deleted", "dropped"), strict=True)
)
SIZES = {KEPT: 150_000, KEEPER: 50_000, UNUSED: 60_000, PURGED: 70_000, DELETED: 80_000, DROPPED: 700_000}
CONTENTS = {name: nar_of(random.Random(size).randbytes(size)) for name, size in SIZES.items()}


def open_store(folder: Path) -> Store:
    return Store(Database.open(folder / "icehouse.db"), LocalBlobStore(folder / "blobs"))


async def make_template(template: Path) -> None:
    """A cache in which a collection hides, purges, condemns, deletes and compacts something, and finds a stray."""
    prepare_access_database(template / "access.db")
    store = Store.open(template, LocalBlobStore(template / "blobs"))
    cache = await store.create_cache(CACHE)
    await store.database.write(
        lambda connection: connection.execute(update(cache_table).values(keep_unused_seconds=30 * DAY)) and None
    )
    store.now = COLLECTED_AT - 100 * DAY
    await store.push(cache, (DELETED, CONTENTS[DELETED], []))
    store.now = COLLECTED_AT - 50 * DAY
    await asyncio.to_thread(run_collection, store, store.now)
    store.now = COLLECTED_AT - 35 * DAY
    await store.send_chunks(cache, [*cut(CONTENTS[KEPT]), *cut(CONTENTS[DROPPED])])  # in one pack
    await store.push(cache, (PURGED, CONTENTS[PURGED], []))
    await store.push(cache, (DROPPED, CONTENTS[DROPPED], []))
    store.now = COLLECTED_AT - 31 * DAY
    await store.push(cache, (UNUSED, CONTENTS[UNUSED], []))
    await hide(store, PURGED, DROPPED, at=COLLECTED_AT - 8 * DAY)
    store.now = COLLECTED_AT - 2 * DAY
    await store.push(cache, (KEPT, CONTENTS[KEPT], []))
    await store.push(cache, (KEEPER, CONTENTS[KEEPER], [KEEPER, KEPT]))
    store.now = COLLECTED_AT - 3 * DAY // 2
    await asyncio.to_thread(run_collection, store, store.now)
    key = BlobKey(f"packs/{cache.domain_id}/ab/{'ab' * 32}")
    store.blobs.put(key, b"left by a crash")
    os.utime(template / "blobs" / key, (COLLECTED_AT - 3 * DAY, COLLECTED_AT - 3 * DAY))
    await store.close()


async def hide(store: Store, *names: str, at: int) -> None:
    same = path.c.hash_part.in_([name[:32] for name in names])
    await store.database.write(
        lambda connection: connection.execute(update(path).where(same).values(hidden_at=at)) and None
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("to-collect")
    asyncio.run(make_template(folder))
    return folder


@pytest.fixture(scope="module")
def folders(template: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is left of a data folder whose collection was killed at the first step, at the second, and so on."""
    target = tmp_path_factory.mktemp("killed-collecting")
    command = [sys.executable, "-m", "tests.services.publish_and_die", "collect", "1", template, target]
    subprocess.run(command, check=True, cwd=ROOT)
    return sorted(target.iterdir(), key=lambda folder: int(folder.name))


def test_the_collection_does_something_of_each_kind(template: Path) -> None:
    store = open_store(template)
    report = run_collection(store, is_dry_run=True)
    asyncio.run(store.close())
    (mark,), (sweep,) = report.marks, report.sweeps
    assert [hidden.store_path for hidden in mark.hidden] == [UNUSED]
    assert (sweep.purged_paths, sweep.purged_nars, sweep.condemned_packs, sweep.deleted_packs) == (2, 2, 1, 1)
    assert (sweep.compacted_packs, sweep.deleted_strays) == (1, 1)


async def restorable(store: Store) -> list[str]:
    """All paths that are visible or can come back, each of which was downloaded and is whole."""
    cache = await find_cache(store)
    rows = await store.database.read(lambda connection: connection.execute(select(path.c.hash_part, path.c.name)).all())
    names = sorted(f"{row.hash_part}-{row.name}" for row in rows)
    for name in names:
        assert decompress(await store.download(cache, CONTENTS[name])) == CONTENTS[name]
    return names


async def assert_rows_have_their_bytes(store: Store) -> None:
    packs = await store.database.read(
        lambda connection: connection.execute(select(pack.c.domain_id, pack.c.name, pack.c.size_bytes)).all()
    )
    for domain_id, name, size_bytes in packs:
        data = store.read_blob(pack_key(domain_id, name))
        assert (blake3(data).digest(), len(data)) == (name, size_bytes)


async def test_a_death_loses_nothing_and_the_next_collection_ends_the_work(folders: list[Path]) -> None:
    assert len(folders) > 40
    seen: list[int] = []
    for folder in folders:
        store = open_store(folder)
        try:
            names = await restorable(store)
            seen.append(len(names))
            assert {KEPT, KEEPER, UNUSED} <= set(names)
            await assert_rows_have_their_bytes(store)
            await asyncio.to_thread(run_collection, store)
            assert await restorable(store) == [KEPT, KEEPER, UNUSED]
            await assert_rows_have_their_bytes(store)
            assert_nothing_is_left_to_do(await asyncio.to_thread(partial(run_collection, store, is_dry_run=True)))
            later = COLLECTED_AT + 2 * DAY
            await asyncio.to_thread(run_collection, store, later)
            await asyncio.to_thread(run_collection, store, later + 2 * DAY)
            assert await restorable(store) == [KEPT, KEEPER, UNUSED]
            known = {pack_key(1, name) for name in await names_of_packs(store)}
            # An object that was written just before the death is young: its file has the time of this test.
            assert known <= set(store.keys("packs/"))
        except AssertionError as exc:
            exc.add_note(f"killed at step {folder.name}")
            raise
        finally:
            await store.close()
    assert list(dict.fromkeys(seen)) == [5, 3]


async def names_of_packs(store: Store) -> list[bytes]:
    return list(await store.database.read(lambda connection: connection.execute(select(pack.c.name)).scalars().all()))


def assert_nothing_is_left_to_do(report: CollectionReport) -> None:
    (mark,), (sweep,) = report.marks, report.sweeps
    assert mark.hidden == []
    assert (sweep.purged_paths, sweep.purged_nars, sweep.condemned_packs, sweep.deleted_packs) == (0, 0, 0, 0)
    assert (sweep.compacted_packs, sweep.deleted_strays, sweep.lifted_packs) == (0, 0, 0)
