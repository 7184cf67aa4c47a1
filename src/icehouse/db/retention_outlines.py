"""Rows of what any retention of a cache would hide."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from icehouse.db.schema import cache, retention_outline


def save_outline(connection: Connection, cache_id: int, body: bytes, *, now: int) -> None:
    """Put it in the place of the one before. Of a cache that was deleted meanwhile none is kept."""
    if connection.execute(select(cache.c.id).where(cache.c.id == cache_id)).first() is None:
        return
    connection.execute(delete(retention_outline).where(retention_outline.c.cache_id == cache_id))
    connection.execute(insert(retention_outline).values(cache_id=cache_id, made_at=now, body=body))


def load_outline(connection: Connection, cache_id: int) -> tuple[int, bytes] | None:
    """When it was made, and the body; `None`: there is none yet."""
    row = connection.execute(select(retention_outline).where(retention_outline.c.cache_id == cache_id)).first()
    return None if row is None else (row.made_at, row.body)
