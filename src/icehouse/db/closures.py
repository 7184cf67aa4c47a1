"""Rows of closures: what a path refers to, and how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from icehouse.db.schema import external, path
from icehouse.nix import nix32
from icehouse.nix.store_paths import HashPart


@dataclass(frozen=True, slots=True)
class ClosureRow:
    """A path that can be in a closure, as text: closures have thousands, and little of each is looked at."""

    base_name: str
    nar_id: int | None
    """`None`: an upstream has it, and the cache does not."""
    nar_hash: str
    """52 letters of Nix32."""
    nar_size: int
    references: tuple[str, ...]
    """Base names."""


def load_closure_rows(
    connection: Connection, cache_id: int, hash_parts: Sequence[HashPart]
) -> dict[HashPart, ClosureRow]:
    """Those of at most a thousand *hash_parts* that are visible in the cache, and those that its upstreams have."""
    visible = connection.execute(
        select(path.c.hash_part, path.c.name, path.c.nar_id, path.c.nar_hash, path.c.nar_size, path.c.references).where(
            path.c.cache_id == cache_id, path.c.hash_part.in_(hash_parts), path.c.hidden_at.is_(None)
        )
    )
    found = {
        row.hash_part: ClosureRow(
            f"{row.hash_part}-{row.name}", row.nar_id, row.nar_hash, row.nar_size, tuple(row.references.split())
        )
        for row in visible
    }
    absent = [hash_part for hash_part in hash_parts if hash_part not in found]
    if not absent:
        return found
    elsewhere = connection.execute(
        select(
            external.c.hash_part, external.c.name, external.c.nar_hash, external.c.nar_size, external.c.references
        ).where(external.c.cache_id == cache_id, external.c.hash_part.in_(absent))
    )
    for row in elsewhere:
        found[row.hash_part] = ClosureRow(
            f"{row.hash_part}-{row.name}",
            None,
            nix32.encode(row.nar_hash),
            row.nar_size,
            tuple(row.references.split()),
        )
    return found
