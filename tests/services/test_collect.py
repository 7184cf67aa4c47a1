"""Collection through the services: what goes, what stays, and what races with it."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from backports.zstd import decompress
from sqlalchemy import Connection, select, update

from icehouse.api.collection import CollectionReport, SweepReport
from icehouse.api.publish import PathsRequest
from icehouse.db.access_times import ACCESS_REVISION, PathUse, add_uses
from icehouse.db.caches import CacheRow
from icehouse.db.chunks import add_pack
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.pins import find_pin, insert_pin, insert_revision
from icehouse.db.schema import cache as cache_table
from icehouse.db.schema import chunk, collection, nar, pack, path, pin_revision
from icehouse.rules.frames import Frame
from icehouse.rules.pins import KEEP_ALL, Keep, Revision
from icehouse.services.collect import Collector, Sweep
from icehouse.services.pack_writing import PackWriter
from icehouse.storage.blobs import BlobInfo, BlobKey
from icehouse.storage.memory import MemoryBlobStore
from icehouse.storage.nars import pack_key
from tests.services.publishing import NOW, Store, Upload, cut, identity_of, nar_of, path_body

DAY = 86_400
TRASH = 7 * DAY
LIB, APP, TOOL = (f"{letter * 32}-{name}" for letter, name in (("a", "lib"), ("b", "app"), ("c", "tool")))


def contents(seed: int, size: int = 200_000) -> bytes:
    """The NAR of a file that compresses badly, different for each seed."""
    return nar_of(random.Random(seed).randbytes(size))


LIB_NAR, APP_NAR, TOOL_NAR = contents(1), contents(2), contents(3)


class WatchedBlobs(MemoryBlobStore):
    """Does something just before a blob is removed, as another process may."""

    before_removal: Callable[[BlobKey], None] | None = None

    def delete_unchanged(self, info: BlobInfo) -> bool:
        if self.before_removal is not None:
            self.before_removal(info.key)
        return super().delete_unchanged(info)


class World:
    """A store, a cache in it, and a collector with the same clock."""

    def __init__(self, store: Store, access: Database, cache: CacheRow) -> None:
        self.store = store
        self.access = access
        self.cache = cache
        self.progress: list[str] = []
        self.collector = Collector(
            store.database,
            access,
            store.blobs,
            lambda: store.now,
            started_by="a test",
            show_progress=self.progress.append,
        )

    def pass_days(self, days: float) -> None:
        self.store.now += int(days * DAY)

    async def configure(self, **settings: int) -> None:
        same = cache_table.c.id == self.cache.id
        await self.store.database.write(
            lambda connection: connection.execute(update(cache_table).where(same).values(**settings)) and None
        )

    def collect(self, *, is_dry_run: bool = False) -> CollectionReport:
        return self.collector.collect("main", is_dry_run=is_dry_run)

    def sweep(self) -> SweepReport:
        (report,) = self.collect().sweeps
        return report

    async def visible(self) -> list[str]:
        rows = await self.store.database.read(
            lambda connection: connection.execute(
                select(path.c.hash_part, path.c.name).where(path.c.hidden_at.is_(None)).order_by(path.c.hash_part)
            ).all()
        )
        return [f"{row.hash_part}-{row.name}" for row in rows]

    async def id_of(self, base_name: str) -> int:
        same = path.c.hash_part == base_name[:32]
        return await self.store.database.read(
            lambda connection: connection.execute(select(path.c.id).where(same)).scalar_one()
        )

    async def use(self, base_name: str) -> None:
        use = PathUse(await self.id_of(base_name), self.store.now, 1)
        await self.access.write(lambda connection: add_uses(connection, [use]))

    async def pin(self, base_name: str, *, number: int = 1, keep: Keep = KEEP_ALL) -> None:
        path_id = await self.id_of(base_name)

        def work(connection: Connection) -> None:
            found = find_pin(connection, self.cache.id, "release")
            pin_id = insert_pin(connection, self.cache.id, "release", keep, now=NOW) if found is None else found.id
            insert_revision(connection, pin_id, Revision(number, path_id, self.store.now), [], created_by=None)

        await self.store.database.write(work)

    async def stored_bytes(self) -> int:
        same = cache_table.c.id == self.cache.id
        return await self.store.database.read(
            lambda connection: connection.execute(select(cache_table.c.stored_bytes).where(same)).scalar_one()
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A cache with a tool that refers to an app, which refers to a library."""
    prepare_access_database(tmp_path / "access.db")
    access = Database.open(tmp_path / "access.db", revision=ACCESS_REVISION)
    blobs = WatchedBlobs(clock=lambda: store.now)
    store = Store.open(tmp_path, blobs)
    made = World(store, access, await store.create_cache("main"))
    await store.push(made.cache, (LIB, LIB_NAR, []))
    await store.push(made.cache, (APP, APP_NAR, [LIB]))
    await store.push(made.cache, (TOOL, TOOL_NAR, [APP, TOOL]))
    yield made
    access.close()
    await store.close()


async def test_what_is_unused_goes_step_by_step_until_the_disk_is_empty(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    (mark,) = world.collect().marks
    assert [hidden.store_path for hidden in mark.hidden] == [TOOL, APP, LIB]
    assert await world.visible() == []
    assert await world.store.count(path) == 3, "they are in the trash"
    world.pass_days(7)
    assert world.sweep().purged_paths == 0, "to the second"
    world.pass_days(0.01)
    report = world.sweep()
    assert (report.purged_paths, report.purged_nars, report.condemned_packs) == (3, 3, 3)
    assert len(world.store.keys("packs/")) == 3
    world.pass_days(1)
    report = world.sweep()
    assert report.deleted_packs == 3
    assert report.deleted_bytes > 590_000
    assert world.store.keys("packs/") == []
    assert [await world.store.count(table) for table in (pack, chunk, nar, path)] == [0, 0, 0, 0]


async def test_dry_run_changes_nothing_and_agrees_with_the_run(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY, budget_bytes=450_000)
    world.pass_days(10)
    await world.use(LIB)
    for days in (0, 25, 8, 2, 2):
        world.pass_days(days)
        before = (await world.visible(), world.store.keys(), await world.store.count(path))
        planned = world.collect(is_dry_run=True)
        assert (await world.visible(), world.store.keys(), await world.store.count(path)) == before
        done = world.collect()
        assert (done.marks, done.sweeps) == (planned.marks, planned.sweeps)


async def test_use_of_a_referrer_keeps_its_closure(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(20)
    await world.use(APP)
    world.pass_days(20)
    world.collect()
    assert await world.visible() == [LIB, APP]


async def test_pin_keeps_its_closure(world: World) -> None:
    await world.configure(keep_unused_seconds=1, budget_bytes=0)
    await world.pin(APP)
    world.pass_days(100)
    (mark,) = world.collect().marks
    assert await world.visible() == [LIB, APP]
    assert mark.pinned_paths == 2


async def test_pin_keeps_its_closure_while_damage_hides_its_path(world: World) -> None:
    await world.configure(keep_unused_seconds=1, budget_bytes=0)
    await world.pin(APP)
    same = path.c.hash_part == APP[:32]
    await world.store.database.write(
        lambda connection: connection.execute(update(path).where(same).values(hidden_at=world.store.now)) and None
    )
    world.pass_days(100)
    (mark,) = world.collect().marks
    assert await world.visible() == [LIB]
    assert mark.pinned_paths == 1


async def test_path_that_a_pin_keeps_is_not_purged_when_damage_hid_it(world: World) -> None:
    await world.pin(APP)
    same = path.c.hash_part.in_([LIB[:32], APP[:32]])
    await world.store.database.write(
        lambda connection: connection.execute(update(path).where(same).values(hidden_at=world.store.now)) and None
    )
    world.pass_days(8)
    world.sweep()
    assert await world.store.count(path) == 3


async def test_revision_that_its_pin_lets_go_is_forgotten_and_its_path_goes(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    await world.pin(LIB, keep=Keep(days=10))
    world.pass_days(1)
    await world.pin(APP, number=2, keep=Keep(days=10))
    world.pass_days(40)
    (mark,) = world.collect().marks
    assert [hidden.store_path for hidden in mark.hidden] == [TOOL]
    assert await world.store.count(pin_revision) == 1, "what the newest revision reaches stays, by that revision"


async def test_budget_is_about_stored_bytes_and_the_size_is_noted(world: World) -> None:
    await world.configure(budget_bytes=450_000)
    world.pass_days(1)
    (mark,) = world.collect().marks
    assert [hidden.store_path for hidden in mark.hidden] == [TOOL]
    assert mark.stored_bytes_before > 590_000
    assert mark.stored_bytes_after < 450_000
    assert await world.stored_bytes() == mark.stored_bytes_after


async def test_push_after_the_plan_rescues_what_it_refers_to(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    mark = world.collector.plan_mark(world.cache)
    other = f"{'d' * 32}-other"
    await world.store.push(world.cache, (other, contents(4), [APP]))
    assert [mark.names[place] for place, _ in world.collector.hide(mark)] == [TOOL]
    assert await world.visible() == [LIB, APP, other]


async def test_pin_after_the_plan_rescues_its_closure(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    mark = world.collector.plan_mark(world.cache)
    await world.pin(APP)
    world.collector.hide(mark)
    assert await world.visible() == [LIB, APP]


async def test_push_of_a_hidden_path_restores_it_with_nothing_sent(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    world.collect()
    answer = await world.store.publisher.publish_paths(
        world.cache, PathsRequest([path_body(TOOL, TOOL_NAR, [APP, TOOL])]), token_id=None
    )
    assert answer.published == [TOOL]
    assert await world.visible() == [LIB, APP, TOOL]


async def purge(world: World) -> None:
    """Bring everything to where its packs are condemned."""
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    world.collect()
    world.pass_days(7.1)
    assert world.sweep().condemned_packs == 3


async def test_chunks_of_condemned_packs_are_missing_and_come_again(world: World) -> None:
    await purge(world)
    await world.store.push(world.cache, (LIB, LIB_NAR, []))
    world.pass_days(1.1)
    assert world.sweep().deleted_packs == 2, "the push made the very same pack as the one that was about to go"
    assert decompress(await world.store.download(world.cache, LIB_NAR)) == LIB_NAR


async def test_nar_that_names_condemned_chunks_lifts_the_condemnation(world: World) -> None:
    body = await world.store.nar_body(world.cache, LIB_NAR)  # a client that learned the numbers before
    await purge(world)
    (result,) = await world.store.register(world.cache, body)
    assert result.state == "stored"
    world.pass_days(1.1)
    await world.store.publisher.publish_paths(world.cache, PathsRequest([path_body(LIB, LIB_NAR)]), token_id=None)
    assert world.sweep().deleted_packs == 2
    assert decompress(await world.store.download(world.cache, LIB_NAR)) == LIB_NAR


async def test_bytes_that_came_again_before_the_rows_went_stay_for_the_rows_to_come(world: World) -> None:
    """A push whose pack was durable already, while collection deleted the rows of the very same one, lost its bytes."""
    await purge(world)
    world.pass_days(1.1)
    writer, upload = PackWriter(world.store.blobs), Upload.of(cut(LIB_NAR))
    writer.write(upload.entries, [Frame(data, (), is_split=False) for data in upload.frames])
    name = writer.finish(world.cache.domain_id)

    def add_rows(connection: Connection) -> None:
        add_pack(connection, world.cache.domain_id, name, writer.size_bytes, upload.entries, now=world.store.now)

    assert world.collect(is_dry_run=True).sweeps == [world.sweep()]
    assert await world.store.count(pack) == 1
    await world.store.database.write(add_rows)
    await world.store.push(world.cache, (LIB, LIB_NAR, []))
    assert decompress(await world.store.download(world.cache, LIB_NAR)) == LIB_NAR


async def test_bytes_that_came_again_and_got_no_rows_go_a_day_later(world: World) -> None:
    await purge(world)
    world.pass_days(1.1)
    writer, upload = PackWriter(world.store.blobs), Upload.of(cut(LIB_NAR))
    writer.write(upload.entries, [Frame(data, (), is_split=False) for data in upload.frames])
    writer.finish(world.cache.domain_id)
    assert world.sweep().deleted_packs == 2
    world.pass_days(1.1)
    assert world.sweep().deleted_packs == 1
    assert world.store.keys("packs/") == []


async def test_bytes_that_come_again_while_the_rows_go_stay(world: World) -> None:
    await purge(world)
    world.pass_days(1.1)

    def come_again(key: BlobKey) -> None:
        world.store.blobs.put(key, world.store.read_blob(key))

    assert isinstance(world.store.blobs, WatchedBlobs)
    world.store.blobs.before_removal = come_again
    assert world.sweep().deleted_packs == 3
    assert len(world.store.keys("packs/")) == 3


async def test_nar_that_names_deleted_chunks_is_told_what_is_missing(world: World) -> None:
    body = await world.store.nar_body(world.cache, LIB_NAR)
    await purge(world)
    world.pass_days(1.1)
    world.sweep()
    (result,) = await world.store.register(world.cache, body)
    assert result.state == "refused"
    await world.store.push(world.cache, (LIB, LIB_NAR, []))
    assert decompress(await world.store.download(world.cache, LIB_NAR)) == LIB_NAR


async def test_nar_without_a_path_stays_a_day_and_longer_when_registered_again(world: World) -> None:
    nar_bytes = contents(9)
    await world.store.register(world.cache, await world.store.nar_body(world.cache, nar_bytes))
    world.pass_days(0.9)
    await world.store.register(world.cache, await world.store.nar_body(world.cache, nar_bytes))
    world.pass_days(0.9)
    assert world.sweep().purged_nars == 0
    await world.store.publisher.publish_paths(world.cache, PathsRequest([path_body(LIB, LIB_NAR)]), token_id=None)
    world.pass_days(0.2)
    assert world.sweep().purged_nars == 1


async def test_mostly_dead_pack_is_compacted_and_what_lives_is_served(world: World) -> None:
    keep, drop = contents(5, 300_000), contents(6, 900_000)
    other, dropped = f"{'d' * 32}-keep", f"{'f' * 32}-drop"
    await world.store.send_chunks(world.cache, [*cut(keep), *cut(drop)])  # one pack for both
    await world.store.push(world.cache, (other, keep, []), (dropped, drop, []))
    await world.pin(other)
    await world.configure(keep_unused_seconds=30 * DAY, trash_seconds=0)
    world.pass_days(31)
    world.collect()
    packs_before = set(world.store.keys("packs/"))
    world.pass_days(0.1)
    report = world.sweep()
    assert report.compacted_packs == 1
    assert 250_000 < report.compacted_bytes < 400_000
    assert decompress(await world.store.download(world.cache, keep)) == keep
    world.pass_days(1.1)
    world.sweep()
    assert decompress(await world.store.download(world.cache, keep)) == keep
    assert len(set(world.store.keys("packs/")) - packs_before) == 1
    assert sum(world.store.blobs.size(BlobKey(key)) for key in world.store.keys("packs/")) < 400_000


async def test_copy_that_makes_the_very_pack_that_was_damaged_takes_its_place(world: World) -> None:
    """The first pack has but the chunk that was damaged; the copy of that chunk's second pack has the same bytes."""
    keep, drop = contents(5), contents(6, 600_000)
    kept, dropped = f"{'d' * 32}-keep", f"{'f' * 32}-drop"
    await world.store.push(world.cache, (kept, keep, []))
    (lone,) = set(world.store.keys("packs/")) - await pack_keys(world, LIB_NAR, APP_NAR, TOOL_NAR)
    await world.store.database.write(
        lambda connection: (
            connection.execute(
                update(chunk).where(chunk.c.identity == identity_of(cut(keep)[0])).values(quarantined_at=NOW)
            )
            and None
        )
    )
    await world.store.send_chunks(world.cache, [*cut(keep), *cut(drop)])
    await world.store.push(world.cache, (dropped, drop, []))
    await world.pin(kept)
    await world.configure(keep_unused_seconds=30 * DAY, trash_seconds=0)
    world.pass_days(31)
    world.collect()
    world.pass_days(0.1)
    report = world.sweep()
    assert report.compacted_packs == 1
    assert await pack_keys(world, keep) == {lone}
    for days in (1.1, 1.1):
        world.pass_days(days)
        world.sweep()
    assert world.store.keys("packs/") == [lone]
    assert decompress(await world.store.download(world.cache, keep)) == keep


async def test_dry_run_does_not_promise_a_copy_of_what_is_known_to_be_damaged(world: World) -> None:
    keep, lost, drop = contents(5), contents(6), contents(7, 900_000)
    kept, hit, dropped = f"{'d' * 32}-keep", f"{'f' * 32}-hit", f"{'g' * 32}-drop"
    await world.store.send_chunks(world.cache, [*cut(keep), *cut(lost), *cut(drop)])
    await world.store.push(world.cache, (kept, keep, []), (hit, lost, [kept]), (dropped, drop, []))
    await world.pin(hit)
    await world.configure(keep_unused_seconds=30 * DAY, trash_seconds=0)
    damaged = update(chunk).where(chunk.c.identity == identity_of(cut(lost)[0])).values(quarantined_at=NOW)
    await world.store.database.write(lambda connection: connection.execute(damaged) and None)
    for days in (31, 0.1, 1.1, 1.1):
        world.pass_days(days)
        planned = world.collect(is_dry_run=True)
        done = world.collect()
        assert (done.marks, done.sweeps) == (planned.marks, planned.sweeps)
    await world.store.push(world.cache, (f"{'h' * 32}-again", lost, []))
    assert decompress(await world.store.download(world.cache, lost)) == lost


class Overtaken(Collector):
    """Somebody empties the trash sooner, just after what was due was purged."""

    world: World

    def plan_sweep(self, domain_id: int, now: int, *, is_dry_run: bool) -> Sweep:
        sooner = update(cache_table).values(trash_seconds=0)
        self.world.store.database.write_now(lambda connection: connection.execute(sooner) and None)
        return super().plan_sweep(domain_id, now, is_dry_run=is_dry_run)


async def test_nar_that_was_not_purged_keeps_its_packs_though_it_could_be_by_now(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    world.collect()
    world.pass_days(1)
    store = world.store
    collector = Overtaken(
        store.database, world.access, store.blobs, lambda: store.now, started_by="", show_progress=lambda _: None
    )
    collector.world = world
    (report,) = collector.collect("main", is_dry_run=False).sweeps
    assert (report.purged_paths, report.condemned_packs) == (0, 0)


async def test_what_is_pushed_after_the_plan_counts_in_the_size(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    mark = world.collector.plan_mark(world.cache)
    await world.store.push(world.cache, (f"{'d' * 32}-other", contents(4), [APP]))
    world.collector.hide(mark)
    assert 200_000 <= await world.stored_bytes() < 201_000, "of the plan nothing stays"
    world.collect()
    assert await world.stored_bytes() > 600_000, "the push rescued what it refers to"


async def pack_keys(world: World, *nars: bytes) -> set[str]:
    """The packs that have the chunks of the NARs."""
    identities = [identity_of(piece) for nar_bytes in nars for piece in cut(nar_bytes)]
    same = chunk.c.identity.in_(identities)
    names = await world.store.database.read(
        lambda connection: connection.execute(select(pack.c.name).join(chunk).where(same)).scalars().all()
    )
    return {pack_key(world.cache.domain_id, name) for name in names}


async def test_objects_that_no_row_knows_go_after_a_day(world: World) -> None:
    stray = BlobKey(f"packs/{world.cache.domain_id}/ab/{'ab' * 32}")
    world.store.blobs.put(stray, b"left by a crash")
    left = world.store.blobs.create()
    left.write(b"half")
    world.pass_days(0.9)
    assert world.sweep().deleted_strays == 0
    world.pass_days(0.2)
    report = world.sweep()
    assert (report.deleted_strays, report.stray_bytes) == (2, len(b"left by a crash") + len(b"half"))
    assert len(world.store.keys("packs/")) == 3
    assert world.store.keys("journal/")


async def test_every_collection_is_noted(world: World) -> None:
    await world.configure(keep_unused_seconds=30 * DAY)
    world.pass_days(31)
    world.collect(is_dry_run=True)
    assert await world.store.count(collection) == 0
    world.collect()
    rows = await world.store.database.read(lambda connection: connection.execute(select(collection)).all())
    assert [(row.cache_name, row.started_by, row.began_at) for row in rows] == [("main", "a test", world.store.now)]
    assert '"hidden":3' in rows[0].result
    assert world.progress
