"""Finding paths: the newest, by what their names have, by who pushed them, and by what they refer to.

Each function reads a bounded number of rows, by an index in the order in which it gives them.
On PostgreSQL the indexes of FTS5 (`schema`) are GIN indexes: of `pg_trgm` on the name, of an array of hash parts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, exists, func, select, text, tuple_

from icehouse.db.pins import Links
from icehouse.db.schema import path, token
from icehouse.db.trash import PathFacts, read_facts, select_facts
from icehouse.nix.store_paths import HashPart

_LINK_LETTERS: Final = 12
_SEARCHED_TOKENS: Final = 5_000
_ALL: Final = 2**62


def page_newest(
    connection: Connection, cache_id: int, *, before: tuple[int, int] | None, limit: int
) -> list[PathFacts]:
    """The paths, visible or hidden, that became visible last before that generation and id; the newest first."""
    wanted = select_facts().where(path.c.cache_id == cache_id)
    if before is not None:
        # The first condition alone is what SQLite's index is asked for.
        wanted = wanted.where(path.c.generation <= before[0], tuple_(path.c.generation, path.c.id) < tuple_(*before))
    rows = connection.execute(wanted.order_by(path.c.generation.desc(), path.c.id.desc()).limit(limit))
    return [read_facts(row) for row in rows]


def find_by_words(
    connection: Connection, cache_id: int, words: Collection[str], *, before: int, limit: int
) -> list[int]:
    """Paths by id, descending, below *before*, whose names have all letters in threes that the words have.

    Whoever asks looks whether they have the words. Each has three letters or more.
    """
    threes = {word[start : start + 3] for word in words for start in range(len(word) - 2)}
    query = " AND ".join(f'"{three}"' for three in [_name_scope(cache_id), *sorted(threes)])
    return _match(connection, "path_name", query, before=before, limit=limit)


def find_by_reference(
    connection: Connection, cache_id: int, hash_part: HashPart, *, before: int, limit: int
) -> list[int]:
    """Paths by id, descending, below *before*, that refer to what has the same first letters as *hash_part*."""
    query = f'"{hash_part[:_LINK_LETTERS]}" AND "c{cache_id}"'
    return _match(connection, "path_link", query, before=before, limit=limit)


def page_by_hash(connection: Connection, cache_id: int, beginning: str, *, limit: int) -> list[PathFacts]:
    """The first paths whose hash part begins like that."""
    wanted = select_facts().where(path.c.cache_id == cache_id, path.c.hash_part.between(beginning, f"{beginning}~"))
    return [read_facts(row) for row in connection.execute(wanted.order_by(path.c.hash_part).limit(limit))]


def find_referring(
    connection: Connection, cache_id: int, hash_parts: Collection[HashPart], *, limit: int
) -> list[tuple[int, Links]]:
    """Visible paths, by id, that refer to one of at most a hundred others, with all that they refer to.

    Of more than *limit* those with the highest ids; and some may refer to what only begins like one of the others.
    """
    beginnings = " OR ".join(f'"{hash_part[:_LINK_LETTERS]}"' for hash_part in hash_parts)
    query = f'"c{cache_id}" AND ({beginnings})'
    ids = _match(connection, "path_link", query, before=_ALL, limit=limit)
    rows = connection.execute(
        select(path.c.id, path.c.hash_part, path.c.name, path.c.references).where(
            path.c.id.in_(ids), path.c.hidden_at.is_(None)
        )
    )
    return [(row.id, Links(f"{row.hash_part}-{row.name}", row.references.split())) for row in rows]


def load_facts(connection: Connection, cache_id: int, path_ids: Sequence[int]) -> list[PathFacts]:
    """The paths of the cache with these ids, at most a thousand; the highest id first."""
    wanted = select_facts().where(path.c.id.in_(path_ids), path.c.cache_id + 0 == cache_id)
    return [read_facts(row) for row in connection.execute(wanted.order_by(path.c.id.desc()))]


def refers_to(connection: Connection, path_ids: Sequence[int], hash_part: HashPart) -> set[int]:
    """Those of the paths, at most a thousand, that refer to that one and are not it themselves."""
    rows = connection.execute(
        select(path.c.id).where(
            path.c.id.in_(path_ids),
            path.c.hash_part != hash_part,
            func.instr(path.c.references, hash_part) > 0,
        )
    )
    return set(rows.scalars())


def find_publishers(connection: Connection, cache_id: int, description: str, *, limit: int) -> list[int]:
    """Tokens whose description has that text, in any case, and that pushed what the cache has; the newest first."""
    named = (
        select(token.c.id)
        .where(token.c.description.icontains(description, autoescape=True))
        .order_by(token.c.id.desc())
        .limit(_SEARCHED_TOKENS)
        .subquery()
    )
    has_pushed = exists().where(path.c.published_by == named.c.id, path.c.cache_id == cache_id)
    return list(connection.execute(select(named.c.id).where(has_pushed).limit(limit)).scalars())


def page_published(
    connection: Connection, cache_id: int, token_ids: Collection[int], *, before: int, limit: int
) -> list[int]:
    """Paths by id, descending, below *before*, that one of the tokens pushed."""
    found: list[int] = []
    for token_id in token_ids:
        rows = connection.execute(
            select(path.c.id)
            .where(path.c.published_by == token_id, path.c.cache_id == cache_id, path.c.id < before)
            .order_by(path.c.id.desc())
            .limit(limit)
        )
        found += rows.scalars()
    return sorted(found, reverse=True)[:limit]


def publishers_of(connection: Connection, path_ids: Sequence[int]) -> dict[int, int | None]:
    """The tokens that pushed paths, at most a thousand."""
    rows = connection.execute(select(path.c.id, path.c.published_by).where(path.c.id.in_(path_ids)))
    return {row.id: row.published_by for row in rows}


def _match(connection: Connection, table: str, query: str, *, before: int, limit: int) -> list[int]:
    statement = text(
        f"SELECT rowid FROM {table} WHERE {table} MATCH :query AND rowid < :before "  # noqa: S608  our own words
        "ORDER BY rowid DESC LIMIT :limit"
    )
    parameters: dict[str, Any] = {"query": query, "before": before, "limit": limit}
    return list(connection.execute(statement, parameters).scalars())


def _name_scope(cache_id: int) -> str:
    return "".join(chr(19968 + (cache_id >> shift & 4095)) for shift in (24, 12, 0))
