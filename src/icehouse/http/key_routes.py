"""Routes about signing keys."""

from __future__ import annotations

from litestar import get, post

from icehouse.api.keys import KeyAdd, KeyName, KeyRetire, KeyView, SigningProgress
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin


@get("/api/v1/caches/{cache_name:str}/keys", tags=["keys"])
async def list_keys(cache_name: str, parts: ServerParts, credential: Credential) -> list[KeyView]:
    """The signing keys of a cache with their states, without their secret halves. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.keys.list_keys(entry.cache)


@post("/api/v1/caches/{cache_name:str}/keys", tags=["keys"], request_max_body_size=MAX_JSON_BYTES)
async def add_key(cache_name: str, data: KeyAdd, parts: ServerParts, credential: Credential, origin: Origin) -> KeyView:
    """Make or import a signing key. It is staged: published for clients, and does not sign yet. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.keys.add_key(entry.cache, data, origin.actor(entry.grant))


@post(
    "/api/v1/caches/{cache_name:str}/keys/activate",
    status_code=200,
    tags=["keys"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def activate_key(
    cache_name: str, data: KeyName, parts: ServerParts, credential: Credential, origin: Origin
) -> KeyView:
    """Let a key sign from now on, beside those that do, and in the background what is there. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.keys.activate_key(entry.cache, data.name, origin.actor(entry.grant))


@post(
    "/api/v1/caches/{cache_name:str}/keys/retire",
    status_code=200,
    tags=["keys"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def retire_key(
    cache_name: str, data: KeyRetire, parts: ServerParts, credential: Credential, origin: Origin
) -> KeyView:
    """Let a key sign no more, and publish it no longer. What it signed stays, or with `strip` goes. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.keys.retire_key(entry.cache, data.name, origin.actor(entry.grant), strip=data.strip)


@get("/api/v1/caches/{cache_name:str}/keys/progress", tags=["keys"])
async def show_signing_progress(cache_name: str, parts: ServerParts, credential: Credential) -> SigningProgress:
    """How far the server is in giving paths the signatures of keys that sign, and removing others. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.signing_passes.show_progress(entry.cache)
