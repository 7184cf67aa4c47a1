"""Which hidden paths may come back to a cache that demands signatures.

Verifying takes too long for a transaction. So rows are vouched for before it, and it takes no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from icehouse.db.cache_settings import load_required_keys
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.paths import PathRow, load_paths
from icehouse.errors import Conflict
from icehouse.nix.signing import PublicKey, Signature, fingerprint
from icehouse.nix.store_paths import HashPart
from icehouse.rules.demands import is_vouched_for


@dataclass(frozen=True, slots=True)
class VouchedRows:
    """Hidden rows of a cache that carry a signature which it demands."""

    keys: tuple[PublicKey, ...]
    """What it demanded when this was found out."""
    rows: frozenset[PathRow]

    def judge(self, connection: Connection, cache: CacheRow) -> Callable[[PathRow], bool] | None:
        """Which rows may come back, for the transaction that brings them; `None`: all.

        Raises:
            Conflict: it demands others by now.
        """
        keys = load_required_keys(connection, cache.id)
        if not keys:
            return None
        if keys != self.keys:
            raise Conflict(f"cache {cache.name!r} came to demand other signatures meanwhile; repeat yours")
        return self.rows.__contains__


async def vouch_for_hidden(database: Database, cache: CacheRow, hash_parts: Collection[HashPart]) -> VouchedRows:
    """Look at hidden paths, and at all hidden ones that they reach."""
    keys = await database.read(partial(load_required_keys, cache_id=cache.id))
    if not keys:
        return VouchedRows((), frozenset())
    rows = await database.read(partial(_reach_hidden, cache_id=cache.id, hash_parts=hash_parts))
    return VouchedRows(keys, await asyncio.to_thread(find_vouched, rows, cache, keys))


def find_vouched(rows: Iterable[PathRow], cache: CacheRow, keys: Collection[PublicKey]) -> frozenset[PathRow]:
    """Those of *rows* that carry a signature by one of *keys*."""
    by_key = tuple(keys)
    return frozenset(
        row
        for row in rows
        if is_vouched_for(map(Signature.parse, row.signatures), fingerprint(row, cache.store_dir), by_key)
    )


def _reach_hidden(connection: Connection, cache_id: int, hash_parts: Collection[HashPart]) -> list[PathRow]:
    found: dict[HashPart, PathRow] = {}
    frontier = set(hash_parts)
    while frontier:
        rows = load_paths(connection, cache_id, frontier)
        hidden = {hash_part: row for hash_part, row in rows.items() if row.hidden_at is not None}
        found |= hidden
        frontier = {reference.hash_part for row in hidden.values() for reference in row.references} - found.keys()
    return list(found.values())
