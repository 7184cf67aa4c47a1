"""Routes about how much is asked of caches."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.params import QueryParameter

from icehouse.api.traffic import Traffic, TrafficRange
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import Credential
from icehouse.rules.access import Permission

Span = Annotated[
    TrafficRange,
    QueryParameter(name="range", description="The last 24 hours, 30 days or 365 days, the present one included."),
]


@get("/api/v1/caches/{cache_name:str}/traffic", tags=["caches"])
async def show_traffic(cache_name: str, parts: ServerParts, credential: Credential, span: Span = "day") -> Traffic:
    """How much was asked of a cache in each hour or day, and how large it was then. Needs `push`.

    What came in the last half minute may be missing.
    """
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    return await parts.traffic.show(entry.cache, span)
