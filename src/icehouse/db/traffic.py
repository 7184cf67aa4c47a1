"""Rows of the access database: how much is asked of each cache over time, and how large it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import Connection, delete, func, insert, literal, select
from sqlalchemy.dialects.sqlite import insert as upsert

from icehouse.db.schema import traffic

HOUR_SECONDS: Final = 3_600
DAY_SECONDS: Final = 86_400

_COUNTS: Final = ("hits", "misses", "nars", "sent_bytes")


@dataclass(frozen=True, slots=True)
class TrafficRow:
    """A time of one cache."""

    cache_id: int
    starts_at: int
    """Seconds since the epoch, a multiple of the time's length."""
    hits: int = 0
    misses: int = 0
    nars: int = 0
    sent_bytes: int = 0
    nar_bytes: int | None = None
    stored_bytes: int | None = None


def add_traffic(connection: Connection, new: Sequence[TrafficRow]) -> None:
    """Add to what is noted of these hours; sizes take the place of those that were noted."""
    if not new:
        return
    addition = upsert(traffic)
    addition = addition.on_conflict_do_update(
        index_elements=[traffic.c.cache_id, traffic.c.seconds, traffic.c.starts_at],
        set_={name: traffic.c[name] + addition.excluded[name] for name in _COUNTS}
        | {name: func.coalesce(addition.excluded[name], traffic.c[name]) for name in ("nar_bytes", "stored_bytes")},
    )
    connection.execute(addition, [{**asdict(row), "seconds": HOUR_SECONDS} for row in new])


def load_traffic(connection: Connection, cache_id: int, seconds: int, since: int) -> list[TrafficRow]:
    """What is noted of a cache for times of that length which begin at *since* or later, in their order."""
    columns = [column for column in traffic.c if column.name != "seconds"]
    rows = connection.execute(
        select(*columns)
        .where(traffic.c.cache_id == cache_id, traffic.c.seconds == seconds, traffic.c.starts_at >= since)
        .order_by(traffic.c.starts_at)
    )
    return [TrafficRow(*row) for row in rows]


def sum_traffic(connection: Connection, cache_ids: Collection[int], since: int) -> dict[int, TrafficRow]:
    """What the hours from *since* on add up to, by cache; at most a thousand caches at once. Sizes are left out."""
    rows = connection.execute(
        select(traffic.c.cache_id, literal(since), *(func.sum(traffic.c[name]) for name in _COUNTS))
        .where(traffic.c.cache_id.in_(cache_ids), traffic.c.seconds == HOUR_SECONDS, traffic.c.starts_at >= since)
        .group_by(traffic.c.cache_id)
    )
    return {row[0]: TrafficRow(*row) for row in rows}


def roll_up(connection: Connection, cache_id: int, before: int) -> int:
    """Make days of a cache's hours before *before*, which is the start of a day; how many hours there were."""
    is_old = (traffic.c.cache_id == cache_id) & (traffic.c.seconds == HOUR_SECONDS) & (traffic.c.starts_at < before)
    day = traffic.c.starts_at - traffic.c.starts_at % DAY_SECONDS
    days = select(
        traffic.c.cache_id,
        literal(DAY_SECONDS),
        day,
        *(func.sum(traffic.c[name]) for name in _COUNTS),
        # The largest: what was looked at last is not known of a sum.
        func.max(traffic.c.nar_bytes),
        func.max(traffic.c.stored_bytes),
    )
    connection.execute(insert(traffic).from_select(list(traffic.c), days.where(is_old).group_by(day)))
    return connection.execute(delete(traffic).where(is_old)).rowcount


def forget_traffic(connection: Connection, before: int) -> int:
    """Forget what is older; how many rows that were."""
    return connection.execute(delete(traffic).where(traffic.c.starts_at < before)).rowcount


def list_noted_caches(connection: Connection) -> list[int]:
    """The numbers of all caches that something is noted of, those too that are gone."""
    return list(connection.execute(select(traffic.c.cache_id).distinct()).scalars())


def forget_cache(connection: Connection, cache_id: int) -> None:
    """Forget all of one cache."""
    connection.execute(delete(traffic).where(traffic.c.cache_id == cache_id))
