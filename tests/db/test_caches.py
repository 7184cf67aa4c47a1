from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select

from icehouse.db import schema
from icehouse.db.caches import (
    PUBLIC_DOMAIN_ID,
    CacheRow,
    delete_cache,
    find_cache,
    find_domain,
    get_cache,
    insert_cache,
    insert_domain,
    insert_upstream,
    list_caches,
    list_caches_of_domain,
    list_upstreams,
    page_recipes,
    purge_domain,
    sum_stored_bytes,
)
from icehouse.db.engine import Database
from icehouse.db.keys import count_keys, insert_key, list_keys
from icehouse.db.migrate import prepare_database
from icehouse.db.sizes import CacheSizes, load_cache_sizes
from icehouse.errors import Conflict, NotFound
from icehouse.nix.signing import PublicKey
from icehouse.nix.store_paths import NIX_STORE

KEY = PublicKey("key-1", bytes(32))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


def add_cache(connection: Connection, name: str, *, domain_id: int = PUBLIC_DOMAIN_ID) -> CacheRow:
    return insert_cache(
        connection,
        name=name,
        domain_id=domain_id,
        is_public=domain_id == PUBLIC_DOMAIN_ID,
        store_dir=NIX_STORE,
        priority=41,
        want_mass_query=True,
        now=1_000,
    )


def add_path(
    connection: Connection, cache: CacheRow, letter: str, *, hidden_at: int | None = None, created_at: int = 0
) -> int:
    """A path with a NAR of 100 bytes, one chunk of 60 stored bytes and an invented recipe. Gives the NAR's number."""
    domain_id = cache.domain_id
    hash32 = letter.encode() * 32
    pack_id = connection.execute(
        insert(schema.pack)
        .values(domain_id=domain_id, name=hash32, size_bytes=99, created_at=0)
        .returning(schema.pack.c.id)
    ).scalar_one()
    connection.execute(
        insert(schema.chunk).values(
            domain_id=domain_id, identity=hash32, pack_id=pack_id, pack_offset=0, stored_bytes=60, raw_bytes=100
        )
    )
    nar_id = connection.execute(
        insert(schema.nar)
        .values(domain_id=domain_id, nar_hash=hash32, nar_size=100, file_hash=hash32, file_size=70, created_at=0)
        .returning(schema.nar.c.id)
    ).scalar_one()
    connection.execute(insert(schema.recipe).values(nar_id=nar_id, body=hash32))
    connection.execute(
        insert(schema.path).values(
            cache_id=cache.id,
            hash_part=letter * 32,
            name="hello",
            nar_id=nar_id,
            nar_hash="n",
            nar_size=100,
            file_hash="f",
            file_size=70,
            references="",
            signatures="",
            created_at=created_at,
            hidden_at=hidden_at,
        )
    )
    return nar_id


def count_rows(connection: Connection) -> dict[str, int]:
    return {
        name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for name, table in schema.metadata.tables.items()
    }


async def test_a_cache_is_found_by_its_name(database: Database) -> None:
    made = await database.write(lambda connection: add_cache(connection, "main"))
    assert made == CacheRow(1, "main", 1, True, NIX_STORE, 41, True, 1_000)  # noqa: FBT003  the row's columns
    assert await database.read(lambda connection: get_cache(connection, "main")) == made
    assert await database.read(list_caches) == (made,)


async def test_an_absent_cache_is_not_found(database: Database) -> None:
    assert await database.read(lambda connection: find_cache(connection, "main")) is None
    with pytest.raises(NotFound, match="'main'"):
        await database.read(lambda connection: get_cache(connection, "main"))


async def test_a_name_is_used_once(database: Database) -> None:
    await database.write(lambda connection: add_cache(connection, "main"))
    with pytest.raises(Conflict, match="'main' exists already"):
        await database.write(lambda connection: add_cache(connection, "main"))


async def test_numbers_of_caches_and_domains_are_never_reused(database: Database) -> None:
    def work(connection: Connection) -> tuple[int, int, int, int]:
        first = insert_domain(connection, None, now=0)
        cache = add_cache(connection, "main", domain_id=first)
        delete_cache(connection, cache.id)
        purge_domain(connection, first)
        second = insert_domain(connection, None, now=0)
        return first, second, cache.id, add_cache(connection, "main", domain_id=second).id

    assert await database.write(work) == (2, 3, 1, 2)


async def test_domains_are_found_by_name(database: Database) -> None:
    def work(connection: Connection) -> None:
        team = insert_domain(connection, "team", now=0)
        insert_domain(connection, None, now=0)
        insert_domain(connection, None, now=0)
        assert find_domain(connection, "team") == team
        assert find_domain(connection, "public") == PUBLIC_DOMAIN_ID
        assert find_domain(connection, "other") is None
        add_cache(connection, "b", domain_id=team)
        add_cache(connection, "a", domain_id=team)
        add_cache(connection, "c")
        assert [cache.name for cache in list_caches_of_domain(connection, team)] == ["a", "b"]

    await database.write(work)


async def test_upstreams_and_keys_come_back_in_order(database: Database) -> None:
    other = PublicKey("other-1", bytes([7]) * 32)

    def work(connection: Connection) -> None:
        cache = add_cache(connection, "main")
        insert_upstream(connection, cache.id, "https://b.example", [KEY, other])
        insert_upstream(connection, cache.id, "https://a.example", [other])
        insert_key(connection, cache.id, KEY, b"sealed", now=0)
        insert_key(connection, cache.id, other, b"sealed too", now=0)
        upstreams = list_upstreams(connection, cache.id)
        assert [(row.url, row.public_keys) for row in upstreams] == [
            ("https://b.example", (KEY, other)),
            ("https://a.example", (other,)),
        ]
        keys = [(row.public_key, row.sealed_secret_key) for row in list_keys(connection, cache.id)]
        assert keys == [(KEY, b"sealed"), (other, b"sealed too")]
        assert count_keys(connection) == 2

    await database.write(work)


async def test_hidden_paths_are_not_counted(database: Database) -> None:
    def work(connection: Connection) -> None:
        cache = add_cache(connection, "main")
        first = add_path(connection, cache, "a")
        add_path(connection, cache, "b", hidden_at=5)
        third = add_path(connection, cache, "c")
        add_path(connection, add_cache(connection, "other"), "d")
        (sizes,) = load_cache_sizes(connection, [cache.id])
        assert sizes == CacheSizes("main", 2, 1, nar_bytes=200, last_push_at=0, cache_id=cache.id)
        page = page_recipes(connection, cache, after_nar_id=0, limit=1)
        assert [(row.nar_id, row.body) for row in page] == [(first, b"a" * 32)]
        page = page_recipes(connection, cache, after_nar_id=first, limit=5)
        assert [(row.nar_id, row.body) for row in page] == [(third, b"c" * 32)]
        assert sum_stored_bytes(connection, 1, [(1, 1), (3, 100)]) == 180
        assert sum_stored_bytes(connection, 2, [(1, 100)]) == 0

    await database.write(work)


async def test_an_empty_cache_counts_nothing(database: Database) -> None:
    def work(connection: Connection) -> None:
        cache_id = add_cache(connection, "main").id
        assert load_cache_sizes(connection, [cache_id]) == (CacheSizes("main", cache_id=cache_id),)

    await database.write(work)


async def test_deleting_a_cache_and_its_domain_leaves_the_rows_of_others(database: Database) -> None:
    def make(connection: Connection) -> CacheRow:
        add_path(connection, add_cache(connection, "main"), "a")
        return add_cache(connection, "private", domain_id=insert_domain(connection, None, now=0))

    def fill(connection: Connection) -> None:
        for letter in "abc":
            add_path(connection, cache, letter)
        insert_key(connection, cache.id, KEY, b"sealed", now=0)
        insert_upstream(connection, cache.id, "https://a.example", [KEY])
        connection.execute(
            insert(schema.external).values(
                cache_id=cache.id,
                hash_part="x" * 32,
                name="libc",
                nar_hash=bytes(32),
                nar_size=1,
                references="",
                signature="",
                upstream_id=list_upstreams(connection, cache.id)[0].id,
                created_at=0,
            )
        )

    def remove(connection: Connection) -> None:
        delete_cache(connection, cache.id)
        purge_domain(connection, cache.domain_id)

    await database.write(lambda connection: add_cache(connection, "kept"))
    cache = await database.write(make)
    before = await database.read(count_rows)
    await database.write(fill)
    await database.write(remove)
    one_less = {name: before[name] - 1 for name in ("cache", "domain", "cache_sum", "domain_sum")}
    assert await database.read(count_rows) == {**before, **one_less}
    with pytest.raises(NotFound):
        await database.write(remove)
