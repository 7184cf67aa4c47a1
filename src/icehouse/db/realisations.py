"""Rows of realisations."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from icehouse.db.schema import realisation


@dataclass(frozen=True, slots=True)
class RealisationRow:
    """A realisation of a cache."""

    body: bytes
    published_by: int | None
    """`None`: nobody uploaded it; it was derived from an upload in the other layout."""


def find_realisation(connection: Connection, cache_id: int, file_name: str) -> RealisationRow | None:
    """The realisation under this name below the cache, or `None`."""
    row = connection.execute(
        select(realisation.c.body, realisation.c.published_by).where(
            realisation.c.cache_id == cache_id, realisation.c.file_name == file_name
        )
    ).first()
    return None if row is None else RealisationRow(row.body, row.published_by)


def insert_realisation(connection: Connection, cache_id: int, file_name: str, row: RealisationRow, *, now: int) -> None:
    """Add a realisation under a name that the cache does not have."""
    connection.execute(
        insert(realisation).values(
            cache_id=cache_id,
            file_name=file_name,
            body=row.body,
            created_at=now,
            published_by=row.published_by,
        )
    )


def replace_realisation(
    connection: Connection, cache_id: int, file_name: str, row: RealisationRow, *, now: int
) -> None:
    """Change the realisation under a name that the cache has."""
    connection.execute(
        update(realisation)
        .where(realisation.c.cache_id == cache_id, realisation.c.file_name == file_name)
        .values(body=row.body, created_at=now, published_by=row.published_by)
    )
