"""How much is stored, by sums that triggers keep (`schema.cache_sum`, `schema.domain_sum`): nobody counts rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, select

from icehouse.db.schema import cache, cache_sum, domain_sum
from icehouse.db.verification import PassState, load_pass


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """The size of one cache."""

    cache_name: str
    visible_paths: int = 0
    hidden_paths: int = 0
    nar_bytes: int = 0
    """Sum of `nar_size` over the visible paths."""
    damaged_paths: int = 0
    """Of the hidden ones, those that damage hid."""
    stored_bytes: int = 0
    """As retention counts: exact after each collection, increased at publishing by what was new."""
    last_push_at: int | None = None
    """When a path was added last; `None`: none ever was."""
    cache_id: int = 0


@dataclass(frozen=True, slots=True)
class DomainSizes:
    """What one domain takes in the store of bytes."""

    domain_id: int
    packs: int
    pack_bytes: int
    chunks: int


@dataclass(frozen=True, slots=True)
class StoredSizes:
    """The sizes of everything, caches by name and domains by number."""

    caches: tuple[CacheSizes, ...]
    domains: tuple[DomainSizes, ...]
    verification: PassState | None = None
    """Where the verification that goes on for ever stands."""


def load_cache_sizes(connection: Connection, cache_ids: Collection[int] | None = None) -> tuple[CacheSizes, ...]:
    """The sizes of the caches of those numbers, or of all, by name. Reads two rows for each."""
    sums = cache_sum.c
    wanted = (
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
    if cache_ids is not None:
        wanted = wanted.where(cache.c.id.in_(cache_ids))
    return tuple(CacheSizes(*row) for row in connection.execute(wanted))


def load_sizes(connection: Connection) -> StoredSizes:
    """The sizes as they are now. Reads some rows for each cache and domain."""
    sums = domain_sum.c
    domains = connection.execute(
        select(sums.domain_id, sums.packs, sums.pack_bytes, sums.chunks).order_by(sums.domain_id)
    )
    return StoredSizes(
        caches=load_cache_sizes(connection),
        domains=tuple(DomainSizes(*row) for row in domains),
        verification=load_pass(connection),
    )
