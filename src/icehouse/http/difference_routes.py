"""The route that compares two paths of a cache."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.params import QueryParameter

from icehouse.api.differences import DifferenceView
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import Credential
from icehouse.rules.access import Permission

MAX_PATH_LENGTH = 4_096

Before = Annotated[
    str, QueryParameter(name="from", max_length=MAX_PATH_LENGTH, description="A base name, whole path or hash part.")
]
After = Annotated[str, QueryParameter(name="to", max_length=MAX_PATH_LENGTH, description="The other path.")]


@get("/api/v1/caches/{cache_name:str}/difference", tags=["caches"])
async def show_difference(
    cache_name: str, before: Before, after: After, parts: ServerParts, credential: Credential
) -> DifferenceView:
    """What differs between two visible paths with all that they need, package by package, with its size.

    Packages and versions are read from names as `nix store diff-closures` does. The closures may have 50,000 paths
    together; beyond that the answer is 413.
    """
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.differences.compare(entry.cache, before, after)
