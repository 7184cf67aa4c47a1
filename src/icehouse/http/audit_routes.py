"""The route about the audit log."""

from __future__ import annotations

from typing import Annotated, Final

from litestar import get
from litestar.params import QueryParameter

from icehouse.api.audit import AuditPage
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import Credential
from icehouse.rules.audit import AuditFilter
from icehouse.services.audit import ENTRIES_A_PAGE, MAX_ENTRIES_A_PAGE

MAX_NUMBER: Final = 2**53

CacheFilter = Annotated[str | None, QueryParameter(description="Only what concerns this cache.")]
ActionFilter = Annotated[
    str | None, QueryParameter(description="Only this action, such as `token.create`, or a kind of them: `token.`")
]
ByFilter = Annotated[
    str | None,
    QueryParameter(description="Only what was done by the token of this number, or by whom this is a part of."),
]
Since = Annotated[int | None, QueryParameter(ge=0, le=MAX_NUMBER, description="Only changes at this time or later.")]
Until = Annotated[int | None, QueryParameter(ge=0, le=MAX_NUMBER, description="Only changes before this time.")]
Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_NUMBER, description="Only changes with a lower number.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_ENTRIES_A_PAGE, description="So many at most.")]


@get("/api/v1/audit", tags=["audit"])
async def list_changes(  # noqa: PLR0913  each is a parameter of the query
    parts: ServerParts,
    credential: Credential,
    *,
    cache: CacheFilter = None,
    action: ActionFilter = None,
    by: ByFilter = None,
    since: Since = None,
    until: Until = None,
    before: Before = None,
    limit: Limit = ENTRIES_A_PAGE,
) -> AuditPage:
    """What was changed on the server, the newest first. Needs `admin`; only what concerns no other caches is told.

    With `has_more`, `before` set to the last one's number gives the next ones.
    """
    grant = await parts.access.identify(credential)
    return await parts.audit.list_changes(AuditFilter(cache, action, by, since, until, before), grant, limit=limit)
