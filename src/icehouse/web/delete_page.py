"""Moving a path to the trash, after a look at what goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from icehouse.api.paths import DeletePlan
from icehouse.errors import Conflict
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.services.access import Entry
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_PATH: Final = f"{CACHE_PATH}/paths/{{hash_part:str}}/delete"


@dataclass(frozen=True, slots=True)
class DeletePage(Page):
    """All that the template sees."""

    template = "delete.html"

    head: CacheHead
    plan: DeletePlan
    fault: str | None = None

    @property
    def title(self) -> str:
        """What is asked."""
        return f"Delete {self.plan.store_path[33:]}"

    @property
    def path(self) -> str:
        """The address of the page."""
        return f"/ui/caches/{self.head.name}/paths/{self.plan.store_path[:32]}/delete"


@get(_PATH)
async def show_delete(cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit]) -> Response[Any]:
    """What deleting a path would take with it."""
    entry = await visit.enter(cache, Permission.DELETE)
    return visit.show(await _make_page(visit, entry, hash_part))


@post(_PATH, status_code=303)
async def delete_path(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Move a path to the trash, with what refers to it if that was ticked."""
    entry = await visit.enter(cache, Permission.DELETE)
    part = parse_hash_part(hash_part)
    with_referrers = bool(form.text("with_referrers"))
    try:
        await visit.parts.trash.delete(entry.cache, part, visit.actor, with_referrers=with_referrers)
    except Conflict as exc:
        page = await _make_page(visit, entry, hash_part, str(exc))
        return visit.show(page, status=visit.parts.statuses[Conflict][0])
    return visit.go(f"/ui/caches/{entry.cache.name}/trash")


async def _make_page(visit: Visit, entry: Entry, hash_part: str, fault: str | None = None) -> DeletePage:
    plan = await visit.parts.trash.plan_delete(entry.cache, parse_hash_part(hash_part))
    return DeletePage(make_head(visit, entry, "Trash"), plan, fault)
