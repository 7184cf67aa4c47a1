"""What caches keep and how large they are, as columns of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, select, update

from icehouse.db.schema import cache
from icehouse.errors import NotFound
from icehouse.nix.signing import PublicKey
from icehouse.rules.quotas import CacheSettings


def load_settings(connection: Connection, cache_id: int) -> tuple[CacheSettings, int]:
    """A cache's settings, and its size: the stored bytes of the distinct chunks of its paths.

    Raises:
        NotFound: it was deleted.
    """
    columns = (
        cache.c.keep_unused_seconds,
        cache.c.keep_pushed_seconds,
        cache.c.budget_bytes,
        cache.c.limit_bytes,
        cache.c.trash_seconds,
        cache.c.stored_bytes,
    )
    row = connection.execute(select(*columns).where(cache.c.id == cache_id)).first()
    if row is None:
        raise NotFound("the cache was deleted meanwhile")
    *values, stored_bytes = row
    return CacheSettings(*values), stored_bytes


def set_settings(
    connection: Connection, cache_id: int, settings: CacheSettings, *, priority: int | None = None
) -> None:
    """Change a cache's settings, and with *priority* the number that orders it among others."""
    values: dict[str, int | None] = asdict(settings)
    if priority is not None:
        values["priority"] = priority
    connection.execute(update(cache).where(cache.c.id == cache_id).values(**values))


def load_required_keys(connection: Connection, cache_id: int) -> tuple[PublicKey, ...]:
    """The keys of which a cache demands a signature; none: it demands nothing, or was deleted."""
    text = connection.execute(select(cache.c.required_keys).where(cache.c.id == cache_id)).scalar()
    return tuple(PublicKey.parse(key) for key in (text or "").split())


def set_required_keys(connection: Connection, cache_id: int, keys: Sequence[PublicKey]) -> None:
    """Change what a cache demands."""
    text = " ".join(key.render() for key in keys)
    connection.execute(update(cache).where(cache.c.id == cache_id).values(required_keys=text))


def grow(connection: Connection, cache_id: int, added_bytes: int) -> int:
    """Add to the size of a cache, which the next collection makes exact; the size before."""
    after = cache.c.stored_bytes + added_bytes
    statement = update(cache).where(cache.c.id == cache_id).values(stored_bytes=after)
    return connection.execute(statement.returning(cache.c.stored_bytes)).scalar_one() - added_bytes
