"""How much is stored: the sizes that monitoring asks for."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from icehouse.db.schema import cache, cache_sum, pack
from icehouse.db.verification import PassState, load_pass


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """The size of one cache."""

    cache_name: str
    visible_paths: int
    hidden_paths: int
    nar_bytes: int
    """Sum of `nar_size` over the visible paths."""
    damaged_paths: int = 0
    """Of the hidden ones, those that damage hid."""
    stored_bytes: int = 0
    """Of the distinct chunks of its paths: as the last collection found it, and what was pushed since."""
    last_push_at: int | None = None
    """When a path was added last; `None`: none ever was."""
    cache_id: int = 0


@dataclass(frozen=True, slots=True)
class DomainSizes:
    """What one domain takes in the store of bytes."""

    domain_id: int
    packs: int
    pack_bytes: int


@dataclass(frozen=True, slots=True)
class StoredSizes:
    """The sizes of everything, caches by name and domains by number."""

    caches: tuple[CacheSizes, ...]
    domains: tuple[DomainSizes, ...]
    verification: PassState | None = None
    """Where the verification that goes on for ever stands."""


def load_cache_sizes(connection: Connection) -> tuple[CacheSizes, ...]:
    """The sizes of all caches as they are now, by name. Reads a row for each."""
    sums = cache_sum.c
    rows = connection.execute(
        select(
            cache.c.name,
            sums.visible_paths,
            sums.hidden_paths,
            sums.nar_bytes,
            sums.damaged_paths,
            cache.c.stored_bytes,
            sums.last_push_at,
            cache.c.id,
        )
        .join_from(cache, cache_sum, sums.cache_id == cache.c.id)
        .order_by(cache.c.name)
    )
    return tuple(CacheSizes(*row) for row in rows)


def load_sizes(connection: Connection) -> StoredSizes:
    """The sizes as they are now. Passes once over the table of packs."""
    domains = connection.execute(
        select(pack.c.domain_id, func.count(), func.sum(pack.c.size_bytes))
        .group_by(pack.c.domain_id)
        .order_by(pack.c.domain_id)
    )
    return StoredSizes(
        caches=load_cache_sizes(connection),
        domains=tuple(DomainSizes(*row) for row in domains),
        verification=load_pass(connection),
    )
