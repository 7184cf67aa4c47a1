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


def load_sizes(connection: Connection) -> StoredSizes:
    """The sizes as they are now. Reads a row for each cache, and passes once over the table of packs."""
    sums = cache_sum.c
    caches = connection.execute(
        select(cache.c.name, sums.visible_paths, sums.hidden_paths, sums.nar_bytes, sums.damaged_paths)
        .join_from(cache, cache_sum, sums.cache_id == cache.c.id)
        .order_by(cache.c.name)
    )
    domains = connection.execute(
        select(pack.c.domain_id, func.count(), func.sum(pack.c.size_bytes))
        .group_by(pack.c.domain_id)
        .order_by(pack.c.domain_id)
    )
    return StoredSizes(
        caches=tuple(CacheSizes(*row) for row in caches),
        domains=tuple(DomainSizes(*row) for row in domains),
        verification=load_pass(connection),
    )
