"""What a walk through closures reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, select

from icehouse.db.schema import path
from icehouse.nix.store_paths import HashPart


class PathNode(NamedTuple):
    """A path, as far as closures go: they have thousands, and nothing else of them is looked at."""

    hash_part: str
    name: str
    nar_size: int
    references: str
    """Base names, joined by spaces."""


class RootRow(NamedTuple):
    """Where a closure begins. What it reaches stays the same while these do."""

    id: int
    generation: int
    base_name: str


def find_root(connection: Connection, cache_id: int, hash_part: HashPart) -> RootRow | None:
    """The visible path of that hash part."""
    row = connection.execute(
        select(path.c.id, path.c.generation, path.c.name).where(
            path.c.cache_id == cache_id, path.c.hash_part == hash_part, path.c.hidden_at.is_(None)
        )
    ).first()
    return None if row is None else RootRow(row.id, row.generation, f"{hash_part}-{row.name}")


def load_nodes(connection: Connection, cache_id: int, hash_parts: Sequence[str]) -> list[PathNode]:
    """Those of at most a thousand *hash_parts* that are visible in the cache, in any order."""
    rows = connection.execute(
        select(path.c.hash_part, path.c.name, path.c.nar_size, path.c.references).where(
            path.c.cache_id == cache_id, path.c.hash_part.in_(hash_parts), path.c.hidden_at.is_(None)
        )
    )
    return [PathNode(*row) for row in rows]
