"""Rows of passes over the signatures of a cache: one a cache, which says how far the last one got."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from icehouse.db.schema import signing_pass


@dataclass(frozen=True, slots=True)
class PassRow:
    """The last pass that was asked for in a cache."""

    cache_id: int
    number: int
    """One more each time."""
    after: int
    """The last path that was looked at."""
    looked_at: int
    changed: int
    began_at: int
    ended_at: int | None
    """`None`: it is to go on."""
    error: str | None
    """Why it could not go on the last time."""


def request_pass(connection: Connection, cache_id: int, *, now: int) -> None:
    """Have all paths of a cache looked at, from the first one on, also if that is under way."""
    row = find_pass(connection, cache_id)
    number = 1 if row is None else row.number + 1
    connection.execute(delete(signing_pass).where(signing_pass.c.cache_id == cache_id))
    connection.execute(
        insert(signing_pass).values(
            cache_id=cache_id, number=number, after=0, looked_at=0, changed=0, began_at=now, ended_at=None, error=None
        )
    )


def find_pass(connection: Connection, cache_id: int) -> PassRow | None:
    """The last pass of a cache; `None`: none was asked for."""
    row = connection.execute(select(signing_pass).where(signing_pass.c.cache_id == cache_id)).first()
    return None if row is None else PassRow(*row)


def list_unfinished(connection: Connection) -> list[int]:
    """The caches whose pass is to go on, by number."""
    is_unfinished = signing_pass.c.ended_at.is_(None)
    statement = select(signing_pass.c.cache_id).where(is_unfinished).order_by(signing_pass.c.cache_id)
    return list(connection.execute(statement).scalars())


def save_pass(connection: Connection, before: PassRow, after: PassRow) -> bool:
    """Note how far a pass got. False: another one was asked for meanwhile, or somebody else took it further."""
    same = (signing_pass.c.cache_id == before.cache_id) & (signing_pass.c.number == before.number)
    values = {"after": after.after, "looked_at": after.looked_at, "changed": after.changed}
    values |= {"ended_at": after.ended_at, "error": after.error}
    statement = update(signing_pass).where(same, signing_pass.c.after == before.after).values(**values)
    return connection.execute(statement).rowcount > 0
