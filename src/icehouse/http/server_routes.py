"""Routes about the server itself."""

from __future__ import annotations

from litestar import MediaType, Response, get
from prometheus_client import CONTENT_TYPE_LATEST

from icehouse.api.server import ServerParameters
from icehouse.db.sizes import load_sizes
from icehouse.http.description import PATH
from icehouse.http.metrics import render_metrics
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
    """Answer 200 once the server is ready, and 503 when its database does not answer."""
    await parts.database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one())
    return "ok\n"


@get("/metrics", tags=["server"])
async def show_metrics(parts: ServerParts, credential: Credential) -> Response[bytes]:
    """The metrics of this process in Prometheus' text format. They name all caches: needs `admin` on `*`."""
    check_may_watch_server(await parts.access.identify(credential))
    text = render_metrics(parts.counters, await parts.database.read(load_sizes))
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"})
