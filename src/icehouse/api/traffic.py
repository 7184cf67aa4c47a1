"""Bodies about how much is asked of a cache."""

from __future__ import annotations

from typing import Literal

import msgspec

TrafficRange = Literal["day", "month", "year"]


class TrafficPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One hour or day."""

    starts_at: int
    hits: int
    """Narinfos that were asked for and are there."""
    misses: int
    nars: int
    """Answers with a NAR, or a part of one."""
    sent_bytes: int
    """Of narinfos and NARs."""
    nar_bytes: int | None
    """Of the visible paths at some time in it; null: nobody looked."""
    stored_bytes: int | None
    """Of their distinct chunks, then."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/caches/{cache}/traffic``."""

    seconds: int
    """The length of each point's time: an hour or a day, in UTC."""
    points: list[TrafficPoint]
    """One for each time up to now, the oldest first; without gaps."""
