"""What somebody published is hidden with all that reaches it, and comes back when that is undone, not by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from icehouse.api.publish import PathsRequest
from icehouse.api.revocations import DownloadView, RevocationAnswer, RevocationCreate
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.paths import load_paths
from icehouse.db.schema import path, waiting_path
from icehouse.db.tokens import insert_token
from icehouse.db.trust import insert_job
from icehouse.db.verification import restore_healed
from icehouse.errors import Conflict, Denied, InvalidFormat, NotFound
from icehouse.nix.store_paths import HashPart
from icehouse.rules.access import Grant, Permission
from icehouse.rules.audit import Actor
from icehouse.rules.provenance import Job
from icehouse.rules.verification import UNREADABLE
from icehouse.services.access_times import AccessTimes
from icehouse.services.downloads import Downloads
from icehouse.services.nar_copies import NarCopies
from icehouse.services.promote import Promotions
from icehouse.services.revocations import Revocations, check_may_revoke
from icehouse.services.serve import explain_path
from icehouse.services.trash import Trash
from tests.services.publishing import NOW, Store, nar_of, path_body

LIB, APP, TOOL, OTHER = f"{'a' * 32}-lib", f"{'b' * 32}-app", f"{'c' * 32}-tool", f"{'d' * 32}-other"
NARS = {name: nar_of(name.encode()) for name in (LIB, APP, TOOL, OTHER)}
ACTOR = Actor("admin", 1)
ADMIN = Grant(1, "admin", frozenset({Permission.ADMIN}), "*")


class World:
    """A cache that several people publish to."""

    def __init__(self, store: Store, cache: CacheRow, access: Database) -> None:
        self.store = store
        self.cache = cache
        self.tokens: list[int] = []
        self.times = AccessTimes(access)
        self.downloads = Downloads(access, lambda: store.now, keep_days=30)
        self.revocations = Revocations(store.database, access, lambda: store.now, flush_uses=self.flush)
        self.trash = Trash(store.database, lambda: store.now, note_use=self.times.note)

    async def flush(self) -> None:
        await self.times.flush()
        await self.downloads.flush()

    async def download(self, name: str, by: int | str, now: int) -> None:
        """Note a download of a path, with a token or from an address."""
        part = HashPart(name[:32])
        row = (await self.store.database.read(partial(load_paths, cache_id=self.cache.id, hash_parts=[part])))[part]
        token_id, address = (by, "") if isinstance(by, int) else (None, by)
        self.downloads.note(row.id, token_id, address, now)

    async def add_token(self, **job: str) -> int:
        def work(connection: Connection) -> int:
            job_id = None
            if job:
                job_id = insert_job(connection, Job(**{"issuer": "https://ci", "subject": "x"} | job), now=NOW)
            row = insert_token(
                connection,
                bytes([len(self.tokens)]) * 32,
                description="somebody",
                permissions=[Permission.PUSH],
                cache_pattern="*",
                created_by=None,
                expires_at=None,
                now=NOW,
                job_id=job_id,
            )
            self.tokens.append(row.id)
            return row.id

        return await self.store.database.write(work)

    async def push(self, token: int, name: str, references: tuple[str, ...] = ()) -> None:
        body = await self.store.nar_body(self.cache, NARS[name])
        await self.store.register(self.cache, body)
        request = PathsRequest([path_body(name, NARS[name], references)])
        answer = await self.store.publisher.publish_paths(self.cache, request, token_id=token)
        if answer.refused:
            raise Conflict(answer.refused[0].reason)

    async def visible(self) -> set[str]:
        page = await self.trash.list_paths(self.cache, is_trash=False)
        return {each.store_path for each in page.paths}

    async def revoke(
        self, since: int = 0, until: int | None = None, *, dry_run: bool = False, **by: str
    ) -> RevocationAnswer:
        request = RevocationCreate(by=by, since=since, until=until, dry_run=dry_run)
        return await self.revocations.revoke(request, ACTOR)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = Store.open(tmp_path)
    prepare_access_database(tmp_path / "access.db")
    access = Database.open(tmp_path / "access.db", revision=ACCESS_REVISION)
    world = World(store, await store.create_cache("main"), access)
    await world.add_token()  # the administrator's
    yield world
    access.close()
    await store.close()


async def publish_all(world: World) -> tuple[int, int]:
    """Mallory's library, which Ann's application needs, which Bob's tool needs; and another path of Ann's."""
    mallory, ann = await world.add_token(), await world.add_token()
    await world.push(mallory, LIB)
    await world.push(ann, APP, (LIB,))
    await world.push(ann, TOOL, (APP,))
    await world.push(ann, OTHER)
    return mallory, ann


async def test_what_a_token_published_is_hidden_with_all_that_reaches_it_and_comes_back(world: World) -> None:
    mallory, _ = await publish_all(world)
    answer = await world.revoke(token=str(mallory))
    assert {each.path: each.reaches for each in answer.paths} == {
        f"main/{LIB}": None,
        f"main/{APP}": LIB,
        f"main/{TOOL}": LIB,
    }
    assert await world.visible() == {OTHER}
    why = await explain_path(world.store.database, world.cache, HashPart(LIB[:32]), now=NOW)
    assert why.hidden_because == f"revocation {answer.id}: it was published by token {mallory}"
    assert answer.id is not None
    undone = await world.revocations.undo(answer.id, ACTOR)
    assert (undone.restored, undone.left) == ([f"main/{LIB}", f"main/{APP}", f"main/{TOOL}"], 0)
    assert await world.visible() == {LIB, APP, TOOL, OTHER}
    with pytest.raises(Conflict):
        await world.revocations.undo(answer.id, ACTOR)
    with pytest.raises(NotFound):
        await world.revocations.undo(99, ACTOR)
    (view,) = await world.revocations.list_revocations()
    assert (view.by, view.undone_at) == (f"token {mallory}", NOW)


async def test_dry_run_tells_the_same_and_changes_nothing(world: World) -> None:
    mallory, _ = await publish_all(world)
    told = await world.revoke(dry_run=True, token=str(mallory))
    assert await world.visible() == {LIB, APP, TOOL, OTHER}
    assert await world.revocations.list_revocations() == []
    done = await world.revoke(token=str(mallory))
    assert (told.id, told.paths, told.count) == (None, done.paths, 3)


async def test_who_is_revoked_cannot_publish_again_and_somebody_else_can(world: World) -> None:
    mallory, ann = await publish_all(world)
    await world.revoke(token=str(mallory))
    for name in (LIB, OTHER):
        with pytest.raises(Denied, match="is revoked"):
            await world.push(mallory, name)
    assert LIB not in await world.visible()
    with pytest.raises(Conflict, match="neither here"):  # a push of what refers to it does not bring it back
        await world.push(ann, APP, (LIB,))
    await world.push(ann, LIB)
    assert await world.visible() == {LIB, OTHER}
    restored = await world.trash.restore(world.cache, HashPart(TOOL[:32]), ACTOR)
    assert sorted(restored.restored) == [APP, TOOL]


async def test_with_an_end_only_the_paths_themselves_are_held_back(world: World) -> None:
    mallory, _ = await publish_all(world)
    world.store.now = NOW + 100
    await world.revoke(since=NOW, until=NOW + 50, token=str(mallory))
    with pytest.raises(Denied, match="holds it back"):
        await world.push(mallory, LIB)
    assert LIB not in await world.visible()
    new = f"{'f' * 32}-new"
    NARS[new] = nar_of(b"new")
    await world.push(mallory, new)
    assert new in await world.visible()


async def test_times_bound_what_is_meant(world: World) -> None:
    mallory = await world.add_token()
    for second, name in enumerate((LIB, OTHER, TOOL)):
        world.store.now = NOW + 10 * second
        await world.push(mallory, name)
    await world.revoke(since=NOW + 10, until=NOW + 20, token=str(mallory))
    assert await world.visible() == {LIB, TOOL}
    for since, until in ((NOW + 1000, None), (NOW + 10, NOW + 1000), (NOW + 10, NOW), (-1, None)):
        with pytest.raises(InvalidFormat, match="past"):
            await world.revoke(since=since, until=until, token=str(mallory))


async def test_jobs_are_meant_by_what_their_issuer_said(world: World) -> None:
    evil = await world.add_token(repository="org/app", run="7")
    good = await world.add_token(repository="org/app", run="8")
    also = await world.add_token(repository="org/lib", run="7")
    await world.push(evil, LIB)
    await world.push(good, APP)
    await world.push(also, OTHER)
    await world.revoke(repository="org/app", run="7")
    assert await world.visible() == {APP, OTHER}
    again = await world.add_token(repository="org/app", run="7")  # another token of the same run
    with pytest.raises(Denied):
        await world.push(again, LIB)
    await world.push(good, LIB)
    malformed: list[dict[str, str]] = [{}, {"nonsense": "x"}, {"token": "x"}, {"token": "1", "run": "7"}, {"run": ""}]
    for by in malformed:
        with pytest.raises(InvalidFormat, match="by"):
            await world.revocations.revoke(RevocationCreate(by=by, since=0), ACTOR)


async def test_neither_a_restore_nor_repair_brings_back_what_is_revoked(world: World) -> None:
    mallory, _ = await publish_all(world)
    await world.revoke(token=str(mallory))
    for name in (LIB, APP):
        with pytest.raises(Conflict, match="revoked"):
            await world.trash.restore(world.cache, HashPart(name[:32]), ACTOR)
    mark = update(path).where(path.c.hash_part == LIB[:32]).values(hidden_because=UNREADABLE)
    await world.store.database.write(lambda connection: connection.execute(mark))
    assert await world.store.database.write(lambda connection: restore_healed(connection, world.cache.id)) == []


async def test_what_was_in_the_trash_before_is_held_back_and_stays_there_afterwards(world: World) -> None:
    mallory, ann = await world.add_token(), await world.add_token()
    await world.push(mallory, LIB)
    await world.trash.delete(world.cache, HashPart(LIB[:32]), ACTOR, with_referrers=False)
    answer = await world.revoke(token=str(mallory))
    with pytest.raises(Conflict):
        await world.push(ann, APP, (LIB,))
    assert answer.id is not None
    assert (await world.revocations.undo(answer.id, ACTOR)).restored == []
    await world.push(ann, APP, (LIB,))
    assert await world.visible() == {LIB, APP}


async def test_undo_leaves_what_cannot_be_whole(world: World) -> None:
    mallory, ann = await publish_all(world)
    first = await world.revoke(token=str(mallory))
    second = await world.revoke(token=str(ann))
    assert await world.visible() == set()
    assert first.id is not None
    assert second.id is not None
    undone = await world.revocations.undo(first.id, ACTOR)
    assert (undone.restored, undone.left) == ([f"main/{LIB}"], 2)
    assert (await world.revocations.undo(second.id, ACTOR)).restored == [f"main/{name}" for name in (APP, TOOL, OTHER)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_path_that_two_revocations_mean_comes_back_with_the_last_undo(
    world: World, order: tuple[int, int]
) -> None:
    mallory, ann = await world.add_token(repository="org/app", run="7"), await world.add_token()
    await world.push(mallory, LIB)
    numbers = [(await world.revoke(run="7")).id, (await world.revoke(repository="org/app")).id]
    first, second = (numbers[index] or 0 for index in order)
    assert (await world.revocations.undo(first, ACTOR)).restored == []
    with pytest.raises(Conflict, match="neither here"):
        await world.push(ann, APP, (LIB,))
    assert (await world.revocations.undo(second, ACTOR)).restored == [f"main/{LIB}"]


async def test_path_that_waits_is_forgotten(world: World) -> None:
    mallory = await world.add_token()
    body = await world.store.nar_body(world.cache, NARS[APP])
    await world.store.register(world.cache, body)
    waiting = path_body(APP, NARS[APP], [LIB])
    await world.store.publisher.publish_or_wait(world.cache, waiting, token_id=mallory)
    assert await world.store.count(waiting_path) == 1
    await world.revoke(token=str(mallory))
    assert await world.store.count(waiting_path) == 0


async def test_uses_of_what_is_hidden_are_told(world: World) -> None:
    mallory, _ = await publish_all(world)
    path_id = await world.store.database.read(
        lambda connection: connection.execute(select(path.c.id).where(path.c.hash_part == LIB[:32])).scalar_one()
    )
    world.times.note(path_id, NOW + 5)
    world.times.note(path_id, NOW + 7)
    answer = await world.revoke(dry_run=True, token=str(mallory))
    used = {each.path: (each.uses, each.last_used_at) for each in answer.paths}
    assert used[f"main/{LIB}"] == (2, NOW + 7)
    assert used[f"main/{APP}"] == (0, None)


def test_only_who_administers_all_caches_may_revoke() -> None:
    assert check_may_revoke(ADMIN) is ADMIN
    for permission, pattern in ((Permission.ADMIN, "main"), (Permission.DELETE, "*")):
        with pytest.raises(Denied):
            check_may_revoke(Grant(1, "x", frozenset({permission}), pattern))


async def test_revocation_tells_who_downloaded_what_it_hid(world: World) -> None:
    mallory, ann = await publish_all(world)
    token = await world.add_token(repository="org/app")
    for name, by, now in (
        (LIB, token, NOW + 5),
        (LIB, token, NOW + 9),
        (LIB, "192.0.2.7", NOW + 6),
        (APP, token, NOW + 8),
        (OTHER, "192.0.2.8", NOW + 7),  # which nobody revokes
    ):
        await world.download(name, by, now)
    answer = await world.revoke(token=str(mallory), dry_run=True)
    told = {path.path[5:]: [(by.token_id, by.address, by.downloads) for by in path.downloads] for path in answer.paths}
    assert told == {LIB: [(token, None, 2), (None, "192.0.2.7", 1)], APP: [(token, None, 1)], TOOL: []}
    assert answer.downloaders == [
        DownloadView(
            token_id=token, name="somebody", address=None, paths=2, downloads=3, first_at=NOW + 5, last_at=NOW + 9
        ),
        DownloadView(
            token_id=None, name=None, address="192.0.2.7", paths=1, downloads=1, first_at=NOW + 6, last_at=NOW + 6
        ),
    ]
    done = await world.revoke(token=str(mallory))
    assert (done.paths, done.downloaders) == (answer.paths, answer.downloaders)
    await world.revocations.undo(done.id or 0, ACTOR)
    assert await world.visible() == {LIB, APP, TOOL, OTHER}
    assert (await world.revoke(token=str(ann), dry_run=True)).downloaders


async def test_download_is_told_of_each_path_that_has_the_nar_and_of_none_that_had_the_number_before(
    world: World,
) -> None:
    mallory = await world.add_token()
    twin = f"{'f' * 32}-twin"
    NARS[twin] = NARS[LIB]
    await world.push(mallory, LIB)
    world.store.now = NOW + 10
    await world.push(mallory, twin)
    await world.download(LIB, "192.0.2.7", NOW + 5)
    await world.download(twin, "192.0.2.8", NOW + 9)  # before the path was there
    answer = await world.revoke(token=str(mallory), dry_run=True)
    assert [[by.address for by in path.downloads] for path in answer.paths] == [["192.0.2.7"]] * 2


async def test_revocation_names_what_was_promoted_elsewhere_and_leaves_it(world: World) -> None:
    mallory, _ = await publish_all(world)
    store = world.store
    main, apart = await store.create_cache("other-main"), await store.create_cache("unlike")
    copies = NarCopies(store.database, store.blobs, store.workers, store.nars, lambda: store.now)
    promotions = Promotions(store.database, store.publisher, copies, lambda: store.now)
    await promotions.promote(main, world.cache, HashPart(LIB[:32]), ACTOR)
    await store.push(apart, (LIB, nar_of(b"another build"), []))
    for dry_run in (True, False):
        answer = await world.revoke(token=str(mallory), dry_run=dry_run)
        assert {path.path: path.copies for path in answer.paths if path.copies} == {
            f"main/{LIB}": [f"other-main/{LIB}"]
        }
    page = await world.trash.list_paths(main, is_trash=False)
    assert [each.store_path for each in page.paths] == [LIB]
