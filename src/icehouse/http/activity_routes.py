"""The route about what the server does at this moment."""

from __future__ import annotations

from litestar import get

from icehouse.api.activity import ActivityView
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import Credential


@get("/api/v1/activity", tags=["server"])
async def show_activity(parts: ServerParts, credential: Credential) -> ActivityView:
    """Pushes under way to caches that the caller administers; with `admin` on `*`, what the server does by itself too.

    It is what the process knows that answers, of those that `workers` says.
    """
    return await parts.activity.show(await parts.access.identify(credential))
