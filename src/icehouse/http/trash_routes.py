"""Routes about the trash of a cache."""

from __future__ import annotations

from typing import Annotated, Final

from litestar import get, post
from litestar.params import QueryParameter

from icehouse.api.paths import DeletePlan, RestoreManyAnswer, RestoreRequest, TrashPage
from icehouse.errors import InvalidFormat
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin
from icehouse.services.trash import PATHS_A_PAGE

MAX_NAME_LENGTH: Final = 211  # of a store path's name

Name = Annotated[
    str, QueryParameter(max_length=MAX_NAME_LENGTH, description="Only paths whose names have this in them.")
]
Before = Annotated[str | None, QueryParameter(description="What the page before gave: only what came earlier.")]


@get("/api/v1/caches/{cache_name:str}/trash", tags=["trash"])
async def list_trash(
    cache_name: str, parts: ServerParts, credential: Credential, name: Name = "", before: Before = None
) -> TrashPage:
    """What is in the trash and why, what came last first, at most 1,000 paths. Needs `delete`."""
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    return await parts.trash.list_trash(entry.cache, name=name, before=before, limit=PATHS_A_PAGE)


@post(
    "/api/v1/caches/{cache_name:str}/trash/restore",
    status_code=200,
    tags=["trash"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def restore_many(
    cache_name: str, data: RestoreRequest, parts: ServerParts, credential: Credential, origin: Origin
) -> RestoreManyAnswer:
    """Make paths of the trash visible again, with what they need from there: some, or all that a collection hid.

    Needs `delete`. Those that cannot come back are named in the answer, and do not stop the others.
    """
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    actor = origin.actor(entry.grant)
    if data.collection is None and data.hash_parts is not None and data.after is None:
        return await parts.trash.restore_many(entry.cache, [*map(parse_hash_part, data.hash_parts)], actor)
    if data.collection is not None and data.hash_parts is None:
        return await parts.trash.restore_collection(entry.cache, data.collection, actor, after=data.after)
    raise InvalidFormat("expected either hash_parts, or collection with or without after")


@get("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}/deletion", tags=["trash"])
async def plan_deletion(cache_name: str, hash_part: str, parts: ServerParts, credential: Credential) -> DeletePlan:
    """What deleting a path would take with it, and which pins forbid it. Changes nothing. Needs `delete`."""
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    return await parts.trash.plan_delete(entry.cache, parse_hash_part(hash_part))


ROUTES: Final = (list_trash, restore_many, plan_deletion)
