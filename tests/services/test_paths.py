"""Finding paths, and telling about one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text, update

from icehouse.api.paths import FoundPaths
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.schema import path, token
from icehouse.errors import InvalidFormat, NotFound
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Actor
from icehouse.services import paths as paths_module
from icehouse.services.access_times import AccessTimes
from icehouse.services.paths import Paths
from icehouse.services.trash import Trash
from tests.services.publishing import KEY, NOW, Store, nar_of

LETTERS = "0123456789abcdfghijklmnpqrsvwxyz"
NAMES = (
    "glibc-2.39",
    "openssl-3.0.13",
    "openssl-3.0.13-dev",
    "python3.11-numpy-1.26",
    "python3.11-openssl-24",
    "jq-1.7",
)


def base_name(index: int, name: str) -> str:
    return f"{LETTERS[index] * 32}-{name}"


PATHS = tuple(base_name(index, name) for index, name in enumerate(NAMES))
GLIBC, OPENSSL = PATHS[:2]


class World:
    """A cache with some paths, and one beside it that has the first of them too."""

    def __init__(self, store: Store, cache: CacheRow, other: CacheRow, access: Database) -> None:
        self.store = store
        self.cache = cache
        self.other = other
        self.access_times = AccessTimes(access)
        self.paths = Paths(store.database, access, self.access_times, clock=lambda: store.now)

    async def names(self, query: str = "", *, by: str = "", with_hidden: bool = False) -> list[str]:
        return names_of(await self.paths.search(self.cache, query, by=by, with_hidden=with_hidden))

    async def hide(self, name: str) -> None:
        trash = Trash(self.store.database, lambda: self.store.now, note_use=lambda _, __: None)
        await trash.delete(self.cache, HashPart(name[:32]), Actor("ann"), with_referrers=True)


def names_of(found: FoundPaths) -> list[str]:
    return [each.store_path for each in found.paths]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store.open(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def world(store: Store, tmp_path: Path) -> AsyncIterator[World]:
    cache, other = await store.create_cache("main"), await store.create_cache("other")
    await store.push(other, (GLIBC, nar_of(b"glibc"), []))
    await store.push(cache, (GLIBC, nar_of(b"glibc"), [GLIBC]))
    for each in PATHS[1:]:
        await store.push(cache, (each, nar_of(each.encode()), [GLIBC]))
    prepare_access_database(tmp_path / "uses.db")
    with closing(Database.open(tmp_path / "uses.db", revision=ACCESS_REVISION)) as access:
        yield World(store, cache, other, access)


async def test_paths_are_listed_the_newest_first_and_of_one_cache(world: World) -> None:
    assert await world.names() == [*PATHS[::-1]]
    assert names_of(await world.paths.search(world.other)) == [GLIBC]


FOUND: dict[str, list[int]] = {
    "openssl": [4, 2, 1],
    "SSL": [4, 2, 1],
    "openssl dev": [2],
    "python3.11-num": [3],
    "jq": [5],
    "q": [],
    "python3.11 glibc": [],
    "2.39": [0],
    '"': [],
    "nothing": [],
    LETTERS[1] * 32: [1],
    LETTERS[1] * 7: [1],
    f"/nix/store/{PATHS[4]}": [4],
    LETTERS[9] * 32: [],
}


async def test_paths_are_found(world: World) -> None:
    for query, found in FOUND.items():
        assert await world.names(query) == [PATHS[index] for index in found], query


async def test_letters_in_threes_that_are_there_in_another_order_are_no_match(world: World) -> None:
    await world.store.push(world.cache, (base_name(7, "abcabd-bca"), nar_of(b"x"), []))
    assert await world.names("abcabd") == [base_name(7, "abcabd-bca")]
    assert await world.names("abdabc") == []
    assert await world.names("bcabca") == []


async def test_pages_join_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths_module, "PATHS_A_PAGE", 2)
    monkeypatch.setattr(paths_module, "_ROWS_AT_ONCE", 2)
    for query, all_found in (("", [*PATHS[::-1]]), ("openssl", [PATHS[4], PATHS[2], PATHS[1]])):
        found = await world.paths.search(world.cache, query)
        listed = names_of(found)
        while found.before is not None:
            assert len(found.paths) <= 2
            found = await world.paths.search(world.cache, query, before=found.before)
            listed += names_of(found)
        assert listed == all_found


async def test_what_is_in_the_trash_is_told_to_who_may_see_it(world: World) -> None:
    await world.hide(PATHS[2])
    assert await world.names("openssl") == [PATHS[4], PATHS[1]]
    assert PATHS[2] not in await world.names()
    found = await world.paths.search(world.cache, "openssl", with_hidden=True)
    assert [each.hidden_because for each in found.paths] == [None, "deleted by ann", None]
    assert await world.names(PATHS[2][:32]) == []
    assert await world.names(PATHS[2][:32], with_hidden=True) == [PATHS[2]]


async def test_page_ends_where_enough_was_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PATHS[2:]:
        await world.hide(name)
    monkeypatch.setattr(paths_module, "_ROWS_AT_ONCE", 1)
    found = await world.paths.search(world.cache)
    assert found.paths == []
    assert found.before is not None
    assert names_of(await world.paths.search(world.cache, before=found.before)) == [OPENSSL, GLIBC]


async def test_path_is_found_by_who_pushed_it(world: World) -> None:
    def push_as(connection: Connection) -> None:
        for token_id, description in ((11, "CI of Ann"), (12, "laptop 100%")):
            values = {"description": description, "token_hash": bytes([token_id]), "permissions": "push"}
            connection.execute(insert(token).values(id=token_id, cache_pattern="*", created_at=NOW, **values))
        for index, token_id in ((1, 11), (2, 12), (3, 11)):
            hash_part = PATHS[index][:32]
            connection.execute(update(path).where(path.c.hash_part == hash_part).values(published_by=token_id))

    await world.store.database.write(push_as)
    assert await world.names(by="ann") == [PATHS[3], PATHS[1]]
    assert await world.names(by="laptop 100%") == [PATHS[2]]
    assert await world.names(by="_") == []
    assert await world.names("openssl", by="ci") == [PATHS[1]]
    assert names_of(await world.paths.search(world.other, by="ann")) == []


async def test_other_place_to_go_on_from_is_refused(world: World) -> None:
    for before in ("", "x", "-1", "1.2.3", "9" * 30):
        with pytest.raises(InvalidFormat, match="before"):
            await world.paths.search(world.cache, before=before)


async def test_referrers_are_those_of_the_cache_without_the_path_itself(world: World) -> None:
    glibc = HashPart(GLIBC[:32])
    assert names_of(await world.paths.list_referrers(world.cache, glibc)) == [*PATHS[:0:-1]]
    assert names_of(await world.paths.list_referrers(world.other, glibc)) == []
    assert names_of(await world.paths.list_referrers(world.cache, HashPart(OPENSSL[:32]))) == []
    await world.hide(PATHS[5])
    assert PATHS[5] not in names_of(await world.paths.list_referrers(world.cache, glibc))
    assert PATHS[5] in names_of(await world.paths.list_referrers(world.cache, glibc, with_hidden=True))


async def test_what_is_pushed_again_under_another_name_is_found_by_that(world: World) -> None:
    await world.hide(PATHS[5])
    await world.store.push(world.cache, (base_name(5, "yq-4"), nar_of(b"yq"), []))
    assert await world.names("jq", with_hidden=True) == []
    assert await world.names("yq") == [base_name(5, "yq-4")]
    assert PATHS[5] not in names_of(await world.paths.list_referrers(world.cache, HashPart(GLIBC[:32])))


async def test_what_is_gone_is_in_no_index(world: World) -> None:
    await world.store.database.write(lambda connection: connection.execute(path.delete()))
    for table, query in (("path_name", '"gli" OR "-op"'), ("path_link", '"000000000000"')):
        found = text(f"SELECT rowid FROM {table} WHERE {table} MATCH :query").bindparams(query=query)  # noqa: S608
        left = await world.store.database.read(lambda connection, found=found: connection.execute(found).all())
        assert left == []


async def test_each_signature_is_looked_at(world: World) -> None:
    (found,) = (await world.paths.show(world.cache, HashPart(GLIBC[:32]))).signature_checks
    assert (found.key, found.verdict, found.whose) == (KEY.key_name, "unknown-key", None)
    with pytest.raises(NotFound):
        await world.paths.show(world.cache, HashPart("z" * 32))


async def test_last_use_is_told_before_it_is_written_and_after(world: World) -> None:
    glibc = HashPart(GLIBC[:32])
    path_id = await world.store.database.read(
        lambda connection: connection.execute(
            select(path.c.id).where(path.c.hash_part == glibc, path.c.cache_id == world.cache.id)
        ).scalar_one()
    )
    assert (await world.paths.show(world.cache, glibc, with_use=True)).last_used_at is None
    world.access_times.note(path_id, NOW + 5)
    assert (await world.paths.show(world.cache, glibc, with_use=True)).last_used_at == NOW + 5
    await world.access_times.flush()
    assert (await world.paths.show(world.cache, glibc, with_use=True)).last_used_at == NOW + 5
    assert (await world.paths.show(world.cache, glibc)).last_used_at is None
