"""The trash of a cache: what is in it and why, and the way back out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.paths import RestoreManyAnswer, TrashedPath
from icehouse.errors import InvalidFormat
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.services.access import Entry
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_PATH: Final = f"{CACHE_PATH}/trash"
_MAX_NAME: Final = 211  # of a store path
_MAX_NUMBER: Final = 2**53
_FEW: Final = 5
_REASONS: Final = {
    "retention": "Retention",
    "budget": "Budget",
    "deleted": "Deleted",
    "revoked": "Revoked",
    "damaged": "Damaged",
    "other": "Other",
}

Name = Annotated[str, QueryParameter(max_length=_MAX_NAME)]
Before = Annotated[str | None, QueryParameter(max_length=40)]


@dataclass(frozen=True, slots=True)
class TrashPathsPage(Page):
    """All that the template sees."""

    template = "trash.html"

    head: CacheHead
    paths: Sequence[TrashedPath]
    name: str
    """What was searched for."""
    is_first: bool
    """Whether what came last is here."""
    older: str | None
    """Where what came earlier is."""
    note: str | None = None
    """What was done."""
    fault: str | None = None
    """What could not be done."""
    collection: int | None = None
    """Of which more can be restored."""
    after: str | None = None

    @property
    def title(self) -> str:
        """Whose trash it is."""
        return f"Trash of {self.head.name}"

    @property
    def path(self) -> str:
        """The address of the page."""
        return f"/ui/caches/{self.head.name}/trash"

    @property
    def collections(self) -> Sequence[tuple[int, int]]:
        """The collections that hid what is shown: the number, and when."""
        found: dict[int, int] = {}
        for path in self.paths:
            if path.collection is not None:
                found.setdefault(path.collection, path.hidden_at)
        return list(found.items())

    def word(self, path: TrashedPath) -> str:
        """Why a path is here, in one word."""
        return _REASONS[path.reason]

    def can_return(self, path: TrashedPath) -> bool:
        """Whether somebody may try to restore it: what is damaged waits for repair, what is revoked for an undo."""
        return path.reason not in {"damaged", "revoked"}


@get(_PATH)
async def show_trash(
    cache: FromPath[str], visit: NamedDependency[Visit], name: Name = "", before: Before = None
) -> Response[Any]:
    """What is in the trash, what came last first."""
    entry = await visit.enter(cache, Permission.DELETE)
    return visit.show(await _make_page(visit, entry, name=name.strip(), before=before))


@post(f"{_PATH}/restore", status_code=200)
async def restore_ticked(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Restore the paths whose boxes were ticked."""
    entry = await visit.enter(cache, Permission.DELETE)
    hash_parts = [parse_hash_part(text) for text in form.texts("path")]
    name = form.text("name")[:_MAX_NAME]
    if not hash_parts:
        page = await _make_page(visit, entry, name=name, fault="Nothing was ticked, so nothing was restored.")
        return visit.show(page, status=400)
    answer = await visit.parts.trash.restore_many(entry.cache, hash_parts, visit.actor)
    return visit.show(await _make_page(visit, entry, name=name, answer=answer))


@post(f"{_PATH}/restore-collection", status_code=200)
async def restore_collection(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Restore what a collection hid, or the next part of it."""
    entry = await visit.enter(cache, Permission.DELETE)
    text = form.text("collection")
    if not text.isdecimal() or int(text) > _MAX_NUMBER:
        raise InvalidFormat("collection: expected the number of one")
    number, after = int(text), form.text("after") or None
    answer = await visit.parts.trash.restore_collection(entry.cache, number, visit.actor, after=after)
    return visit.show(await _make_page(visit, entry, answer=answer, collection=number))


async def _make_page(
    visit: Visit,
    entry: Entry,
    *,
    name: str = "",
    before: str | None = None,
    answer: RestoreManyAnswer | None = None,
    collection: int | None = None,
    fault: str | None = None,
) -> TrashPathsPage:
    found = await visit.parts.trash.list_trash(entry.cache, name=name, before=before)
    query = {key: text for key, text in (("name", name), ("before", found.before)) if text}
    path = f"/ui/caches/{entry.cache.name}/trash"
    return TrashPathsPage(
        head=make_head(visit, entry, "Trash"),
        paths=found.paths,
        name=name,
        is_first=before is None,
        older=None if found.before is None else f"{path}?{urlencode(query)}",
        note=None if answer is None else _tell_restored(answer),
        fault=fault if answer is None else _tell_refused(answer),
        collection=collection if answer is not None and answer.after is not None else None,
        after=None if answer is None else answer.after,
    )


def _tell_restored(answer: RestoreManyAnswer) -> str:
    count = len(answer.restored)
    if not count:
        return "Nothing was restored."
    names = ", ".join(base_name[33:] for base_name in answer.restored[:_FEW])
    more = f" and {count - _FEW:,} more" if count > _FEW else ""
    return f"Restored {count:,} {'path' if count == 1 else 'paths'}: {names}{more}."


def _tell_refused(answer: RestoreManyAnswer) -> str | None:
    if not answer.refused:
        return None
    count = len(answer.refused)
    more = f" and {count - _FEW:,} more" if count > _FEW else ""
    return (
        f"{count:,} could not come back, since they or something that they reach is damaged, revoked or purged, or "
        f"lacks a signature that the cache demands: {', '.join(answer.refused[:_FEW])}{more}. Push them again."
    )
