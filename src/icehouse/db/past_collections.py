"""Rows of what collections did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from icehouse.db.schema import cache, collection, pack, path


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A collection of the past."""

    id: int
    cache_name: str | None
    """`None`: of all caches."""
    began_at: int
    ended_at: int
    started_by: str
    result: str
    """JSON."""


def page_collections(
    connection: Connection, cache_name: str | None, *, before: int | None, limit: int
) -> Sequence[CollectionRow]:
    """The newest collections whose number is lower than *before*, descending; with a name those that concern it."""
    wanted = select(collection)
    if cache_name is not None:
        wanted = wanted.where(or_(collection.c.cache_name == cache_name, collection.c.cache_name.is_(None)))
    if before is not None:
        wanted = wanted.where(collection.c.id < before)
    rows = connection.execute(wanted.order_by(collection.c.id.desc()).limit(limit))
    return [
        CollectionRow(row.id, row.cache_name, row.began_at, row.ended_at, row.started_by, row.result) for row in rows
    ]


def find_collection(connection: Connection, collection_id: int) -> CollectionRow | None:
    """A collection of the past."""
    row = connection.execute(select(collection).where(collection.c.id == collection_id)).first()
    if row is None:
        return None
    return CollectionRow(row.id, row.cache_name, row.began_at, row.ended_at, row.started_by, row.result)


def find_spans(
    connection: Connection, cache_name: str, *, since: int, until: int, limit: int
) -> Sequence[tuple[int, int, int]]:
    """Collections that concern the cache and went on in that time, the newest first: number, begin and end."""
    rows = connection.execute(
        select(collection.c.id, collection.c.began_at, collection.c.ended_at)
        .where(or_(collection.c.cache_name == cache_name, collection.c.cache_name.is_(None)))
        .where(collection.c.ended_at >= since, collection.c.began_at <= until)
        .order_by(collection.c.id.desc())
        .limit(limit)
    )
    return [(row.id, row.began_at, row.ended_at) for row in rows]


def find_last_began_at(connection: Connection) -> int | None:
    """When the last collection of all caches began."""
    statement = select(func.max(collection.c.began_at)).where(collection.c.cache_name.is_(None))
    return connection.execute(statement).scalar_one()


def has_work(connection: Connection) -> bool:
    """Whether some cache lets anything go, or something is on its way out."""
    keeps_less = or_(
        cache.c.keep_unused_seconds.is_not(None),
        cache.c.keep_pushed_seconds.is_not(None),
        cache.c.budget_bytes.is_not(None),
    )
    return any(
        connection.execute(statement.limit(1)).first() is not None
        for statement in (
            select(cache.c.id).where(keeps_less),
            select(pack.c.id).where(pack.c.condemned_at.is_not(None)),
            select(path.c.id).where(path.c.hidden_at.is_not(None)),
        )
    )
