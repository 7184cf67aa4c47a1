"""What stands above every page about one cache: its name, and the way to the cache's other pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from icehouse.rules.access import Permission
from icehouse.services.access import Entry
from icehouse.web.visits import Visit


@dataclass(frozen=True, slots=True)
class Tab:
    """One of the pages about a cache."""

    text: str
    path: str


@dataclass(frozen=True, slots=True)
class CacheHead:
    """What `ui.cache_head` shows."""

    name: str
    is_public: bool
    tabs: Sequence[Tab]
    """Those that the visitor may open."""
    current: str
    """Path of the tab that the page belongs to."""


CACHE_PATH: Final = "/ui/caches/{cache:str}"
"""Where the pages about a cache lie, as a route; only the first one has the substituter's own address."""

_TABS: Final[Sequence[tuple[str, str, Permission]]] = (
    ("Use", "/{cache}", Permission.PULL),
    ("Paths", "/ui/caches/{cache}/paths", Permission.PULL),
    ("Pins", "/ui/caches/{cache}/pins", Permission.PULL),
    ("Traffic", "/ui/caches/{cache}/traffic", Permission.PUSH),
    ("Retention", "/ui/caches/{cache}/retention", Permission.CONFIGURE),
    ("Trash", "/ui/caches/{cache}/trash", Permission.DELETE),
    ("Collections", "/ui/caches/{cache}/collections", Permission.DELETE),
    ("Access", "/ui/caches/{cache}/access", Permission.ADMIN),
)
"""The text, the path and what the page needs, in the order of the tabs."""


def make_head(visit: Visit, entry: Entry, tab: str) -> CacheHead:
    """The head of a page that belongs to the tab with the text *tab*."""
    name = entry.cache.name
    paths = {text: path.format(cache=name) for text, path, _ in _TABS}
    tabs = [Tab(text, paths[text]) for text, _, needed in _TABS if visit.may(entry.cache, needed)]
    return CacheHead(name, entry.cache.is_public, tabs, paths[tab])
