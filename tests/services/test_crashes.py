"""A server killed at each step of publishing: afterwards all that is visible is whole, and a repeated push succeeds."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backports.zstd import decompress
from blake3 import blake3
from sqlalchemy import select

from icehouse.db.engine import Database
from icehouse.db.paths import PathRow, load_paths
from icehouse.db.schema import chunk, nar, pack, path, upload, waiting_path
from icehouse.nix import nix32
from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.store_paths import HashPart
from icehouse.rules.journal import parse_journal_entry
from icehouse.services.aliases import RecompressedAlias
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.nars import pack_key
from tests.services.publish_and_die import (
    APP,
    APP_NAR,
    CACHE,
    LIB,
    LIB_NAR,
    copy_both,
    find_cache,
    heal_both,
    publish_both,
)
from tests.services.publishing import Store, cut, identity_of
from tests.services.uploading import StockNix

ROOT = Path(__file__).parents[2]
DISTINCT_CHUNKS = {identity_of(piece) for contents in (LIB_NAR, APP_NAR) for piece in cut(contents)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is left of a data folder whose server was killed at the first step, at the second, and so on."""
    template, target = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("killed")
    asyncio.run(make_template(template, is_published=False))
    return kill_at_steps("publish", 1, template, target)


@pytest.fixture(scope="module")
def damaged_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same for a server that heals a folder with one pack cut off and the other one gone, at every third step."""
    template, target = tmp_path_factory.mktemp("damaged"), tmp_path_factory.mktemp("killed-healing")
    asyncio.run(make_template(template, is_published=True))
    first, second = (template / "blobs" / "packs").rglob("*/*/*")
    os.truncate(first, first.stat().st_size // 2)
    second.unlink()
    return kill_at_steps("heal", 3, template, target)


@pytest.fixture(scope="module")
def copied_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same for a server to which stock Nix copies both paths."""
    template, target = tmp_path_factory.mktemp("to-copy-to"), tmp_path_factory.mktemp("killed-copying")
    asyncio.run(make_template(template, is_published=False))
    return kill_at_steps("copy", 1, template, target)


async def make_template(template: Path, *, is_published: bool) -> None:
    store = Store.open(template, LocalBlobStore(template / "blobs"))
    await store.create_cache(CACHE)
    if is_published:
        await publish_both(store)
    await store.close()


def kill_at_steps(job: str, stride: int, template: Path, target: Path) -> list[Path]:
    command = [sys.executable, "-m", "tests.services.publish_and_die", job, str(stride), template, target]
    subprocess.run(command, check=True, cwd=ROOT)
    return sorted(target.iterdir(), key=lambda folder: int(folder.name))


def open_store(folder: Path) -> Store:
    return Store(Database.open(folder / "icehouse.db"), LocalBlobStore(folder / "blobs"))


async def load_visible(store: Store) -> dict[HashPart, PathRow]:
    cache = await find_cache(store)
    hash_parts = [HashPart(base_name[:32]) for base_name in (LIB, APP)]
    rows = await store.database.read(lambda connection: load_paths(connection, cache.id, hash_parts))
    assert len(rows) == await store.count(path)
    return rows


async def assert_visible_paths_are_whole(store: Store) -> int:
    """Each has its references, downloads with the right hashes, and is in the journal; gives their number."""
    cache = await find_cache(store)
    rows = await load_visible(store)
    told = {
        (each.store_path, each.nar_hash)
        for key in store.keys("journal/")
        for each in parse_journal_entry(store.read_blob(key)).paths
    }
    for row in rows.values():
        assert {reference.hash_part for reference in row.references} <= rows.keys()
        contents = LIB_NAR if row.store_path.base_name == LIB else APP_NAR
        file = await store.download(cache, contents)
        assert decompress(file) == contents
        assert row.nar_hash == hashlib.sha256(contents).digest()
        assert (row.file_hash, row.file_size) == (nix32.encode(hashlib.sha256(file).digest()), len(file))
        assert (row.store_path.base_name, row.nar_hash) in told
    return len(rows)


async def assert_rows_have_their_bytes(store: Store) -> None:
    names = await store.database.read(
        lambda connection: connection.execute(select(pack.c.domain_id, pack.c.name, pack.c.size_bytes)).all()
    )
    for domain_id, name, size_bytes in names:
        data = store.read_blob(pack_key(domain_id, name))
        assert (blake3(data).digest(), len(data)) == (name, size_bytes)


async def assert_all_is_there_once(store: Store) -> None:
    assert await store.count(chunk) == len(DISTINCT_CHUNKS)
    assert await store.count(nar) == await store.count(path) == 2
    assert len(store.keys("packs/")) == await store.count(pack) == 2


def test_the_steps_are_those_of_a_whole_publish(folders: list[Path]) -> None:
    names = [(folder / "step").read_text() for folder in folders[:-1]]
    assert not (folders[-1] / "step").exists()
    assert names.count("after commit") == names.count("after put journal") == 2
    assert names.count("before the commit of a write") == names.count("after a write") == 6
    assert "after read_into" in names


async def test_what_is_visible_after_a_death_is_whole_and_the_push_can_be_repeated(folders: list[Path]) -> None:
    seen: list[int] = []
    for folder in folders:
        store = open_store(folder)
        try:
            seen.append(await assert_visible_paths_are_whole(store))
            await assert_rows_have_their_bytes(store)
            unfinished = store.keys("unfinished/")
            assert len(unfinished) <= 1

            await publish_both(store)
            assert await assert_visible_paths_are_whole(store) == 2
            await assert_rows_have_their_bytes(store)
            await assert_all_is_there_once(store)
            assert store.keys("unfinished/") == unfinished
            # At most the one object that was written just before the death tells of what happened later.
            assert 2 <= len(store.keys("journal/")) <= 3
        except AssertionError as exc:
            exc.add_note(f"killed at step {folder.name}")
            raise
        finally:
            await store.close()
    # Every state was met, in this order.
    assert list(dict.fromkeys(seen)) == [0, 1, 2]


async def test_healing_can_be_repeated_after_a_death(damaged_folders: list[Path]) -> None:
    assert len(damaged_folders) > 10
    for folder in damaged_folders:
        store = open_store(folder)
        try:
            await heal_both(store)
            assert await assert_visible_paths_are_whole(store) == 2
            assert await store.count(chunk) == len(DISTINCT_CHUNKS)
            assert await store.count(nar) == 2
        except AssertionError as exc:
            exc.add_note(f"killed at step {folder.name}")
            raise
        finally:
            await store.close()


def test_the_steps_are_those_of_a_whole_copy(copied_folders: list[Path]) -> None:
    names = [(folder / "step").read_text() for folder in copied_folders[:-1]]
    assert not (copied_folders[-1] / "step").exists()
    assert names.count("after commit") == 2
    # For each NAR: the pack's chunks, the NAR, the upload. Then a path that waits, and two that become visible.
    assert names.count("before the commit of a write") == names.count("after a write") == 8
    assert names.count("after put journal") == 1
    assert "after read_into" in names


async def assert_aliases_are_whole(store: Store) -> int:
    """Each upload decodes to its NAR, and may be had once a path has that; gives their number."""
    nix = StockNix(store, await find_cache(store))
    names = await store.database.read(lambda connection: connection.execute(select(upload.c.file_name)).scalars().all())
    for name in names:
        found = await nix.aliases.find(nix.cache, name)
        assert found is not None
        assert (found.path_id is not None) is (await store.count(path) > 0)
        contents = {hashlib.sha256(each).digest(): each for each in (LIB_NAR, APP_NAR)}[found.nar_hash]
        file = await nix.aliases.open(found)
        assert not isinstance(file, RecompressedAlias)
        decompressor = Decompressor(Compression(found.file.compression), max_bytes=len(contents))
        data = b"".join([bytes(block) async for block in file.blocks(0, file.file_size)])
        assert b"".join(decompressor.feed(data)) == contents
        decompressor.finish()
    return len(names)


async def test_what_is_visible_after_a_death_is_whole_and_the_copy_can_be_repeated(copied_folders: list[Path]) -> None:
    seen: list[tuple[int, int, int]] = []
    for folder in copied_folders:
        store = open_store(folder)
        try:
            visible = await assert_visible_paths_are_whole(store)
            seen.append((await assert_aliases_are_whole(store), await store.count(waiting_path), visible))
            await assert_rows_have_their_bytes(store)
            unfinished = store.keys("unfinished/")
            assert len(unfinished) <= 1

            await copy_both(store)
            assert await assert_visible_paths_are_whole(store) == await assert_aliases_are_whole(store) == 2
            assert await store.count(waiting_path) == 0
            await assert_rows_have_their_bytes(store)
            await assert_all_is_there_once(store)
            assert store.keys("unfinished/") == unfinished
            assert 1 <= len(store.keys("journal/")) <= 2
        except AssertionError as exc:
            exc.add_note(f"killed at step {folder.name}")
            raise
        finally:
            await store.close()
    # Uploads, paths that wait, and visible ones: every state was met, in this order, and no other.
    assert list(dict.fromkeys(seen)) == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 0, 2)]
