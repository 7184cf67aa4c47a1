"""How much is asked of each cache: counted in memory, written twice a minute, rolled up and forgotten with time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.traffic import Traffic, TrafficPoint, TrafficRange
from icehouse.db.caches import CacheRow, list_caches
from icehouse.db.engine import Database
from icehouse.db.sizes import CacheSizes, load_cache_sizes
from icehouse.db.traffic import (
    DAY_SECONDS,
    HOUR_SECONDS,
    TrafficRow,
    add_traffic,
    forget_cache,
    forget_traffic,
    list_noted_caches,
    load_traffic,
    roll_up,
    sum_traffic,
)
from icehouse.services.flushing import Settle, settle_all

KEEP_HOURS_SECONDS: Final = 35 * DAY_SECONDS
"""How long hours are told apart."""

KEEP_DAYS_SECONDS: Final = 800 * DAY_SECONDS
"""How long days are known."""

_RANGES: Final[dict[TrafficRange, tuple[int, int]]] = {
    "day": (HOUR_SECONDS, 24),
    "month": (DAY_SECONDS, 30),
    "year": (DAY_SECONDS, 365),
}
"""The length of a point's time, and how many there are."""


@dataclass(slots=True)
class CacheTraffic:
    """What was asked of a cache since it was last written. Whoever answers adds to it."""

    hits: int = 0
    misses: int = 0
    nars: int = 0
    sent_bytes: int = 0


class TrafficCounts:
    """The traffic of all caches. Belongs to one event loop.

    What a crash or a failing disk loses is at most half a minute of counts. Several processes add to the same rows.
    """

    def __init__(self, database: Database, access_database: Database, clock: Callable[[], int]) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self._access_database = access_database
        self._clock = clock
        self._counts: dict[str, CacheTraffic] = {}
        self._sized_hour = -1
        self._settle: list[Settle] = []

    def settle_first(self, settle: Settle) -> None:
        """Have *settle* called before anything is written: it adds what was counted elsewhere."""
        self._settle.append(settle)

    def of(self, cache_name: str) -> CacheTraffic:
        """Where to count for a cache that there is. Always the same for one name, so that it may be kept."""
        found = self._counts.get(cache_name)
        if found is None:
            found = self._counts[cache_name] = CacheTraffic()
        return found

    async def flush(self) -> None:
        """Write what was counted, and once an hour how large each cache is.

        What could not be written is kept for the next time.

        Raises:
            StorageError: a database failed.
        """
        await settle_all(self._settle)
        now = self._clock()
        hour = now - now % HOUR_SECONDS
        is_due = hour != self._sized_hour
        if not is_due and not any(counts.hits or counts.misses or counts.nars for counts in self._counts.values()):
            return
        taken: list[tuple[CacheTraffic, TrafficRow]] = []
        for cache in await self._database.read(load_cache_sizes):
            counts = self.of(cache.cache_name)
            sizes = (cache.nar_bytes, cache.stored_bytes) if is_due else (None, None)
            row = TrafficRow(cache.cache_id, hour, counts.hits, counts.misses, counts.nars, counts.sent_bytes, *sizes)
            if is_due or row != TrafficRow(cache.cache_id, hour):
                taken.append((counts, row))
                _add(counts, row, -1)
        try:
            await self._access_database.write(partial(add_traffic, new=[row for _, row in taken]))
        except BaseException:
            for counts, row in taken:
                _add(counts, row, 1)
            raise
        self._sized_hour = hour

    async def show(self, cache: CacheRow, span: TrafficRange) -> Traffic:
        """The traffic of a cache up to now, as far as it is written."""
        seconds, count = _RANGES[span]
        now = self._clock()
        last = now - now % seconds
        first = last - (count - 1) * seconds

        def work(connection: Connection) -> list[TrafficRow]:
            hours = load_traffic(connection, cache.id, HOUR_SECONDS, first)
            days = load_traffic(connection, cache.id, DAY_SECONDS, first) if seconds == DAY_SECONDS else []
            return days + hours

        points = {start: TrafficRow(cache.id, start) for start in range(first, last + 1, seconds)}
        for row in await self._access_database.read(work):
            start = row.starts_at - row.starts_at % seconds
            if start in points:
                points[start] = _merged(points[start], row)
        return Traffic(seconds=seconds, points=[_point(row) for row in points.values()])

    async def sum_days(self, cache_ids: Collection[int], days: int) -> dict[int, TrafficRow]:
        """What was asked of caches in the last *days*, 35 at most, by their numbers; those not asked are left out."""
        since = self._clock() - days * DAY_SECONDS
        return await self._access_database.read(partial(sum_traffic, cache_ids=cache_ids, since=since))

    async def list_sizes(self) -> dict[str, CacheSizes]:
        """How large each cache is now, by its name."""
        return {sizes.cache_name: sizes for sizes in await self._database.read(load_cache_sizes)}

    async def roll_up(self) -> None:
        """Make days of old hours, and forget what is older still, and what was of caches that are gone.

        Raises:
            StorageError: a database failed.
        """
        now = self._clock()
        today = now - now % DAY_SECONDS
        known = {cache.id for cache in await self._database.read(list_caches)}
        for cache_id in await self._access_database.read(list_noted_caches):
            if cache_id in known:
                await self._access_database.write(
                    partial(roll_up, cache_id=cache_id, before=today - KEEP_HOURS_SECONDS)
                )
            else:
                await self._access_database.write(partial(forget_cache, cache_id=cache_id))
        await self._access_database.write(partial(forget_traffic, before=today - KEEP_DAYS_SECONDS))


def _add(counts: CacheTraffic, row: TrafficRow, sign: int) -> None:
    counts.hits += sign * row.hits
    counts.misses += sign * row.misses
    counts.nars += sign * row.nars
    counts.sent_bytes += sign * row.sent_bytes


def _merged(one: TrafficRow, later: TrafficRow) -> TrafficRow:
    return TrafficRow(
        one.cache_id,
        one.starts_at,
        one.hits + later.hits,
        one.misses + later.misses,
        one.nars + later.nars,
        one.sent_bytes + later.sent_bytes,
        one.nar_bytes if later.nar_bytes is None else later.nar_bytes,
        one.stored_bytes if later.stored_bytes is None else later.stored_bytes,
    )


def _point(row: TrafficRow) -> TrafficPoint:
    return TrafficPoint(
        starts_at=row.starts_at,
        hits=row.hits,
        misses=row.misses,
        nars=row.nars,
        sent_bytes=row.sent_bytes,
        nar_bytes=row.nar_bytes,
        stored_bytes=row.stored_bytes,
    )
