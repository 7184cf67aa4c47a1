"""Deleting by hand, restoring, and telling why a path is where it is."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, update

from icehouse.api.paths import WhyAnswer
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.cache_settings import set_settings
from icehouse.db.caches import CacheRow
from icehouse.db.collection import forget_purged
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.pins import insert_pin, insert_revision
from icehouse.db.schema import chunk, path, upstream
from icehouse.db.trash import find_facts
from icehouse.errors import Conflict, InvalidFormat, NotFound, TooLarge, Unavailable
from icehouse.nix.store_paths import HashPart, parse_hash_part
from icehouse.rules.audit import Actor
from icehouse.rules.pins import KEEP_ALL, Revision
from icehouse.rules.quotas import CacheSettings
from icehouse.rules.verification import UNREADABLE
from icehouse.services.collect import Collector
from icehouse.services.serve import MAX_SEARCHED, explain_path
from icehouse.services.trash import Trash
from tests.services.publishing import KEY, NOW, TESTER, Store, cut, identity_of, nar_of, path_body

LIB, APP, TOOL, OTHER = (
    f"{letter * 32}-{name}" for letter, name in zip("abcd", ("lib", "app", "tool", "o"), strict=True)
)
DAY = 86_400


def part(base_name: str) -> HashPart:
    return parse_hash_part(base_name[:32])


class World:
    """A cache with a tool that refers to an app, which refers to a library; and another path."""

    def __init__(self, store: Store, cache: CacheRow) -> None:
        self.store = store
        self.cache = cache
        self.trash = Trash(
            store.database, lambda: store.now, note_use=lambda path_id, now: store.uses.append((path_id, now))
        )

    async def names(self, *, is_trash: bool = False) -> list[str]:
        page = await self.trash.list_paths(self.cache, is_trash=is_trash)
        return [each.store_path for each in page.paths]

    async def delete(self, base_name: str, *, with_referrers: bool = False) -> list[str]:
        answer = await self.trash.delete(self.cache, part(base_name), Actor("ann"), with_referrers=with_referrers)
        return answer.deleted

    async def restore(self, base_name: str) -> list[str]:
        return (await self.trash.restore(self.cache, part(base_name), TESTER)).restored

    async def why(self, base_name: str, *, max_searched: int = MAX_SEARCHED) -> WhyAnswer:
        database, now = self.store.database, self.store.now
        return await explain_path(database, self.cache, part(base_name), now=now, max_searched=max_searched)

    async def id_of(self, base_name: str) -> int:
        found = await self.store.database.read(
            lambda connection: find_facts(connection, self.cache.id, part(base_name))
        )
        assert found is not None
        return found.id

    async def pin(self, name: str, base_name: str) -> None:
        path_id = await self.id_of(base_name)

        def work(connection: Connection) -> None:
            pin_id = insert_pin(connection, self.cache.id, name, KEEP_ALL, now=NOW)
            insert_revision(connection, pin_id, Revision(1, path_id, NOW), [], created_by=None)

        await self.store.database.write(work)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = Store.open(tmp_path)
    world = World(store, await store.create_cache("main"))
    await store.push(world.cache, (LIB, nar_of(b"lib"), []))
    await store.push(world.cache, (APP, nar_of(b"app"), [LIB]))
    await store.push(world.cache, (TOOL, nar_of(b"tool"), [APP, TOOL]))
    await store.push(world.cache, (OTHER, nar_of(b"other"), []))
    yield world
    await store.close()


async def test_deleted_path_is_in_the_trash_and_comes_back(world: World) -> None:
    assert await world.delete(TOOL) == [TOOL]
    assert await world.delete(TOOL) == []
    assert (await world.names(), await world.names(is_trash=True)) == ([LIB, APP, OTHER], [TOOL])
    (listed,) = (await world.trash.list_paths(world.cache, is_trash=True)).paths
    assert (listed.hidden_at, listed.hidden_because, listed.restorable_until) == (NOW, "deleted by ann", NOW + 7 * DAY)
    world.store.now += 5
    assert await world.restore(TOOL) == [TOOL]
    assert await world.restore(TOOL) == []
    assert await world.names(is_trash=True) == []
    assert world.store.uses[-1] == (await world.id_of(TOOL), NOW + 5), "else the next collection takes it again"


async def test_path_that_others_refer_to_goes_only_with_them(world: World) -> None:
    with pytest.raises(Conflict, match=f"referred to by 1 visible path: {APP}"):
        await world.delete(LIB)
    assert await world.delete(LIB, with_referrers=True) == [LIB, APP, TOOL]
    assert await world.names() == [OTHER]
    assert await world.restore(APP) == [LIB, APP], "with its closure, and not with what refers to it"


async def test_pinned_path_is_not_deleted_nor_what_it_reaches(world: World) -> None:
    await world.pin("release", TOOL)
    for each in (TOOL, LIB):
        with pytest.raises(Conflict, match=r"kept by 1 pin: release \(revision 1\); unpin first"):
            await world.delete(each, with_referrers=True)
    assert await world.names() == [LIB, APP, TOOL, OTHER]


async def test_what_a_pinned_path_reaches_is_not_deleted_while_that_is_damaged(world: World) -> None:
    await world.pin("release", TOOL)
    damaged = path.c.hash_part.in_([APP[:32], TOOL[:32]])
    await world.store.database.write(
        lambda connection: (
            connection.execute(update(path).where(damaged).values(hidden_at=NOW, hidden_because=UNREADABLE)) and None
        )
    )
    with pytest.raises(Conflict, match=r"kept by 1 pin: release \(revision 1\); unpin first"):
        await world.delete(LIB)
    assert (await world.trash.plan_delete(world.cache, part(LIB))).kept_by == ["release (revision 1)"]
    assert await world.delete(OTHER) == [OTHER]
    assert await world.names() == [LIB]


class Overtaken(Trash):
    """Somebody pushes something that refers to a path just after it was searched for."""

    world: World

    async def _find_direct(self, cache: CacheRow, hash_part: HashPart) -> list[str]:
        found = await super()._find_direct(cache, hash_part)
        await self.world.store.push(cache, ("g" * 32 + "-new", nar_of(b"new"), [OTHER]))
        return found


async def test_referrer_that_is_pushed_during_the_search_is_seen(world: World) -> None:
    trash = Overtaken(
        world.store.database, lambda: NOW, note_use=lambda path_id, now: world.store.uses.append((path_id, now))
    )
    trash.world = world
    with pytest.raises(Conflict, match="referred to by 1 visible path"):
        await trash.delete(world.cache, part(OTHER), TESTER, with_referrers=False)
    assert OTHER in await world.names()


async def test_path_that_is_not_there_is_neither_deleted_nor_restored(world: World) -> None:
    for act in (world.delete, world.restore):
        with pytest.raises(NotFound, match="visible or in its trash"):
            await act("9" * 32 + "-absent")


async def test_path_that_is_damaged_or_lacks_something_is_not_restored(world: World) -> None:
    await world.delete(LIB, with_referrers=True)
    same = path.c.hash_part == LIB[:32]
    await world.store.database.write(
        lambda connection: connection.execute(update(path).where(same).values(hidden_because=UNREADABLE)) and None
    )
    with pytest.raises(Conflict, match="is damaged, revoked or purged"):
        await world.restore(TOOL)


async def test_path_that_was_hit_by_damage_in_the_trash_is_not_restored_before_it_is_healed(world: World) -> None:
    await world.delete(LIB, with_referrers=True)
    (identity,) = map(identity_of, cut(nar_of(b"lib")))

    async def mark(quarantined_at: int | None) -> None:
        damaged = update(chunk).where(chunk.c.identity == identity).values(quarantined_at=quarantined_at)
        await world.store.database.write(lambda connection: connection.execute(damaged) and None)

    await mark(NOW)
    for each in (LIB, TOOL):
        with pytest.raises(Conflict, match="is damaged, revoked or purged"):
            await world.restore(each)
    assert await world.names() == [OTHER]
    await mark(None)
    assert await world.restore(TOOL) == [LIB, APP, TOOL]


async def test_list_goes_on_after_a_page(world: World) -> None:
    page = await world.trash.list_paths(world.cache, is_trash=False, after=part(APP))
    assert [each.store_path for each in page.paths] == [TOOL, OTHER]
    assert not page.has_more


async def test_why_tells_the_pin_and_the_chain_that_keep_a_path(world: World) -> None:
    assert (await world.why(LIB)).kept_by is None
    assert "No pin keeps it." in (await world.why(LIB)).explanation
    await world.pin("release", TOOL)
    keeper = (await world.why(LIB)).kept_by
    assert keeper is not None
    assert (keeper.pin, keeper.revision, keeper.chain) == ("release", 1, [TOOL, APP, LIB])
    assert f"keeps it: {TOOL} -> {APP} -> {LIB}." in (await world.why(LIB)).explanation
    direct = (await world.why(TOOL)).kept_by
    assert direct is not None
    assert direct.chain == [TOOL]
    other = await world.why(OTHER)
    assert (other.kept_by, other.is_every_pin_searched, other.since) == (None, True, NOW)


async def test_why_says_when_pins_keep_too_many_paths_to_look_at(world: World) -> None:
    await world.pin("release", TOOL)
    assert (await world.why(APP, max_searched=1)).kept_by is not None, "the first level is enough"
    answer = await world.why(LIB, max_searched=0)
    assert (answer.kept_by, answer.is_every_pin_searched) == (None, False)
    assert "is not known" in answer.explanation


async def test_why_looks_down_from_the_pins_where_much_refers_to_a_path(world: World) -> None:
    for index in range(3):
        await world.store.push(world.cache, ("123"[index] * 32 + "-user", nar_of(b"user %d" % index), [LIB]))
    await world.pin("release", APP)
    keeper = (await world.why(LIB, max_searched=2)).kept_by
    assert keeper is not None
    assert keeper.chain == [APP, LIB]


async def test_why_looks_at_nothing_that_was_there_before_the_path(
    world: World,
) -> None:
    await world.pin("release", TOOL)
    new = "g" * 32 + "-new"
    await world.store.push(world.cache, (new, nar_of(b"new"), [LIB]))
    answer = await world.why(new, max_searched=1)
    assert (answer.kept_by, answer.is_every_pin_searched) == (None, True)


async def test_why_finds_the_pin_of_a_path_that_came_back_before_what_refers_to_it(world: World) -> None:
    await world.delete(LIB, with_referrers=True)
    assert await world.restore(LIB) == [LIB]
    assert await world.restore(TOOL) == [APP, TOOL]
    await world.pin("release", TOOL)
    keeper = (await world.why(LIB)).kept_by
    assert keeper is not None
    assert keeper.chain == [TOOL, APP, LIB]


async def test_why_tells_what_hid_a_path_and_until_when_it_can_come_back(world: World) -> None:
    settings = CacheSettings(trash_seconds=DAY)
    await world.store.database.write(lambda connection: set_settings(connection, world.cache.id, settings))
    await world.delete(APP, with_referrers=True)
    answer = await world.why(TOOL)
    assert (answer.state, answer.since, answer.restorable_until) == ("hidden", NOW, NOW + DAY)
    assert answer.hidden_because == f"deleted by ann, with {APP} which it reaches"


async def test_why_tells_what_heals_a_damaged_path(world: World) -> None:
    await world.store.database.write(
        lambda connection: (
            connection.execute(
                update(path).where(path.c.hash_part == OTHER[:32]).values(hidden_at=NOW, hidden_because=UNREADABLE)
            )
            and None
        )
    )
    told = (await world.why(OTHER)).explanation
    assert "can be restored" not in told, "restoring it is refused"
    assert "a push of what is damaged heals it" in told


async def test_why_tells_what_a_path_waits_for(world: World) -> None:
    late, missing = "g" * 32 + "-late", "f" * 32 + "-missing"
    body = await world.store.nar_body(world.cache, nar_of(b"late"))
    await world.store.register(world.cache, body)
    waiting = path_body(late, nar_of(b"late"), [LIB, missing])
    await world.store.publisher.publish_or_wait(world.cache, waiting, token_id=None)
    answer = await world.why(late)
    assert (answer.state, answer.waiting_for) == ("waiting", [missing])
    await world.store.push(world.cache, (missing, nar_of(b"missing"), []))
    assert (await world.why(late)).state == "visible"
    assert (await world.why("9" * 32 + "-never")).state == "never-pushed"


def collect(world: World) -> None:
    access = Database.open(prepared_access(world), revision=ACCESS_REVISION)
    Collector(
        world.store.database,
        access,
        world.store.blobs,
        lambda: world.store.now,
        started_by="a test",
        show_progress=lambda _: None,
    ).collect(None, is_dry_run=False)
    access.close()


def prepared_access(world: World) -> Path:
    file = world.store.database.path.with_name("access.db")
    prepare_access_database(file)
    return file


async def test_why_tells_what_purged_a_path_and_when(world: World) -> None:
    await world.delete(APP, with_referrers=True)
    world.store.now += 8 * DAY
    collect(world)
    answer = await world.why(TOOL)
    assert (answer.state, answer.since, answer.hidden_at) == ("purged", NOW + 8 * DAY, NOW)
    assert answer.hidden_because == f"deleted by ann, with {APP} which it reaches"
    await world.store.push(world.cache, (APP, nar_of(b"app"), [LIB]))
    assert (await world.why(APP)).state == "visible"
    world.store.now += DAY
    await world.delete(APP)
    world.store.now += 8 * DAY
    collect(world)
    assert (await world.why(APP)).since == NOW + 17 * DAY, "the last time counts"


async def test_purged_path_is_forgotten_after_a_year(world: World) -> None:
    await world.delete(OTHER)
    world.store.now += 8 * DAY
    collect(world)
    world.store.now += 365 * DAY
    collect(world)
    assert (await world.why(OTHER)).state == "purged"
    world.store.now += DAY
    collect(world)
    assert (await world.why(OTHER)).state == "never-pushed"


async def test_only_the_last_purged_paths_are_known(world: World) -> None:
    await world.delete(APP, with_referrers=True)
    world.store.now += DAY
    await world.delete(OTHER)
    world.store.now += 8 * DAY
    collect(world)
    forget = partial(forget_purged, now=world.store.now, most=1)
    assert await world.store.database.write(forget) == 2
    assert [(await world.why(each)).state for each in (APP, TOOL, OTHER)] == ["never-pushed", "never-pushed", "purged"]


async def test_why_names_the_upstreams_of_what_is_not_here(world: World) -> None:
    url = "https://cache.example.org"
    await world.store.database.write(
        lambda connection: (
            connection.execute(
                insert(upstream).values(cache_id=world.cache.id, url=url, public_keys=KEY.public_key.render())
            )
            and None
        )
    )
    await world.delete(OTHER)
    assert [(await world.why(each)).upstreams for each in (OTHER, "9" * 32 + "-never", LIB)] == [[url], [url], []]


async def test_trash_lists_what_came_last_first_and_why(world: World) -> None:
    await world.delete(OTHER)
    world.store.now += 40 * DAY
    await world.store.database.write(
        lambda connection: set_settings(connection, world.cache.id, CacheSettings(keep_unused_seconds=30 * DAY))
    )
    collect(world)
    page = await world.trash.list_trash(world.cache)
    assert {each.store_path for each in page.paths} == {LIB, APP, TOOL}, "what was deleted before is purged"
    assert {(each.reason, each.collection, each.hidden_at) for each in page.paths} == {
        ("retention", 1, world.store.now)
    }
    world.store.now += 5
    await world.store.push(world.cache, (OTHER, nar_of(b"other"), []))
    await world.delete(OTHER)
    newest = (await world.trash.list_trash(world.cache)).paths[0]
    assert (newest.store_path, newest.reason, newest.hidden_because, newest.collection) == (
        OTHER,
        "deleted",
        "deleted by ann",
        None,
    )
    assert newest.restorable_until == world.store.now + 7 * DAY


async def test_trash_goes_on_page_by_page_and_finds_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for base_name in (OTHER, TOOL, APP, LIB):
        world.store.now += 1
        await world.delete(base_name)
    shown: list[str] = []
    before = None
    for _ in range(4):
        page = await world.trash.list_trash(world.cache, before=before, limit=1)
        shown += [each.store_path for each in page.paths]
        before = page.before
    assert (shown, before) == ([LIB, APP, TOOL, OTHER], None)
    assert [each.store_path for each in (await world.trash.list_trash(world.cache, name="OO")).paths] == [TOOL]
    assert (await world.trash.list_trash(world.cache, name="%")).paths == []
    monkeypatch.setattr("icehouse.db.trash.NAMES_A_SEARCH", 2)
    first = await world.trash.list_trash(world.cache, name="tool")
    assert first.paths == []
    assert first.before is not None, "there is more to look through"
    second = await world.trash.list_trash(world.cache, name="tool", before=first.before)
    assert [each.store_path for each in second.paths] == [TOOL]
    with pytest.raises(InvalidFormat, match="place '12': expected what the page before gave"):
        await world.trash.list_trash(world.cache, before="12")


async def test_several_paths_are_restored_and_what_cannot_come_back_is_named(world: World) -> None:
    await world.delete(LIB, with_referrers=True)
    await world.delete(OTHER)
    await world.store.database.write(
        lambda connection: (
            connection.execute(update(path).where(path.c.hash_part == APP[:32]).values(hidden_because=UNREADABLE))
            and None
        )
    )
    answer = await world.trash.restore_many(world.cache, [part(TOOL), part(LIB), part(OTHER)], TESTER)
    assert (answer.restored, answer.refused) == ([LIB, OTHER], [TOOL[:32]])
    again = await world.trash.restore_many(world.cache, [part(LIB), part("9" * 32 + "-never")], TESTER)
    assert (again.restored, again.refused) == ([], ["9" * 32])
    with pytest.raises(TooLarge, match="expected at most 1000 at once"):
        await world.trash.restore_many(world.cache, [part(f"{number:032}-x") for number in range(1001)], TESTER)


async def test_whole_collection_is_restored_also_after_it_broke_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icehouse.db.trash._BATCH", 1)
    world.store.now += DAY
    await world.delete(OTHER)
    world.store.now += 40 * DAY
    await world.store.database.write(
        lambda connection: set_settings(
            connection, world.cache.id, CacheSettings(keep_unused_seconds=30 * DAY, trash_seconds=99 * DAY)
        )
    )
    collect(world)
    write, calls = world.store.database.write, 0

    async def fail_later(work: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Unavailable("the disk went away")
        return await write(work)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]  as it is

    with monkeypatch.context() as patch:
        patch.setattr(world.store.database, "write", fail_later)
        with pytest.raises(Unavailable):
            await world.trash.restore_collection(world.cache, 1, TESTER)
    partly = await world.names()
    assert 0 < len(partly) < 3
    answer = await world.trash.restore_collection(world.cache, 1, TESTER)
    assert sorted(partly + answer.restored) == [LIB, APP, TOOL]
    assert await world.names(is_trash=True) == [OTHER], "which somebody deleted"
    with pytest.raises(NotFound, match="no collection 2 of cache 'main' is known"):
        await world.trash.restore_collection(world.cache, 2, TESTER)


async def test_plan_of_a_deletion_names_referrers_and_pins_and_changes_nothing(world: World) -> None:
    await world.pin("release", TOOL)
    plan = await world.trash.plan_delete(world.cache, part(LIB))
    assert (plan.store_path, plan.referrers, plan.referrer_count) == (LIB, [APP, TOOL], 2)
    assert plan.kept_by == ["release (revision 1)"]
    assert await world.names() == [LIB, APP, TOOL, OTHER]
    alone = await world.trash.plan_delete(world.cache, part(OTHER))
    assert (alone.referrers, alone.kept_by) == ([], [])
    await world.delete(OTHER)
    with pytest.raises(Conflict, match="in the trash already"):
        await world.trash.plan_delete(world.cache, part(OTHER))
