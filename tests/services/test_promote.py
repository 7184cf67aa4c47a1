"""What one cache has is published in another, whole or not at all, and no byte is stored again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import select

from icehouse.api.publish import PathsAnswer
from icehouse.db.caches import CacheRow
from icehouse.db.paths import load_paths
from icehouse.db.schema import audit, chunk, nar
from icehouse.errors import Conflict, NotFound
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Actor
from icehouse.services.promote import Promotions
from icehouse.services.trash import Trash
from tests.services.publishing import Store, nar_of

LIB, APP, OTHER = f"{'a' * 32}-lib", f"{'b' * 32}-app", f"{'c' * 32}-other"
ACTOR = Actor("Ann", None, "192.0.2.1")


class World:
    """A main cache, and one for what is not looked at yet."""

    def __init__(self, store: Store, main: CacheRow, staging: CacheRow) -> None:
        self.store = store
        self.main = main
        self.staging = staging
        self.promotions = Promotions(store.database, store.publisher, lambda: store.now)
        self.trash = Trash(store.database, lambda: store.now, note_use=lambda _id, _now: None)

    async def promote(self, name: str, source: CacheRow | None = None) -> PathsAnswer:
        return await self.promotions.promote(self.main, source or self.staging, HashPart(name[:32]), ACTOR)

    async def visible(self, cache: CacheRow) -> list[str]:
        page = await self.trash.list_paths(cache, is_trash=False)
        return [each.store_path for each in page.paths]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = Store.open(tmp_path)
    world = World(store, await store.create_cache("main"), await store.create_cache("pr"))
    await store.push(world.staging, (LIB, nar_of(b"lib"), [LIB]))
    await store.push(world.staging, (APP, nar_of(b"app"), [LIB]))
    await store.push(world.staging, (OTHER, nar_of(b"other"), []))
    yield world
    await store.close()


async def test_closure_is_published_with_its_references_and_no_bytes(world: World) -> None:
    before = [await world.store.count(table) for table in (chunk, nar)], world.store.keys("packs/")
    answer = await world.promote(APP)
    assert sorted(answer.published) == [LIB, APP]
    assert await world.visible(world.main) == [LIB, APP]
    assert ([await world.store.count(table) for table in (chunk, nar)], world.store.keys("packs/")) == before
    parts = [HashPart(LIB[:32])]
    rows = await world.store.database.read(lambda connection: load_paths(connection, world.main.id, parts))
    assert rows[parts[0]].published_from == "192.0.2.1"
    assert len(rows[parts[0]].signatures) == 1


async def test_promotion_is_in_the_audit_log_once(world: World) -> None:
    await world.promote(APP)
    assert (await world.promote(APP)).published == []
    statement = select(audit.c.action, audit.c.cache_pattern, audit.c.subject, audit.c.new_values)
    (entry,) = await world.store.database.read(lambda connection: connection.execute(statement).all())
    assert tuple(entry[:3]) == ("path.promote", "main", APP)
    assert '"from":"pr","promoted":2' in entry.new_values


async def test_only_what_is_lacking_is_promoted(world: World) -> None:
    await world.promote(LIB)
    assert (await world.promote(APP)).published == [APP]


async def test_what_is_not_there_or_hidden_cannot_be_promoted(world: World) -> None:
    await world.trash.delete(world.staging, HashPart(OTHER[:32]), ACTOR, with_referrers=False)
    for name in (OTHER, f"{'d' * 32}-absent"):
        with pytest.raises(NotFound):
            await world.promote(name)
    assert await world.visible(world.main) == []


async def test_what_is_there_already_stays_as_it_is(world: World) -> None:
    await world.store.push(world.main, (LIB, nar_of(b"another lib"), []))
    assert (await world.promote(APP)).published == [APP]
    parts = [HashPart(LIB[:32])]
    rows = await world.store.database.read(lambda connection: load_paths(connection, world.main.id, parts))
    assert rows[parts[0]].references == ()


async def test_cache_of_another_domain_is_refused(world: World) -> None:
    apart = await world.store.create_cache("apart", domain_id=await world.store.create_domain())
    with pytest.raises(Conflict, match="different domains"):
        await world.promote(APP, apart)


async def test_path_that_its_cache_loses_meanwhile_is_not_promoted_and_the_journal_does_not_tell_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = world.store.keys("journal/")
    publish = world.store.publisher.publish_paths

    async def lose_first(*arguments: object, **named: object) -> PathsAnswer:
        await world.trash.delete(world.staging, HashPart(APP[:32]), ACTOR, with_referrers=False)
        return await publish(*arguments, **named)  # pyright: ignore[reportArgumentType] - as they came

    monkeypatch.setattr(world.store.publisher, "publish_paths", lose_first)
    with pytest.raises(Conflict, match="lost some"):
        await world.promote(APP)
    assert await world.visible(world.main) == []
    assert world.store.keys("journal/") == journal
