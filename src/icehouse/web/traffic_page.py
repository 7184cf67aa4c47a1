"""How much is asked of a cache, and how large it is, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.traffic import Traffic, TrafficPoint, TrafficRange
from icehouse.rules.access import Permission
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.charts import Chart, Series, draw_bars, draw_lines
from icehouse.web.pages import Page, show_size
from icehouse.web.visits import Visit

_RANGES: Final[dict[TrafficRange, str]] = {"day": "24 hours", "month": "30 days", "year": "365 days"}


@dataclass(frozen=True, slots=True)
class TrafficPage(Page):
    """All that the template sees."""

    template = "traffic.html"

    head: CacheHead
    span: TrafficRange
    hits: int
    misses: int
    nars: int
    sent_bytes: int
    charts: Sequence[Chart]
    ranges: Sequence[tuple[TrafficRange, str]] = tuple(_RANGES.items())

    @property
    def title(self) -> str:
        """What the page shows of which cache."""
        return f"Traffic of {self.head.name}"

    @property
    def hit_rate(self) -> str:
        """How many of the paths that were asked for were there."""
        return show_rate(self.hits, self.misses)


def show_rate(hits: int, misses: int) -> str:
    """A hit rate for people."""
    asked = hits + misses
    return f"{hits / asked:.1%}".replace("%", " %") if asked else "none asked"


@get(f"{CACHE_PATH}/traffic")
async def show_traffic(
    cache: FromPath[str],
    visit: NamedDependency[Visit],
    span: Annotated[TrafficRange, QueryParameter(name="range")] = "day",
) -> Response[Any]:
    """The charts of a cache."""
    entry = await visit.enter(cache, Permission.PUSH)
    traffic = await visit.parts.traffic.show(entry.cache, span)
    points = traffic.points
    page = TrafficPage(
        make_head(visit, entry, "Traffic"),
        span,
        hits=sum(point.hits for point in points),
        misses=sum(point.misses for point in points),
        nars=sum(point.nars for point in points),
        sent_bytes=sum(point.sent_bytes for point in points),
        charts=_draw(traffic),
    )
    return visit.show(page)


def _draw(traffic: Traffic) -> list[Chart]:
    points = traffic.points
    times = [_show_time(point, traffic.seconds) for point in points]
    asked = (Series("hits", [point.hits for point in points]), Series("misses", [point.misses for point in points]))
    sizes = (
        Series("NARs", [point.nar_bytes for point in points]),
        Series("stored", [point.stored_bytes for point in points]),
    )
    served = [Series("served", [point.sent_bytes for point in points])]
    return [
        draw_bars("asked", "Paths asked for", times, asked, "{:,}".format),
        draw_bars("served", "Bytes served", times, served, show_size, base=1024),
        draw_lines("sizes", "Size of its NARs, and what they take", times, sizes, show_size, base=1024),
    ]


def _show_time(point: TrafficPoint, seconds: int) -> str:
    when = datetime.fromtimestamp(point.starts_at, UTC)
    return f"{when:%H:%M}" if seconds < 86_400 else f"{when.day} {when:%b %Y}"  # noqa: PLR2004  seconds of a day
