"""Rows of the access database: how often and when paths were used last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, func, select, true
from sqlalchemy.dialects.sqlite import insert

from icehouse.db.schema import path_access

ACCESS_REVISION: Final = "0003"
"""What `migrations/versions/access` brings an access database to."""


class PathUse(NamedTuple):
    """How often a path was used, and when last."""

    path_id: int
    last_used_at: int
    uses: int


def add_uses(connection: Connection, new: Sequence[PathUse]) -> None:
    """Add to what is noted. A later time that another process noted stays."""
    # One statement for all, since the driver hands the interpreter back and forth between threads for each.
    each = func.json_each(msgspec.json.encode(sorted(new)).decode())
    value = each.table_valued("value").c.value
    columns = [func.json_extract(value, f"$[{place}]") for place in range(3)]
    addition = insert(path_access).from_select(["path_id", "last_used_at", "uses"], select(*columns).where(true()))
    connection.execute(
        addition.on_conflict_do_update(
            index_elements=[path_access.c.path_id],
            set_={
                "last_used_at": func.max(path_access.c.last_used_at, addition.excluded.last_used_at),
                "uses": path_access.c.uses + addition.excluded.uses,
            },
        )
    )


def page_of_uses(connection: Connection, after: int, limit: int) -> list[tuple[int, int]]:
    """The next paths after that number, ascending, and when they were used last."""
    rows = connection.execute(
        select(path_access.c.path_id, path_access.c.last_used_at)
        .where(path_access.c.path_id > after)
        .order_by(path_access.c.path_id)
        .limit(limit)
    )
    return [(row.path_id, row.last_used_at) for row in rows]


def forget_uses(connection: Connection, path_ids: Collection[int]) -> None:
    """Forget paths that are gone, whose numbers may come again; at most a thousand at once."""
    connection.execute(delete(path_access).where(path_access.c.path_id.in_(path_ids)))


def load_uses(connection: Connection, path_ids: Collection[int]) -> dict[int, PathUse]:
    """What is noted of those paths, by number; at most a thousand at once. Those never used are left out."""
    rows = connection.execute(select(path_access).where(path_access.c.path_id.in_(path_ids)))
    return {row.path_id: PathUse(row.path_id, row.last_used_at, row.uses) for row in rows}
