"""The first page: the caches that the visitor may see, how large they are, and how they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency

from icehouse.api.caches import CacheView
from icehouse.db.sizes import CacheSizes
from icehouse.db.traffic import TrafficRow
from icehouse.rules.access import Permission
from icehouse.web.new_cache_page import may_create
from icehouse.web.pages import Page
from icehouse.web.traffic_page import show_rate
from icehouse.web.visits import Visit

_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class CacheCard:
    """What is told of one cache."""

    cache: CacheView
    sizes: CacheSizes
    traffic: TrafficRow | None
    """Of the last days; `None`: it is not for this visitor."""

    @property
    def saved(self) -> str | None:
        """How much less its NARs take than they are long."""
        nar_bytes, stored_bytes = self.sizes.nar_bytes, self.sizes.stored_bytes
        if stored_bytes >= nar_bytes:
            return None
        return f"{1 - stored_bytes / nar_bytes:.0%}".replace("%", " %")

    @property
    def hit_rate(self) -> str:
        """How many of the paths that were asked for were there."""
        return "none" if self.traffic is None else show_rate(self.traffic.hits, self.traffic.misses)


@dataclass(frozen=True, slots=True)
class HomePage(Page):
    """All that the template sees."""

    template = "home.html"

    cards: Sequence[CacheCard]
    may_create: bool
    days: int = _DAYS

    @property
    def title(self) -> str:
        """What the page lists."""
        return "Caches"


@get("/")
async def show_home(visit: NamedDependency[Visit]) -> Response[Any]:
    """The caches that the visitor may see."""
    caches = await visit.parts.caches.list_caches(visit.grant)
    sizes = await visit.parts.traffic.list_sizes()
    traffic = await visit.parts.traffic.sum_days([each.cache_id for each in sizes.values()], _DAYS)
    cards: list[CacheCard] = []
    for cache in caches:
        size = sizes.get(cache.name)
        if size is None:
            continue  # deleted meanwhile
        row = traffic.get(size.cache_id, TrafficRow(size.cache_id, 0))
        cards.append(CacheCard(cache, size, row if visit.may(cache, Permission.PUSH) else None))
    return visit.show(HomePage(cards, may_create(visit.grant)))
