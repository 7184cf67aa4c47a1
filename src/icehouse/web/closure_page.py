"""The closure of a path: how large it is, and what brings the size in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.paths import ClosureMember
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.rules.treemaps import Tile, lay_out
from icehouse.services.closure_sizes import MAX_PATHS
from icehouse.web.cache_tabs import CacheHead, make_head
from icehouse.web.pages import Page, show_size
from icehouse.web.path_links import PathLink, link_to
from icehouse.web.path_pages import PATHS_PATH, TAB
from icehouse.web.visits import Visit

_SHOWN: Final = 200
_EXTERNALS: Final = 20
_WIDTH, _HEIGHT = 960, 460  # of the treemap, in its own units
_SMALLEST_SHARE: Final = 400  # a tile is at least one in so many of the area
_LETTER_WIDTH, _MARGIN, _LINE_HEIGHT = 7.6, 8, 44
_ORDERS: Final[dict[str, Callable[[ClosureMember], tuple[int | str, ...]]]] = {
    "size": lambda each: (-each.nar_size, each.store_path),
    "added": lambda each: (-each.added_size, each.store_path),
    "name": lambda each: (each.store_path[33:], each.store_path),
}

Sort = Annotated[str, QueryParameter()]


@dataclass(frozen=True, slots=True)
class MapTile:
    """A rectangle of the treemap."""

    tile: Tile
    link: PathLink | None
    """`None`: it stands for all that are too small."""
    title: str
    label: str
    """What fits into it; empty: nothing does."""
    size: str


@dataclass(frozen=True, slots=True)
class Row:
    """A path of the closure."""

    link: PathLink
    member: ClosureMember
    share: str
    is_itself: bool
    way: str
    """The page that tells why the closure has it."""


@dataclass(frozen=True, slots=True)
class ClosurePage(Page):
    """All that the template sees."""

    template = "closure.html"

    head: CacheHead
    path: PathLink
    nar_size: int
    count: int
    own_size: int
    is_cut: bool
    tiles: Sequence[MapTile]
    rows: Sequence[Row]
    sort: str
    externals: Sequence[str]
    external_count: int
    has_log: bool

    width = _WIDTH
    height = _HEIGHT
    max_paths = MAX_PATHS

    @property
    def title(self) -> str:
        """Whose closure it is."""
        return f"Closure of {self.path.name} in {self.head.name}"


@get(f"{PATHS_PATH}/{{hash_part:str}}/closure")
async def show_closure(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], sort: Sort = "added"
) -> Response[Any]:
    """The closure of a visible path."""
    entry = await visit.enter(cache, Permission.PULL)
    part = parse_hash_part(hash_part)
    view = await visit.parts.paths.show(entry.cache, part)
    closure = await visit.parts.closure_sizes.view(entry.cache, part)
    name = entry.cache.name
    path = link_to(name, view.store_path)
    order = sort if sort in _ORDERS else "added"
    members = sorted(closure.paths, key=_ORDERS[order])[:_SHOWN]
    page = ClosurePage(
        head=make_head(visit, entry, TAB),
        path=path,
        nar_size=closure.nar_size,
        count=len(closure.paths),
        own_size=view.nar_size,
        is_cut=closure.is_cut,
        tiles=draw_tiles(name, closure.paths),
        rows=[
            Row(
                link=link_to(name, each.store_path),
                member=each,
                share=_percent(each.nar_size, closure.nar_size),
                is_itself=each.store_path == view.store_path,
                way=f"{path.page}/why?to={each.store_path[:32]}",
            )
            for each in members
        ],
        sort=order,
        externals=closure.externals[:_EXTERNALS],
        external_count=len(closure.externals),
        has_log=await visit.parts.logs.has_log(entry.cache, view.deriver),
    )
    return visit.show(page)


def draw_tiles(cache_name: str, members: Sequence[ClosureMember]) -> list[MapTile]:
    """The treemap of a closure by the sizes of its paths; those that are too small are one tile."""
    total = sum(each.nar_size for each in members)
    descending = sorted(members, key=lambda each: (-each.nar_size, each.store_path))
    large = [each for each in descending if each.nar_size * _SMALLEST_SHARE >= total]
    rest = total - sum(each.nar_size for each in large)
    others = len(members) - len(large)
    found: list[tuple[int, ClosureMember | None]] = [(each.nar_size, each) for each in large]
    if rest:
        found.append((rest, None))
        found.sort(key=lambda each: -each[0])
    tiles = lay_out([size for size, _ in found], _WIDTH, _HEIGHT)
    return [
        _map_tile(cache_name, tile, size, member, others, total)
        for tile, (size, member) in zip(tiles, found, strict=True)
    ]


def _map_tile(cache_name: str, tile: Tile, size: int, member: ClosureMember | None, others: int, total: int) -> MapTile:
    link = None if member is None else link_to(cache_name, member.store_path)
    name = f"{others:,} {'other' if others == 1 else 'others'}" if link is None else link.name
    title = f"{name}: {show_size(size)}, {_percent(size, total)}"
    letters = int((tile.width - 2 * _MARGIN) / _LETTER_WIDTH)
    label = "" if letters < len("glibc") or tile.height < _LINE_HEIGHT else name
    if len(label) > letters:
        label = f"{label[: letters - 1]}…"
    return MapTile(tile, link, title, label, show_size(size) if label else "")


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %"  # noqa: PLR2004  three digits are enough
