"""How much is stored: the sizes that monitoring asks for."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Integer, cast, func, select

from icehouse.db.schema import cache, pack, path
from icehouse.db.verification import PassState, load_pass
from icehouse.rules.verification import DAMAGED


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


def measure_sizes(connection: Connection) -> StoredSizes:
    """The sizes as they are now. Passes once over the table of paths and once over that of packs."""
    is_visible = cast(path.c.id.is_not(None) & path.c.hidden_at.is_(None), Integer)
    caches = connection.execute(
        select(
            cache.c.name,
            func.coalesce(func.sum(is_visible), 0),
            func.count(path.c.hidden_at),
            func.coalesce(func.sum(is_visible * path.c.nar_size), 0),
            func.count().filter(path.c.hidden_because.startswith(DAMAGED, autoescape=True)),
        )
        .select_from(cache.outerjoin(path, path.c.cache_id == cache.c.id))
        .group_by(cache.c.id)
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
