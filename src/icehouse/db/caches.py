"""Rows of caches, their domains and their upstreams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, exists, func, insert, select, update

from icehouse.db.query_plans import by_id
from icehouse.db.schema import cache, chunk, domain, external, nar, pack, path, pin, recipe, upstream
from icehouse.errors import Conflict, NotFound
from icehouse.nix.signing import PublicKey
from icehouse.nix.store_paths import StoreDir
from icehouse.rules.access import no_such_cache

PUBLIC_DOMAIN_ID: Final = 1
"""The domain of all public caches; the first migration makes it."""


@dataclass(frozen=True, slots=True)
class CacheRow:
    """A cache and its settings."""

    id: int
    name: str
    domain_id: int
    is_public: bool
    store_dir: StoreDir
    priority: int
    want_mass_query: bool
    created_at: int
    staging_of: int | None = None
    """The cache, by id, that what is looked at here is promoted to."""


@dataclass(frozen=True, slots=True)
class UpstreamRow:
    """Another cache whose signatures are evidence."""

    id: int
    url: str
    public_keys: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class NarRecipe:
    """The recipe of one NAR, encoded."""

    nar_id: int
    body: bytes


def find_cache(connection: Connection, name: str) -> CacheRow | None:
    """The cache called *name*, or `None`."""
    row = connection.execute(select(cache).where(cache.c.name == name)).first()
    return None if row is None else _cache_row(row)


def find_cache_by_id(connection: Connection, cache_id: int) -> CacheRow | None:
    """The cache of that number, or `None`."""
    row = connection.execute(select(cache).where(cache.c.id == cache_id)).first()
    return None if row is None else _cache_row(row)


def get_cache(connection: Connection, name: str) -> CacheRow:
    """The cache called *name*.

    Raises:
        NotFound: there is none.
    """
    row = find_cache(connection, name)
    if row is None:
        raise no_such_cache(name)
    return row


def list_caches(connection: Connection) -> tuple[CacheRow, ...]:
    """All caches, by name."""
    return tuple(_cache_row(row) for row in connection.execute(select(cache).order_by(cache.c.name)))


def list_caches_of_domain(connection: Connection, domain_id: int) -> tuple[CacheRow, ...]:
    """The caches that share a domain, by name."""
    rows = connection.execute(select(cache).where(cache.c.domain_id == domain_id).order_by(cache.c.name))
    return tuple(_cache_row(row) for row in rows)


def find_relatives(connection: Connection, row: CacheRow) -> tuple[CacheRow | None, tuple[CacheRow, ...]]:
    """The cache that a cache is a staging of, if it is one, and its own stagings, by name."""
    is_near = (cache.c.staging_of == row.id) | (cache.c.id == row.staging_of)
    rows = [_cache_row(each) for each in connection.execute(select(cache).where(is_near).order_by(cache.c.name))]
    main = next((each for each in rows if each.id == row.staging_of), None)
    return main, tuple(each for each in rows if each.staging_of == row.id)


def set_staging_of(connection: Connection, cache_id: int, main_id: int | None) -> None:
    """Make a cache a staging of another, or of none."""
    connection.execute(update(cache).where(cache.c.id == cache_id).values(staging_of=main_id))


def insert_cache(
    connection: Connection,
    *,
    name: str,
    domain_id: int,
    is_public: bool,
    store_dir: StoreDir,
    priority: int,
    want_mass_query: bool,
    now: int,
) -> CacheRow:
    """Add a cache to a domain that exists.

    Raises:
        Conflict: there is a cache of that name.
    """
    if find_cache(connection, name) is not None:
        raise Conflict(f"cache {name!r} exists already")
    result = connection.execute(
        insert(cache)
        .values(
            name=name,
            domain_id=domain_id,
            is_public=int(is_public),
            store_dir=store_dir.path,
            priority=priority,
            want_mass_query=int(want_mass_query),
            created_at=now,
        )
        .returning(cache)
    )
    return _cache_row(result.one())


def delete_cache(connection: Connection, cache_id: int) -> None:
    """Remove a cache with its paths, pins, external references, keys and upstreams.

    Raises:
        NotFound: it is gone already.
    """
    # External references and pins go first: they name upstreams, which go with the cache, and paths.
    connection.execute(delete(pin).where(pin.c.cache_id == cache_id))
    connection.execute(delete(external).where(external.c.cache_id == cache_id))
    connection.execute(delete(path).where(path.c.cache_id == cache_id))
    connection.execute(update(cache).where(cache.c.staging_of == cache_id).values(staging_of=None))
    if connection.execute(delete(cache).where(cache.c.id == cache_id)).rowcount == 0:
        raise NotFound("the cache was deleted already")


def next_generation(connection: Connection, cache_id: int) -> int:
    """The number of a change that makes paths of the cache visible; every such change takes one."""
    statement = update(cache).where(cache.c.id == cache_id).values(generation=cache.c.generation + 1)
    return connection.execute(statement.returning(cache.c.generation)).scalar_one()


def find_domain(connection: Connection, name: str) -> int | None:
    """The shared domain called *name*, or `None`."""
    return connection.execute(select(domain.c.id).where(domain.c.name == name)).scalar_one_or_none()


def insert_domain(connection: Connection, name: str | None, *, now: int) -> int:
    """Make a domain: shared under a name that no other has, or a private cache's own."""
    return connection.execute(insert(domain).values(name=name, created_at=now).returning(domain.c.id)).scalar_one()


def purge_domain(connection: Connection, domain_id: int) -> None:
    """Remove a domain that has no caches, with all its NARs, chunks and packs. Its objects are then strays."""
    nars = select(nar.c.id).where(nar.c.domain_id == domain_id)
    connection.execute(delete(recipe).where(recipe.c.nar_id.in_(nars)))
    for table in (nar, chunk, pack):
        connection.execute(delete(table).where(table.c.domain_id == domain_id))
    connection.execute(delete(domain).where(domain.c.id == domain_id))


def list_upstreams(connection: Connection, cache_id: int) -> tuple[UpstreamRow, ...]:
    """The upstreams of a cache, in the order in which they were added."""
    rows = connection.execute(
        select(upstream.c.id, upstream.c.url, upstream.c.public_keys)
        .where(upstream.c.cache_id == cache_id)
        .order_by(upstream.c.id)
    )
    return tuple(
        UpstreamRow(row.id, row.url, tuple(PublicKey.parse(key) for key in row.public_keys.split())) for row in rows
    )


def insert_upstream(connection: Connection, cache_id: int, url: str, public_keys: Sequence[PublicKey]) -> None:
    """Add an upstream that the cache does not have yet."""
    keys = " ".join(key.render() for key in public_keys)
    connection.execute(insert(upstream).values(cache_id=cache_id, url=url, public_keys=keys))


def page_recipes(connection: Connection, cache: CacheRow, *, after_nar_id: int, limit: int) -> tuple[NarRecipe, ...]:
    """Recipes of the NARs of the cache's visible paths, each once, ascending, from the one after *after_nar_id* on."""
    is_used = exists().where(path.c.nar_id == nar.c.id, path.c.cache_id == cache.id, path.c.hidden_at.is_(None))
    rows = connection.execute(
        select(nar.c.id, recipe.c.body)
        .join(recipe, recipe.c.nar_id == nar.c.id)
        .where(by_id(nar.c.domain_id) == cache.domain_id, nar.c.id > after_nar_id, is_used)
        .order_by(nar.c.id)
        .limit(limit)
    )
    return tuple(NarRecipe(row.id, row.body) for row in rows)


def sum_stored_bytes(connection: Connection, domain_id: int, ranges: Sequence[tuple[int, int]]) -> int:
    """The stored bytes of the domain's chunks in *ranges* of numbers: first and last, that one included."""
    total = 0
    for first, last in ranges:
        total += connection.execute(
            select(func.coalesce(func.sum(chunk.c.stored_bytes), 0)).where(
                chunk.c.number.between(first, last), by_id(chunk.c.domain_id) == domain_id
            )
        ).scalar_one()
    return total


def _cache_row(row: Row[Any]) -> CacheRow:
    return CacheRow(
        id=row.id,
        name=row.name,
        domain_id=row.domain_id,
        is_public=bool(row.is_public),
        store_dir=StoreDir.parse(row.store_dir),
        priority=row.priority,
        want_mass_query=bool(row.want_mass_query),
        created_at=row.created_at,
        staging_of=row.staging_of,
    )
