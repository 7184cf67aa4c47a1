from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, update

from icehouse.db import schema
from icehouse.db.caches import CacheRow, delete_cache
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.pins import (
    Links,
    RevisionRow,
    count_pins,
    delete_pin,
    delete_revisions,
    find_links,
    find_pin,
    insert_pin,
    insert_revision,
    list_pins,
    load_pins,
    load_revisions,
    page_revisions,
    set_artifacts,
    set_keep,
)
from icehouse.db.tokens import insert_token
from icehouse.db.trash import find_visible_names
from icehouse.nix.store_paths import StorePath, parse_hash_part
from icehouse.rules.access import Permission
from icehouse.rules.pins import KEEP_ALL, Keep, Pin, Revision
from tests.db.plans import steps_of
from tests.db.test_caches import add_cache, add_path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


@pytest.fixture
async def cache(database: Database) -> CacheRow:
    """A cache with the paths 1 to 3, the last of them in the trash."""

    def make(connection: Connection) -> CacheRow:
        cache = add_cache(connection, "main")
        add_path(connection, cache, "a")
        add_path(connection, cache, "b")
        add_path(connection, cache, "c", hidden_at=7)
        return cache

    return await database.write(make)


def add_pin(connection: Connection, cache: CacheRow, name: str, *path_ids: int, keep: Keep = KEEP_ALL) -> int:
    pin_id = insert_pin(connection, cache.id, name, keep, now=100)
    for number, path_id in enumerate(path_ids, start=1):
        insert_revision(connection, pin_id, Revision(number, path_id, 100 + number), (), created_by=None)
    return pin_id


async def test_pin_is_found_with_its_newest_revision(database: Database, cache: CacheRow) -> None:
    def make(connection: Connection) -> int:
        token = insert_token(
            connection,
            b"h" * 32,
            description="CI",
            permissions=[Permission.PIN],
            cache_pattern="*",
            created_by=None,
            expires_at=None,
            now=0,
        )
        pin_id = add_pin(connection, cache, "app", 1, keep=Keep(days=3))
        insert_revision(connection, pin_id, Revision(2, 2, 300), ("bin/app", "h\u00f6her"), created_by=token.id)
        return pin_id

    pin_id = await database.write(make)
    row = await database.read(lambda connection: find_pin(connection, cache.id, "app"))
    assert row is not None
    assert (row.id, row.name, row.keep, row.created_at) == (pin_id, "app", Keep(days=3), 100)
    path = StorePath(parse_hash_part("b" * 32), "hello")
    assert row.newest == RevisionRow(Revision(2, 2, 300), path, None, ("bin/app", "h\u00f6her"), "CI")
    assert await database.read(lambda connection: find_pin(connection, cache.id, "ap")) is None
    assert await database.read(lambda connection: find_pin(connection, cache.id + 1, "app")) is None


async def test_pins_are_listed_by_name_each_once_and_of_one_cache(database: Database, cache: CacheRow) -> None:
    def work(connection: Connection) -> None:
        other = add_cache(connection, "other")
        add_path(connection, other, "d")
        add_pin(connection, cache, "b", 1, 2, 3)
        add_pin(connection, cache, "a", 2, keep=Keep(revisions=5))
        add_pin(connection, other, "c", 4)
        listed = list_pins(connection, cache.id)
        assert [(row.name, row.newest.revision.number, row.newest.hidden_at) for row in listed] == [
            ("a", 1, None),
            ("b", 3, 7),
        ]
        assert load_pins(connection, cache.id) == (
            Pin("a", Keep(revisions=5), (Revision(1, 2, 101),)),
            Pin("b", KEEP_ALL, (Revision(1, 1, 101), Revision(2, 2, 102), Revision(3, 3, 103))),
        )
        assert (count_pins(connection, cache.id), count_pins(connection, other.id)) == (2, 1)

    await database.write(work)


async def test_revisions_come_in_pages_the_newest_first(database: Database, cache: CacheRow) -> None:
    def work(connection: Connection) -> None:
        pin_id = add_pin(connection, cache, "app", 1, 2, 1, 2, 1)
        page = page_revisions(connection, pin_id, before=None, limit=2)
        assert [row.revision.number for row in page] == [5, 4]
        page = page_revisions(connection, pin_id, before=4, limit=9)
        assert [row.revision.number for row in page] == [3, 2, 1]
        assert [revision.path_id for revision in load_revisions(connection, pin_id)] == [1, 2, 1, 2, 1]

    await database.write(work)


async def test_rule_artifacts_and_revisions_of_a_pin_change(database: Database, cache: CacheRow) -> None:
    def work(connection: Connection) -> None:
        other_id = add_pin(connection, cache, "other", 1, 2)
        pin_id = add_pin(connection, cache, "app", 1, 2, 1)
        set_keep(connection, pin_id, Keep(revisions=2))
        set_artifacts(connection, pin_id, 3, ["bin/app"])
        delete_revisions(connection, pin_id, range(1, 2_500, 2))
        delete_revisions(connection, pin_id, [])
        row = find_pin(connection, cache.id, "app")
        assert row is not None
        assert (row.keep, row.newest.revision.number, row.newest.artifacts) == (Keep(revisions=2), 2, ())
        set_artifacts(connection, pin_id, 2, ["bin/app"])
        assert page_revisions(connection, pin_id, before=None, limit=9)[0].artifacts == ("bin/app",)
        assert [row.artifacts for row in page_revisions(connection, other_id, before=None, limit=9)] == [(), ()]

    await database.write(work)


async def test_removing_a_pin_removes_its_revisions_and_no_path(database: Database, cache: CacheRow) -> None:
    def work(connection: Connection) -> None:
        add_pin(connection, cache, "app", 1, 2)
        assert not delete_pin(connection, cache.id, "other")
        assert not delete_pin(connection, cache.id + 1, "app")
        assert delete_pin(connection, cache.id, "app")
        assert _count(connection) == (0, 0, 3)

    await database.write(work)


async def test_cache_with_pins_can_be_deleted(database: Database, cache: CacheRow) -> None:
    def work(connection: Connection) -> None:
        other = add_cache(connection, "other")
        add_path(connection, other, "d")
        add_pin(connection, other, "kept", 4)
        add_pin(connection, cache, "app", 1, 2)
        delete_cache(connection, cache.id)
        assert _count(connection) == (1, 1, 1)

    await database.write(work)


async def test_links_are_those_of_visible_paths_of_the_cache(database: Database, cache: CacheRow) -> None:
    a, b, c, d = (parse_hash_part(letter * 32) for letter in "abcd")

    def work(connection: Connection) -> None:
        other = add_cache(connection, "other")
        add_path(connection, other, "d")
        references = f"{b}-hello {c}-hello"
        connection.execute(update(schema.path).where(schema.path.c.id == 1).values(references=references))
        assert find_links(connection, cache.id, [a, b, c, d]) == {
            a: Links(f"{a}-hello", [f"{b}-hello", f"{c}-hello"]),
            b: Links(f"{b}-hello", []),
        }

    await database.write(work)


async def test_links_are_looked_up_by_hash_part(database: Database, cache: CacheRow) -> None:
    hash_parts = [parse_hash_part("a" * 32)] * 3

    def work(connection: Connection) -> list[str]:
        return steps_of(connection, lambda: find_links(connection, cache.id, hash_parts, since=1))

    (step,) = await database.write(work)
    assert "(cache_id=? AND hash_part=?)" in step, "the index of generations leads through half of the cache"


async def test_names_of_paths_are_looked_up_by_id(database: Database, cache: CacheRow) -> None:
    def work(connection: Connection) -> list[str]:
        return steps_of(connection, lambda: find_visible_names(connection, cache.id, [1, 2, 3]))

    (step,) = await database.write(work)
    assert "PRIMARY KEY (rowid=?)" in step, "an index by cache leads through all of it"


def _count(connection: Connection) -> tuple[int, ...]:
    tables = (schema.pin, schema.pin_revision, schema.path)
    return tuple(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
