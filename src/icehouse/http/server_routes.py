"""Routes about the server itself."""

from __future__ import annotations

from litestar import MediaType, Response, get
from prometheus_client import CONTENT_TYPE_LATEST

from icehouse.api.server import ServerParameters
from icehouse.db.sizes import load_sizes
from icehouse.http.description import PATH
from icehouse.http.metrics import Snapshot, render_metrics
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import Credential
from icehouse.rules.access import check_may_watch_server


@get("/api/v1/server", tags=["server"])
async def show_server(parts: ServerParts) -> ServerParameters:
    """The parameters that a client that pushes obeys."""
    return parts.parameters


@get(PATH, media_type=MediaType.JSON, tags=["server"])
async def show_document(parts: ServerParts) -> Response[bytes]:
    """This description of the API, in OpenAPI 3.1. It tells of no cache."""
    return Response(parts.description.json)


@get("/health", media_type=MediaType.TEXT, tags=["server"])
async def tell_health(parts: ServerParts) -> str:
    """Answer 200 while the server lives, and 503 when its database does not answer."""
    await parts.database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one())
    return "ok\n"


@get("/health/ready", media_type=MediaType.TEXT, tags=["server"])
async def tell_readiness(parts: ServerParts) -> Response[str]:
    """Answer 200 while the database answers, at this version's revision, and the storage can be written; else 503."""
    fault = await parts.readiness.find_fault()
    return Response("ready\n" if fault is None else f"not ready: {fault}\n", status_code=200 if fault is None else 503)


@get("/metrics", tags=["server"])
async def show_metrics(parts: ServerParts, credential: Credential) -> Response[bytes]:
    """The metrics of this process in Prometheus' text format. They name all caches: needs `admin` on `*`."""
    check_may_watch_server(await parts.access.identify(credential))
    sizes = await parts.database.read(load_sizes)
    past = await parts.collections.list_past(None)
    uploads = {"packs": parts.uploads, "nars": parts.nar_uploads.slots}
    text = render_metrics(Snapshot(parts.counters, parts.observed, uploads, sizes, past[0] if past else None))
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"})
