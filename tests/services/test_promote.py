"""What one cache has is published in another, whole or not at all, and no byte is stored again."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from backports.zstd import decompress
from sqlalchemy import select

from icehouse.api.publish import PathsAnswer, PromoteAnswer
from icehouse.db.cache_settings import grow, set_settings
from icehouse.db.caches import CacheRow, set_staging_of
from icehouse.db.paths import load_paths
from icehouse.db.schema import audit, chunk, nar
from icehouse.errors import Conflict, NotFound, OverQuota
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Actor
from icehouse.rules.quotas import CacheSettings
from icehouse.services.nar_copies import NarCopies
from icehouse.services.promote import MAX_COPIED_BYTES, Promotions
from icehouse.services.trash import Trash
from icehouse.storage.blobs import BlobKey
from tests.services.publishing import Store, nar_of

LIB, APP, OTHER = f"{'a' * 32}-lib", f"{'b' * 32}-app", f"{'c' * 32}-other"
APART = [f"{letter * 32}-apart" for letter in "fgh"]
ACTOR = Actor("Ann", None, "192.0.2.1")


class World:
    """A main cache, and one for what is not looked at yet."""

    def __init__(self, store: Store, main: CacheRow, staging: CacheRow) -> None:
        self.store = store
        self.main = main
        self.staging = staging
        self.copies = NarCopies(store.database, store.blobs, store.workers, store.nars, lambda: store.now)
        self.promotions = self.make_promotions()
        self.trash = Trash(store.database, lambda: store.now, note_use=lambda _id, _now: None)

    def make_promotions(self, max_copied_bytes: int = MAX_COPIED_BYTES) -> Promotions:
        store = self.store
        return Promotions(
            store.database, store.publisher, self.copies, lambda: store.now, max_copied_bytes=max_copied_bytes
        )

    async def make_apart(self, *contents: bytes) -> tuple[CacheRow, list[bytes]]:
        """A staging of another domain with a path for each of these contents, each referring to the one before."""
        apart = await self.store.create_cache("apart", domain_id=await self.store.create_domain())
        nars = [nar_of(each) for each in contents]
        names = APART[: len(nars)]
        for index, (name, each) in enumerate(zip(names, nars, strict=True)):
            await self.store.push(apart, (name, each, names[max(0, index - 1) : index]))
        return apart, nars

    async def promote(self, name: str, source: CacheRow | None = None) -> PromoteAnswer:
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


async def test_closure_of_another_domain_is_copied_and_served_whole(world: World) -> None:
    shared, new = random.Random(1).randbytes(1_500_000), random.Random(2).randbytes(1_500_000)
    await world.store.push(world.main, (OTHER, nar_of(shared), []))
    text = f"{APART[0]} needs /nix/store/{LIB} and /nix/store/{APP}".encode()
    apart, nars = await world.make_apart(text, shared + new)
    before = await world.store.count(chunk)
    assert sorted((await world.promote(APART[1], apart)).published) == APART[:2]
    for nar_ in nars:
        assert decompress(await world.store.download(world.main, nar_)) == nar_
    rows = await world.store.database.read(
        lambda connection: connection.execute(select(chunk.c.domain_id, chunk.c.identity)).all()
    )
    assert len(rows) == len(set(rows))
    ours = [row.identity for row in rows if row.domain_id == world.main.domain_id]
    theirs = [row.identity for row in rows if row.domain_id == apart.domain_id]
    assert set(theirs) <= set(ours)
    assert len(rows) - before < len(theirs)  # what main had of them was not stored again


async def test_what_two_domains_have_outlives_one_of_them(world: World) -> None:
    apart, (nar_,) = await world.make_apart(random.Random(3).randbytes(200_000))
    await world.promote(APART[0], apart)
    for key in world.store.keys(f"packs/{apart.domain_id}/"):
        world.store.blobs.delete(BlobKey(key))
    assert decompress(await world.store.download(world.main, nar_)) == nar_


async def test_what_is_too_much_for_one_request_is_copied_by_the_next_and_nothing_is_seen_before(world: World) -> None:
    apart, _ = await world.make_apart(*(random.Random(seed).randbytes(100_000) for seed in (4, 5, 6)))
    world.promotions = world.make_promotions(max_copied_bytes=150_000)
    answers = [await world.promote(APART[2], apart) for _ in range(2)]
    assert [(answer.published, answer.left_nars) for answer in answers] == [([], 2), ([], 1)]
    assert await world.visible(world.main) == []
    answer = await world.promote(APART[2], apart)
    assert (sorted(answer.published), answer.left_nars) == (APART, 0)


async def test_damaged_chunk_is_not_copied_to_another_domain(world: World) -> None:
    apart, _ = await world.make_apart(random.Random(7).randbytes(100_000))
    (key,) = world.store.keys(f"packs/{apart.domain_id}/")
    data = bytearray(world.store.read_blob(key))
    data[len(data) // 2] ^= 1
    writer = world.store.blobs.create()
    writer.write(bytes(data))
    world.store.blobs.delete(BlobKey(key))
    writer.commit(BlobKey(key))
    before = world.store.keys()
    with pytest.raises(Conflict, match="damaged or gone"):
        await world.promote(APART[0], apart)
    assert await world.visible(world.main) == []
    assert world.store.keys() == before


async def test_cache_at_its_limit_takes_no_copies(world: World) -> None:
    apart, _ = await world.make_apart(random.Random(8).randbytes(100_000))
    full = CacheSettings(None, None, None, 1, 0)
    await world.store.database.write(lambda connection: set_settings(connection, world.main.id, full))
    await world.store.database.write(lambda connection: grow(connection, world.main.id, 1))
    with pytest.raises(OverQuota):
        await world.promote(APART[0], apart)


async def test_staging_changes_nothing_of_what_its_main_cache_serves(world: World) -> None:
    mine, theirs = nar_of(b"what main has"), nar_of(b"what a pull request has")
    await world.store.push(world.main, (f"{'i' * 32}-tool", mine, []))
    await world.store.database.write(lambda connection: set_staging_of(connection, world.staging.id, world.main.id))
    parts = [HashPart("i" * 32)]

    async def serve() -> object:
        rows = await world.store.database.read(lambda connection: load_paths(connection, world.main.id, parts))
        return rows, await world.store.download(world.main, mine), await world.visible(world.main)

    before = await serve()
    await world.store.push(world.staging, (f"{'i' * 32}-tool", theirs, []))
    await world.store.push(world.staging, (f"{'k' * 32}-same", mine, []))
    await world.trash.delete(world.staging, HashPart("k" * 32), ACTOR, with_referrers=False)
    assert await serve() == before
    assert (await world.promote(f"{'i' * 32}-tool")).published == []  # what is there stays
    assert await serve() == before


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
