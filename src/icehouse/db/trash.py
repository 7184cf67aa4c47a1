"""Rows of paths as people look at them and remove them: lists, referrers, and what led to where a path is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select, tuple_

from icehouse.db.query_plans import by_id
from icehouse.db.schema import path, purged_path, token, waiting_path, waiting_reference
from icehouse.nix.store_paths import HashPart, StorePath

_BATCH: Final = 1000
ROWS_A_SEARCH: Final = 100_000
"""Rows that one reading transaction looks through for referrers."""

NAMES_A_SEARCH: Final = 20_000
"""Names of the trash that one reading looks through: some milliseconds, by an index that has them."""


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What is told of a path, visible or hidden."""

    id: int
    store_path: StorePath
    nar_size: int
    created_at: int
    published_by: str | None
    """Description of the token."""
    hidden_at: int | None
    hidden_because: str | None
    generation: int
    """The cache's when it became visible: whatever visible refers to it became so then or later."""


@dataclass(frozen=True, slots=True)
class PurgedFacts:
    """A path that is gone."""

    store_path: StorePath
    created_at: int
    published_by: str | None
    hidden_at: int
    hidden_because: str | None
    purged_at: int


@dataclass(frozen=True, slots=True)
class WaitingFacts:
    """A path that waits for its references."""

    store_path: StorePath
    created_at: int
    published_by: str | None
    references: tuple[str, ...]
    """Base names of those that it waits for, some of which may be there."""


def find_facts(connection: Connection, cache_id: int, hash_part: HashPart) -> PathFacts | None:
    """A path of the cache, visible or hidden."""
    row = connection.execute(select_facts().where(path.c.cache_id == cache_id, path.c.hash_part == hash_part)).first()
    return None if row is None else read_facts(row)


def find_purged(connection: Connection, cache_id: int, hash_part: HashPart) -> PurgedFacts | None:
    """What became of a path that is gone, if it is still known."""
    row = connection.execute(
        select(purged_path, token.c.description)
        .outerjoin(token, token.c.id == purged_path.c.published_by)
        .where(purged_path.c.cache_id == cache_id, purged_path.c.hash_part == hash_part)
    ).first()
    if row is None:
        return None
    store_path = StorePath(row.hash_part, row.name)
    return PurgedFacts(store_path, row.created_at, row.description, row.hidden_at, row.hidden_because, row.purged_at)


def page_facts(
    connection: Connection, cache_id: int, *, after: str, is_hidden: bool, limit: int
) -> Sequence[PathFacts]:
    """The next visible, or hidden, paths of the cache after that hash part, by hash part."""
    is_wanted = path.c.hidden_at.is_not(None) if is_hidden else path.c.hidden_at.is_(None)
    rows = connection.execute(
        select_facts()
        .where(path.c.cache_id == cache_id, path.c.hash_part > after, is_wanted)
        .order_by(path.c.hash_part)
        .limit(limit)
    )
    return [read_facts(row) for row in rows]


@dataclass(frozen=True, slots=True)
class TrashPlace:
    """A place in the order in which paths came into the trash."""

    hidden_at: int
    path_id: int


def page_trash(
    connection: Connection, cache_id: int, *, name: str, before: TrashPlace | None, limit: int
) -> tuple[Sequence[PathFacts], TrashPlace | None]:
    """What is in the trash, what came last first: the next paths whose names have *name* in them.

    Returns:
        At most *limit* of them, and the place before which others may be; `None`: these are the last. There may be
        fewer than *limit*, or none, before others: one reading looks through `NAMES_A_SEARCH` names.
    """
    wanted = select(path.c.id, path.c.hidden_at, path.c.name).where(
        path.c.cache_id == cache_id, path.c.hidden_at.is_not(None)
    )
    if before is not None:
        wanted = wanted.where(tuple_(path.c.hidden_at, path.c.id) < tuple_(before.hidden_at, before.path_id))
    wanted = wanted.order_by(path.c.hidden_at.desc(), path.c.id.desc())
    looked_at = wanted.limit(NAMES_A_SEARCH).subquery()
    found = select(looked_at.c.id, looked_at.c.hidden_at)
    if name:
        found = found.where(looked_at.c.name.contains(name, autoescape=True))
    newest_first = (looked_at.c.hidden_at.desc(), looked_at.c.id.desc())
    places = [TrashPlace(row.hidden_at, row.id) for row in connection.execute(
        found.order_by(*newest_first).limit(limit + 1)
    )]  # fmt: skip
    if len(places) > limit:
        places = places[:limit]
        end: TrashPlace | None = places[-1]
    else:
        last = connection.execute(wanted.offset(NAMES_A_SEARCH - 1).limit(1)).first()
        end = None if last is None else TrashPlace(last.hidden_at, last.id)
    rows = connection.execute(select_facts().where(path.c.id.in_([place.path_id for place in places])))
    facts = {row.id: read_facts(row) for row in rows}
    return [facts[place.path_id] for place in places], end


def page_of_hidden(
    connection: Connection, cache_id: int, *, since: int, until: int, reasons: Collection[str], after: TrashPlace | None
) -> tuple[list[HashPart], TrashPlace | None]:
    """The next paths that were hidden in that span of time, both ends included, for one of the reasons.

    Returns:
        At most a thousand, and the place after which others may be.
    """
    start = after or TrashPlace(since, -1)
    rows = connection.execute(
        select(path.c.id, path.c.hidden_at, path.c.hash_part)
        .where(path.c.cache_id == cache_id, path.c.hidden_at.is_not(None))
        .where(tuple_(path.c.hidden_at, path.c.id) > tuple_(start.hidden_at, start.path_id))
        .where(path.c.hidden_at.between(since, until), path.c.hidden_because.in_(reasons))
        .order_by(path.c.hidden_at, path.c.id)
        .limit(_BATCH)
    ).all()
    end = TrashPlace(rows[-1].hidden_at, rows[-1].id) if len(rows) == _BATCH else None
    return [HashPart(row.hash_part) for row in rows], end


def find_waiting_facts(connection: Connection, cache_id: int, hash_part: HashPart) -> WaitingFacts | None:
    """The path that waits under that hash part."""
    row = connection.execute(
        select(waiting_path, token.c.description)
        .outerjoin(token, token.c.id == waiting_path.c.published_by)
        .where(waiting_path.c.cache_id == cache_id, waiting_path.c.hash_part == hash_part)
    ).first()
    if row is None:
        return None
    awaited = set(
        connection.execute(
            select(waiting_reference.c.hash_part).where(waiting_reference.c.waiting_id == row.id)
        ).scalars()
    )
    references = tuple(name for name in row.references.split() if name[:32] in awaited)
    return WaitingFacts(StorePath(row.hash_part, row.name), row.created_at, row.description, references)


def last_path_id(connection: Connection) -> int:
    """The highest number of a path."""
    return connection.execute(select(func.coalesce(func.max(path.c.id), 0))).scalar_one()


def search_referrers(connection: Connection, cache_id: int, hash_part: HashPart, *, after: int) -> list[str]:
    """Base names of the cache's visible paths that refer to that one, of the `ROWS_A_SEARCH` ids after that id.

    There is no index of referrers, so this reads each row.
    """
    rows = connection.execute(
        select(path.c.hash_part, path.c.name).where(
            path.c.id.between(after + 1, after + ROWS_A_SEARCH),
            by_id(path.c.cache_id) == cache_id,
            path.c.hidden_at.is_(None),
            path.c.hash_part != hash_part,
            func.instr(path.c.references, hash_part) > 0,
        )
    )
    return [f"{row.hash_part}-{row.name}" for row in rows]


def find_visible_names(connection: Connection, cache_id: int, path_ids: Collection[int]) -> dict[int, StorePath]:
    """Those of the paths, by id, that are visible in the cache."""
    ids = list(path_ids)
    found: dict[int, StorePath] = {}
    for start in range(0, len(ids), _BATCH):
        rows = connection.execute(
            select(path.c.id, path.c.hash_part, path.c.name).where(
                path.c.id.in_(ids[start : start + _BATCH]),
                by_id(path.c.cache_id) == cache_id,
                path.c.hidden_at.is_(None),
            )
        )
        found |= {row.id: StorePath(row.hash_part, row.name) for row in rows}
    return found


def select_facts() -> Any:  # noqa: ANN401  the type of a statement with ten columns says less than they do
    """What `PathFacts` are made of."""
    return select(
        path.c.id,
        path.c.hash_part,
        path.c.name,
        path.c.nar_size,
        path.c.created_at,
        token.c.description,
        path.c.hidden_at,
        path.c.hidden_because,
        path.c.generation,
    ).outerjoin(token, token.c.id == path.c.published_by)


def read_facts(row: Row[Any]) -> PathFacts:
    """A row of that statement."""
    return PathFacts(
        id=row.id,
        store_path=StorePath(row.hash_part, row.name),
        nar_size=row.nar_size,
        created_at=row.created_at,
        published_by=row.description,
        hidden_at=row.hidden_at,
        hidden_because=row.hidden_because,
        generation=row.generation,
    )
