"""The first page: the caches that the visitor may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from icehouse.api.caches import CacheView
from icehouse.web.pages import Page
from icehouse.web.visits import Visit


@dataclass(frozen=True, slots=True)
class HomePage(Page):
    """All that the template sees."""

    template = "home.html"

    caches: Sequence[CacheView]

    @property
    def title(self) -> str:
        """What the page lists."""
        return "Caches"


@get("/")
async def show_home(visit: NamedDependency[Visit]) -> Response[Any]:
    """The caches that the visitor may see."""
    return visit.show(HomePage(await visit.parts.caches.list_caches(visit.grant)))
