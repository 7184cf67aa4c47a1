"""Closures in the database: walked through, measured, and remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from icehouse.db.caches import CacheRow
from icehouse.db.schema import path
from icehouse.errors import NotFound
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Actor
from icehouse.services.closure_sizes import ClosureSizes
from icehouse.services.trash import Trash
from tests.services.publishing import Store, nar_of

LIBC, SSL, APP, TOOL = (
    f"{letter * 32}-{name}" for letter, name in zip("abcd", ("libc", "ssl", "app", "tool"), strict=True)
)


def part(base_name: str) -> HashPart:
    return HashPart(base_name[:32])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store.open(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    cache = await store.create_cache("main")
    await store.push(cache, (LIBC, nar_of(b"c" * 3_000), [LIBC]))
    await store.push(cache, (SSL, nar_of(b"s" * 2_000), [LIBC]))
    await store.push(cache, (APP, nar_of(b"a" * 100), [LIBC, SSL]))
    return cache


async def test_closure_tells_what_goes_with_each_path(store: Store, cache: CacheRow) -> None:
    sizes = ClosureSizes(store.database, store.workers)
    found = await sizes.view(cache, part(APP))
    nar_sizes = {each.store_path: each.nar_size for each in found.paths}
    assert found.nar_size == sum(nar_sizes.values())
    assert [(each.store_path, each.added_size) for each in found.paths] == [
        (APP, found.nar_size),
        (LIBC, nar_sizes[LIBC]),
        (SSL, nar_sizes[SSL]),  # without what others bring in too
    ]
    assert (found.externals, found.is_cut) == ([], False)
    with pytest.raises(NotFound):
        await sizes.view(cache, part("z" * 32))


async def test_chain_leads_from_path_to_path(store: Store, cache: CacheRow) -> None:
    await store.push(cache, (TOOL, nar_of(b"tool"), [APP]))
    sizes = ClosureSizes(store.database, store.workers)
    assert (await sizes.find_chain(cache, part(TOOL), part(SSL))).chain == [TOOL, APP, SSL]
    assert (await sizes.find_chain(cache, part(SSL), part(APP))).chain == []
    assert await sizes.find_member(cache, part(TOOL), "SSL") == part(SSL)
    assert await sizes.find_member(cache, part(TOOL), "nothing") is None
    assert await sizes.find_member(cache, part(TOOL), "") is None


async def test_large_closure_is_cut_and_says_so(store: Store, cache: CacheRow) -> None:
    sizes = ClosureSizes(store.database, store.workers, max_paths=2)
    found = await sizes.view(cache, part(APP))
    assert {each.store_path for each in found.paths} == {APP, LIBC}
    assert found.is_cut
    answer = await sizes.find_chain(cache, part(APP), part(SSL))
    assert (answer.chain, answer.is_complete) == ([], False)


async def test_what_is_remembered_is_not_shown_after_the_path_went_or_came_again(store: Store, cache: CacheRow) -> None:
    sizes = ClosureSizes(store.database, store.workers)
    before = await sizes.measure(cache, part(SSL))
    assert await sizes.measure(cache, part(SSL)) is before
    trash = Trash(store.database, lambda: store.now, note_use=lambda _, __: None)
    await trash.delete(cache, part(SSL), Actor("ann"), with_referrers=True)
    with pytest.raises(NotFound):
        await sizes.measure(cache, part(SSL))
    await store.push(cache, (SSL, nar_of(b"other"), []))
    assert [each.base_name for each in (await sizes.measure(cache, part(SSL))).closure.paths] == [SSL]


async def test_what_was_external_is_looked_at_once_it_is_published(store: Store, cache: CacheRow) -> None:
    sizes = ClosureSizes(store.database, store.workers)
    refer = update(path).where(path.c.hash_part == APP[:32]).values(references=f"{APP} {TOOL}")
    await store.database.write(lambda connection: connection.execute(refer))
    before = await sizes.measure(cache, part(APP))
    assert before.closure.externals == (TOOL,)
    assert await sizes.measure(cache, part(APP)) is before
    await store.push(cache, (TOOL, nar_of(b"tool"), [SSL]))
    after = await sizes.measure(cache, part(APP))
    assert [each.base_name for each in after.closure.paths] == [APP, TOOL, SSL, LIBC]
    assert await sizes.measure(cache, part(APP)) is after


async def test_no_more_is_remembered_than_there_is_room_for(store: Store, cache: CacheRow) -> None:
    sizes = ClosureSizes(store.database, store.workers, remembered_paths=3)
    app, libc = await sizes.measure(cache, part(APP)), await sizes.measure(cache, part(LIBC))
    assert await sizes.measure(cache, part(LIBC)) is libc
    assert await sizes.measure(cache, part(APP)) is not app
