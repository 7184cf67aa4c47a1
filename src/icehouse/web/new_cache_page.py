"""The form for a new cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency

from icehouse.api.caches import CacheCreate
from icehouse.errors import Conflict, Denied, InvalidFormat
from icehouse.rules.access import Grant
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

NEW_CACHE_PATH: Final = "/ui/new-cache"


@dataclass(frozen=True, slots=True)
class NewCachePage(Page):
    """All that the template sees."""

    template = "new_cache.html"

    name: str = ""
    is_public: bool = False
    store_dir: str = "/nix/store"
    has_upstream: bool = True
    """Whether cache.nixos.org is its upstream."""
    fault: str | None = None

    @property
    def title(self) -> str:
        """What the page is for."""
        return "New cache"


def may_create(grant: Grant | None) -> bool:
    """Whether the visitor administers caches of some names."""
    return grant is not None and bool(grant.admin_patterns)


@get(NEW_CACHE_PATH)
async def show_new_cache(visit: NamedDependency[Visit]) -> Response[Any]:
    """The form."""
    if not may_create(visit.require_session().grant):
        raise Denied("to make a cache needs the permission admin")
    return visit.show(NewCachePage())


@post("/ui/caches", status_code=303)
async def create_cache(visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Make a cache with a signing key of its own."""
    asked = NewCachePage(
        form.text("name"),
        is_public=form.text("audience") == "public",
        store_dir=form.text("store_dir"),
        has_upstream=form.text("upstream") == "yes",
    )
    try:
        request = CacheCreate(
            name=asked.name,
            is_public=asked.is_public,
            store_dir=asked.store_dir,
            upstreams=None if asked.has_upstream else [],
        )
        made = await visit.parts.caches.create_cache(request, visit.grant, visit.actor)
    except (InvalidFormat, Denied, Conflict) as exc:
        page = NewCachePage(asked.name, asked.is_public, asked.store_dir, asked.has_upstream, str(exc))
        return visit.show(page, status=visit.status_of(exc))
    return visit.go(f"/{made.name}")
