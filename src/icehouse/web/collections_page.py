"""What collections did to a cache, collecting now, and how far the verification is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.collections import PastCollection
from icehouse.api.verification import VerificationState
from icehouse.rules.access import Permission
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.collecting import collect
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_PATH: Final = f"{CACHE_PATH}/collections"
_MAX_BEFORE: Final = 2**53

Before = Annotated[int | None, QueryParameter(ge=1, le=_MAX_BEFORE)]


@dataclass(frozen=True, slots=True)
class CollectionsPage(Page):
    """All that the template sees."""

    template = "collections.html"

    head: CacheHead
    collections: Sequence[PastCollection]
    is_first: bool
    older: str | None
    verification: VerificationState

    @property
    def title(self) -> str:
        """What is listed."""
        return f"Collections of {self.head.name}"

    @property
    def path(self) -> str:
        """The address of the page."""
        return f"/ui/caches/{self.head.name}/collections"


@dataclass(frozen=True, slots=True)
class CollectionPage(Page):
    """All that the template sees."""

    template = "collection.html"

    head: CacheHead
    collection: PastCollection

    @property
    def title(self) -> str:
        """Which one it is."""
        return f"Collection {self.collection.id} of {self.head.name}"


@get(_PATH)
async def show_collections(cache: FromPath[str], visit: NamedDependency[Visit], before: Before = None) -> Response[Any]:
    """What past collections did, the newest first, and where the verification stands."""
    entry = await visit.enter(cache, Permission.DELETE)
    found, has_more = await visit.parts.collections.page_past(entry.cache, before=before)
    path = f"/ui/caches/{entry.cache.name}/collections"
    return visit.show(
        CollectionsPage(
            head=make_head(visit, entry, "Collections"),
            collections=found,
            is_first=before is None,
            older=f"{path}?before={found[-1].id}" if has_more else None,
            verification=await visit.parts.verification.load(entry.cache),
        )
    )


@get(f"{_PATH}/{{number:int}}")
async def show_collection(cache: FromPath[str], number: FromPath[int], visit: NamedDependency[Visit]) -> Response[Any]:
    """What one collection did."""
    entry = await visit.enter(cache, Permission.DELETE)
    collection = await visit.parts.collections.get_past(entry.cache, number)
    return visit.show(CollectionPage(make_head(visit, entry, "Collections"), collection))


@post(f"{_PATH}/plan", status_code=200)
async def plan_collection(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """What a collection would do now."""
    del form  # It was checked, which is all that is needed of it.
    entry = await visit.enter(cache, Permission.DELETE)
    return await collect(visit, entry, is_dry_run=True, tab="Collections")


@post(f"{_PATH}/run", status_code=200)
async def run_collection(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Collect."""
    del form
    entry = await visit.enter(cache, Permission.DELETE)
    return await collect(visit, entry, is_dry_run=False, tab="Collections")
