"""Routes about collections."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final

from litestar import get, post
from litestar.params import QueryParameter
from litestar.response import Stream

from icehouse.api.collections import CollectionRequest, PastCollection
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin
from icehouse.services.collection_run import RunRequest
from icehouse.services.collections import check_may_collect_all

MAX_BEFORE: Final = 2**53

Before = Annotated[
    int | None, QueryParameter(ge=1, le=MAX_BEFORE, description="Only collections with a lower number than this.")
]


@post(
    "/api/v1/caches/{cache_name:str}/collections",
    status_code=200,
    tags=["collections"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def collect_cache(
    cache_name: str, data: CollectionRequest, parts: ServerParts, credential: Credential, origin: Origin
) -> Stream:
    """Let go of what a cache's retention does not keep, and of what its domain does not need. Needs `delete`.

    The answer is `application/x-ndjson`, a line for each event as it happens; the last one has the result, or an
    error. Empty lines mean nothing. Closing the connection stops the collection.
    """
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    request = RunRequest(entry.cache.name, data.is_dry_run, origin.actor(entry.grant))
    return _stream(await parts.collections.start(request))


@post("/api/v1/collections", status_code=200, tags=["collections"], request_max_body_size=MAX_JSON_BYTES)
async def collect_all(data: CollectionRequest, parts: ServerParts, credential: Credential, origin: Origin) -> Stream:
    """The same for all caches. Needs `admin` on `*`."""
    grant = check_may_collect_all(await parts.access.identify(credential))
    return _stream(await parts.collections.start(RunRequest(None, data.is_dry_run, origin.actor(grant))))


@get("/api/v1/caches/{cache_name:str}/collections", tags=["collections"])
async def list_cache_collections(
    cache_name: str, parts: ServerParts, credential: Credential, before: Before = None
) -> list[PastCollection]:
    """What past collections did to a cache, the newest first, at most 100. Needs `delete`.

    `before` set to the last one's number gives the next ones.
    """
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    return await parts.collections.list_past(entry.cache, before=before)


@get("/api/v1/collections", tags=["collections"])
async def list_collections(parts: ServerParts, credential: Credential, before: Before = None) -> list[PastCollection]:
    """All past collections, the newest first, at most 100. Needs `admin` on `*`."""
    check_may_collect_all(await parts.access.identify(credential))
    return await parts.collections.list_past(None, before=before)


def _stream(events: AsyncGenerator[bytes]) -> Stream:
    return Stream(events, media_type="application/x-ndjson", headers={"cache-control": "no-store"})
