"""Routes about collections."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final

from litestar import get, post
from litestar.params import QueryParameter
from litestar.response import Stream

from icehouse.api.collections import CollectionRequest, PastCollection, RetentionBody, RetentionPreview
from icehouse.api.verification import VerificationState
from icehouse.errors import InvalidFormat
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin
from icehouse.services.collection_run import RunRequest
from icehouse.services.collections import check_may_collect_all
from icehouse.services.retention import parse_retention

MAX_BEFORE: Final = 2**53

Before = Annotated[
    int | None, QueryParameter(ge=1, le=MAX_BEFORE, description="Only collections with a lower number than this.")
]


KeepUnused = Annotated[int | None, QueryParameter(description="Hide what was not used for so long.")]
KeepPushed = Annotated[int | None, QueryParameter(description="Hide what was pushed longer ago.")]
Budget = Annotated[
    int | None, QueryParameter(description="Hide what was used least recently while the cache is larger.")
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
    if data.retention is not None and not data.is_dry_run:
        raise InvalidFormat("retention: only a dry run goes by other settings than the cache's; configure the cache")
    retention = None if data.retention is None else parse_retention(data.retention)
    request = RunRequest(entry.cache.name, data.is_dry_run, origin.actor(entry.grant), retention)
    return _stream(await parts.collections.start(request))


@post("/api/v1/collections", status_code=200, tags=["collections"], request_max_body_size=MAX_JSON_BYTES)
async def collect_all(data: CollectionRequest, parts: ServerParts, credential: Credential, origin: Origin) -> Stream:
    """The same for all caches. Needs `admin` on `*`."""
    grant = check_may_collect_all(await parts.access.identify(credential))
    if data.retention is not None:
        raise InvalidFormat("retention: a dry run of one cache alone goes by other settings")
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


@get("/api/v1/caches/{cache_name:str}/retention/preview", tags=["collections"])
async def preview_retention(
    cache_name: str,
    parts: ServerParts,
    credential: Credential,
    keep_unused_seconds: KeepUnused = None,
    keep_pushed_seconds: KeepPushed = None,
    budget_bytes: Budget = None,
) -> RetentionPreview | None:
    """What a collection would hide with these settings, at once: from sums that the last one made. Needs `configure`.

    Null before the first collection, or dry run of one.
    """
    entry = await parts.access.enter(cache_name, Permission.CONFIGURE, credential)
    asked = RetentionBody(
        keep_unused_seconds=keep_unused_seconds, keep_pushed_seconds=keep_pushed_seconds, budget_bytes=budget_bytes
    )
    return await parts.retention.preview(entry.cache, parse_retention(asked))


@get("/api/v1/caches/{cache_name:str}/collections/{collection_id:int}", tags=["collections"])
async def show_cache_collection(
    cache_name: str, collection_id: int, parts: ServerParts, credential: Credential
) -> PastCollection:
    """What one past collection did to a cache. Needs `delete`."""
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    return await parts.collections.get_past(entry.cache, collection_id)


@get("/api/v1/caches/{cache_name:str}/verification", tags=["collections"])
async def show_verification(cache_name: str, parts: ServerParts, credential: Credential) -> VerificationState:
    """How far the verification is that never ends, and what is damaged in a cache. Needs `delete`."""
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    return await parts.verification.load(entry.cache)


def _stream(events: AsyncGenerator[bytes]) -> Stream:
    return Stream(events, media_type="application/x-ndjson", headers={"cache-control": "no-store"})
