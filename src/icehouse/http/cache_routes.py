"""Routes about caches and what is in them."""

from __future__ import annotations

from typing import Annotated

from litestar import delete, get, patch, post
from litestar.params import QueryParameter

from icehouse.api.caches import CacheConfigure, CacheCreate, CacheSize, CacheView
from icehouse.api.paths import (
    ChainAnswer,
    ClosureView,
    DeleteAnswer,
    FoundPaths,
    PathsPage,
    PathView,
    RestoreAnswer,
    WhyAnswer,
)
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission, allows
from icehouse.rules.audit import Origin
from icehouse.services.caches import permission_to_configure

After = Annotated[str | None, QueryParameter(description="Only paths after this hash part.")]
IsTrash = Annotated[bool, QueryParameter(description="Those in the trash, instead of those that are visible.")]
Before = Annotated[str | None, QueryParameter(description="That of the page before, for the next one.")]
SearchText = Annotated[
    str, QueryParameter(description="Words that the name has, or parts of them; a hash part or its beginning; a path.")
]
Publisher = Annotated[str, QueryParameter(description="What the description of the token has that pushed it.")]
WithReferrers = Annotated[bool, QueryParameter(description="Delete all that reaches it too, instead of refusing.")]


@get("/api/v1/caches", tags=["caches"])
async def list_caches(parts: ServerParts, credential: Credential) -> list[CacheView]:
    """The public caches, and those that the credentials may pull from."""
    return await parts.caches.list_caches(await parts.access.identify(credential))


@post("/api/v1/caches", tags=["caches"], request_max_body_size=MAX_JSON_BYTES)
async def create_cache(data: CacheCreate, parts: ServerParts, credential: Credential, origin: Origin) -> CacheView:
    """Create a cache with a signing key of its own. Needs `admin` on a pattern that matches its name.

    A staging of another cache needs `configure` on that one too.
    """
    grant = await parts.access.identify(credential)
    return await parts.caches.create_cache(data, grant, origin.actor(grant))


@get("/api/v1/caches/{cache_name:str}", tags=["caches"])
async def show_cache(cache_name: str, parts: ServerParts, credential: Credential) -> CacheView:
    """A cache: its settings, keys and upstreams."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.caches.show_cache(entry.cache, entry.grant)


@patch("/api/v1/caches/{cache_name:str}", tags=["caches"], request_max_body_size=MAX_JSON_BYTES)
async def configure_cache(
    cache_name: str, data: CacheConfigure, parts: ServerParts, credential: Credential, origin: Origin
) -> CacheView:
    """Change what a cache keeps, how large it may become, its priority, and whose signatures it demands.

    What is left out stays as it is; null unsets. Needs `configure`, and `admin` for `required_keys`. To make it a
    staging of another cache needs `configure` on that one too.
    """
    entry = await parts.access.enter(cache_name, permission_to_configure(data), credential)
    return await parts.caches.configure_cache(entry.cache, data, entry.grant, origin.actor(entry.grant))


@get("/api/v1/caches/{cache_name:str}/size", tags=["caches"])
async def measure_cache(cache_name: str, parts: ServerParts, credential: Credential) -> CacheSize:
    """How much is visible in a cache. Takes some time in a large one."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.caches.measure_cache(entry.cache)


@delete("/api/v1/caches/{cache_name:str}", tags=["caches"])
async def delete_cache(cache_name: str, parts: ServerParts, credential: Credential, origin: Origin) -> None:
    """Delete a cache with all that is in it. Needs `admin` on it."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    await parts.caches.delete_cache(entry.cache, origin.actor(entry.grant))


@get("/api/v1/caches/{cache_name:str}/paths", tags=["caches"])
async def list_paths(
    cache_name: str, parts: ServerParts, credential: Credential, after: After = None, *, trash: IsTrash = False
) -> PathsPage:
    """The visible paths of a cache, or those in its trash, by hash part, at most 1,000. Needs `delete`.

    With `has_more`, `after` set to the last one's hash part gives the next ones.
    """
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    start = None if after is None else parse_hash_part(after)
    return await parts.trash.list_paths(entry.cache, is_trash=trash, after=start)


@post("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}/restore", status_code=200, tags=["caches"])
async def restore_path(
    cache_name: str, hash_part: str, parts: ServerParts, credential: Credential, origin: Origin
) -> RestoreAnswer:
    """Make a path of the trash visible again, with all that it needs from there. Needs `delete`."""
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    return await parts.trash.restore(entry.cache, parse_hash_part(hash_part), origin.actor(entry.grant))


@delete("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}", status_code=200, tags=["caches"])
async def delete_path(
    cache_name: str,
    hash_part: str,
    parts: ServerParts,
    credential: Credential,
    origin: Origin,
    *,
    with_referrers: WithReferrers = False,
) -> DeleteAnswer:
    """Move a path to the trash. Needs `delete`; 409 if a pin keeps it, or visible paths refer to it."""
    entry = await parts.access.enter(cache_name, Permission.DELETE, credential)
    part = parse_hash_part(hash_part)
    return await parts.trash.delete(entry.cache, part, origin.actor(entry.grant), with_referrers=with_referrers)


@get("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}", tags=["caches"])
async def show_one_path(cache_name: str, hash_part: str, parts: ServerParts, credential: Credential) -> PathView:
    """A visible path.

    The address that it was published from is told to who has `admin`, and when it was last used to who has `push`.
    """
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    with_address = allows(entry.grant, Permission.ADMIN, cache_name)
    with_use = allows(entry.grant, Permission.PUSH, cache_name)
    part = parse_hash_part(hash_part)
    return await parts.paths.show(entry.cache, part, with_use=with_use, with_address=with_address)


@get("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}/referrers", tags=["caches"])
async def list_referrers(
    cache_name: str, hash_part: str, parts: ServerParts, credential: Credential, before: Before = None
) -> FoundPaths:
    """What refers to a path, the newest first. Those in the trash are told to who has `delete`."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    part, with_hidden = parse_hash_part(hash_part), allows(entry.grant, Permission.DELETE, cache_name)
    return await parts.paths.list_referrers(entry.cache, part, before=before, with_hidden=with_hidden)


@get("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}/closure", tags=["caches"])
async def show_closure(cache_name: str, hash_part: str, parts: ServerParts, credential: Credential) -> ClosureView:
    """A visible path with all that it reaches, and how much each of these adds. Of large ones the first 20,000."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.closure_sizes.view(entry.cache, parse_hash_part(hash_part))


@get("/api/v1/caches/{cache_name:str}/paths/{hash_part:str}/chain/{other:str}", tags=["caches"])
async def find_chain(
    cache_name: str, hash_part: str, other: str, parts: ServerParts, credential: Credential
) -> ChainAnswer:
    """Why the closure of a visible path has another one: the shortest chain of references between them."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.closure_sizes.find_chain(entry.cache, parse_hash_part(hash_part), parse_hash_part(other))


@get("/api/v1/caches/{cache_name:str}/search", tags=["caches"])
async def search_paths(
    cache_name: str,
    parts: ServerParts,
    credential: Credential,
    text: SearchText = "",
    by: Publisher = "",
    before: Before = None,
) -> FoundPaths:
    """Find paths, the newest first. Those in the trash are told to who has `delete`."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    with_hidden = allows(entry.grant, Permission.DELETE, cache_name)
    return await parts.paths.search(entry.cache, text, by=by, before=before, with_hidden=with_hidden)


@get("/api/v1/caches/{cache_name:str}/why/{hash_part:str}", tags=["caches"])
async def explain_one_path(cache_name: str, hash_part: str, parts: ServerParts, credential: Credential) -> WhyAnswer:
    """Whether the cache has a path, and why: who pushed it, which pin keeps it, what hid it, what it waits for."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.paths.explain(entry.cache, parse_hash_part(hash_part))
