"""Holding caches to their limits."""

from __future__ import annotations

from functools import partial

import structlog
from sqlalchemy import Connection

from icehouse.db.cache_settings import grow, load_settings
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.rules.quotas import check_limit, find_warning

_log = structlog.get_logger(__name__)


async def check_room(database: Database, cache: CacheRow) -> None:
    """Return if *cache* may be pushed to.

    Raises:
        OverQuota: it has reached its limit.
        NotFound: it was deleted meanwhile.
    """
    settings, stored_bytes = await database.read(partial(load_settings, cache_id=cache.id))
    check_limit(cache.name, stored_bytes, settings.limit_bytes)


def count_added(connection: Connection, cache: CacheRow, added_bytes: int) -> str | None:
    """Add to the size of a cache; what to warn of, if the cache became nearly full just now."""
    before = grow(connection, cache.id, added_bytes)
    settings, after = load_settings(connection, cache.id)
    return None if find_warning(before, settings) is not None else find_warning(after, settings)


def warn(cache: CacheRow, warning: str | None) -> None:
    """Write a warning of `count_added` to the log."""
    if warning is not None:
        _log.warning("a cache is nearly full", cache=cache.name, size=warning)
