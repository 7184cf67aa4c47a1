"""Routes about pins."""

from __future__ import annotations

from typing import Annotated, Final

from litestar import Response, delete, get, put
from litestar.params import QueryParameter

from icehouse.api.pins import PinAnswer, PinDetails, PinPut, PinView
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin

MAX_BEFORE: Final = 2**53

Before = Annotated[
    int | None, QueryParameter(ge=1, le=MAX_BEFORE, description="Only revisions with a lower number than this.")
]


@get("/api/v1/caches/{cache_name:str}/pins", tags=["pins"])
async def list_pins(cache_name: str, parts: ServerParts, credential: Credential) -> list[PinView]:
    """All pins of a cache, by name, each with its newest revision."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.pins.list_pins(entry.cache)


@get("/api/v1/caches/{cache_name:str}/pins/{pin_name:str}", tags=["pins"])
async def show_pin(
    cache_name: str, pin_name: str, parts: ServerParts, credential: Credential, before: Before = None
) -> PinDetails:
    """A pin with its revisions, the newest first, at most 200 of them.

    With `has_older`, `before` set to the last one's number gives the next ones.
    """
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.pins.show_pin(entry.cache, pin_name, before=before)


@put("/api/v1/caches/{cache_name:str}/pins/{pin_name:str}", tags=["pins"], request_max_body_size=MAX_JSON_BYTES)
async def put_pin(
    cache_name: str, pin_name: str, data: PinPut, parts: ServerParts, credential: Credential, origin: Origin
) -> Response[PinAnswer]:
    """Put a pin on a visible path, whose closure and artifacts are looked at first. Needs `pin`.

    Another path than before makes a new revision, and the status 201. The same path again changes only the artifacts
    and, if one is given, the rule of what is kept.
    """
    entry = await parts.access.enter(cache_name, Permission.PIN, credential)
    answer = await parts.pins.put_pin(entry.cache, pin_name, data, origin.actor(entry.grant))
    return Response(answer, status_code=201 if answer.is_new_revision else 200)


@delete("/api/v1/caches/{cache_name:str}/pins/{pin_name:str}", tags=["pins"])
async def delete_pin(
    cache_name: str, pin_name: str, parts: ServerParts, credential: Credential, origin: Origin
) -> None:
    """Remove a pin with all its revisions. Their paths stay until retention lets go of them. Needs `pin`."""
    entry = await parts.access.enter(cache_name, Permission.PIN, credential)
    await parts.pins.delete_pin(entry.cache, pin_name, origin.actor(entry.grant))
