"""What differs between two paths of a cache, with all that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.differences import ChangedPackage, DifferenceView
from icehouse.api.pins import PinView
from icehouse.errors import Conflict, IcehouseError, InvalidFormat, NotFound, RateLimited, TooLarge
from icehouse.rules.access import Permission
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.pages import Page
from icehouse.web.path_links import PathLink, link_to
from icehouse.web.visits import Visit

_MAX_PATH_LENGTH: Final = 4_096
_PACKAGES_SHOWN: Final = 300
_PATHS_SHOWN: Final = 20
_PINS_OFFERED: Final = 200
_BAR_WIDTH: Final = 50
"""Units of half a bar, whose zero is in the middle."""

_WORDS: Final = {
    "version": "changed version",
    "added": "added",
    "removed": "removed",
    "contents": "changed in contents alone",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A change of size as a bar: to the right what grew, to the left what shrank."""

    x: int
    width: int
    is_more: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A package, as the page shows it."""

    package: ChangedPackage
    bar: Bar
    gone: Sequence[PathLink]
    new: Sequence[PathLink]
    more_paths: int
    """Paths that are not among these."""

    @property
    def size_change(self) -> int:
        """By how many bytes it grew."""
        return self.package.bytes_after - self.package.bytes_before

    @property
    def versions(self) -> str:
        """Those that differ; where none does, all."""
        before, after = self.package.versions_before, self.package.versions_after
        if self.package.change in {"contents", "rebuilt"}:
            return _versions(after) if any(after) else ""
        old = [version for version in before if version not in after]
        new = [version for version in after if version not in before]
        if not old or not new:
            kept = [version for version in before if version in after]
            old, new = (old or kept), (new or kept)
        return " → ".join(_versions(each) for each in (old, new) if each)


@dataclass(frozen=True, slots=True)
class Found:
    """The difference, as the page shows it."""

    view: DifferenceView
    before: PathLink
    after: PathLink
    rows: Sequence[Row]
    more_rows: int
    """Changed packages that are not among these."""
    rebuilt: Sequence[Row]
    more_rebuilt: int
    counts: Sequence[tuple[str, int]]
    """How many packages were changed in which way."""
    turned_path: str
    """Of the same comparison the other way round."""

    @property
    def size_change(self) -> int:
        """By how many bytes the closure grew."""
        return self.view.after.nar_bytes - self.view.before.nar_bytes

    @property
    def unknown(self) -> int:
        """Paths that only upstreams know of."""
        return max(self.view.before.unknown, self.view.after.unknown)


@dataclass(frozen=True, slots=True)
class DifferencePage(Page):
    """All that the template sees."""

    template = "difference.html"

    head: CacheHead
    action: str
    before: str
    after: str
    pins: Sequence[PinView]
    """Whose paths are offered."""
    found: Found | None
    """`None`: nothing was asked for, or there is a fault."""
    fault: str | None = None
    api_path: str = ""

    @property
    def title(self) -> str:
        """What the page shows."""
        return f"Difference · {self.head.name}"


@get(f"{CACHE_PATH}/compare")
async def show_difference(
    cache: FromPath[str],
    visit: NamedDependency[Visit],
    before: Annotated[str, QueryParameter(name="from", max_length=_MAX_PATH_LENGTH)] = "",
    after: Annotated[str, QueryParameter(name="to", max_length=_MAX_PATH_LENGTH)] = "",
) -> Response[Any]:
    """The form that asks for two paths, and what differs between them."""
    entry = await visit.enter(cache, Permission.PULL)
    before, after = before.strip(), after.strip()
    fault: IcehouseError | None = None
    found: Found | None = None
    if before and after:
        try:
            found = make_found(cache, await visit.parts.differences.compare(entry.cache, before, after))
        except (InvalidFormat, NotFound, Conflict, TooLarge, RateLimited) as exc:
            fault = exc
    page = DifferencePage(
        make_head(visit, entry, "Pins"),
        f"/ui/caches/{cache}/compare",
        before,
        after,
        await visit.parts.pins.page_pins(entry.cache, limit=_PINS_OFFERED) if found is None else (),
        found,
        None if fault is None else str(fault),
        f"/api/v1/caches/{cache}/difference?{urlencode({'from': before, 'to': after})}",
    )
    return visit.show(page, status=200 if fault is None else visit.status_of(fault))


def make_found(cache_name: str, view: DifferenceView) -> Found:
    """What the page shows of a difference."""
    changed = [package for package in view.packages if package.change != "rebuilt"]
    rebuilt = [package for package in view.packages if package.change == "rebuilt"]
    largest = max((abs(each.bytes_after - each.bytes_before) for each in changed), default=0)
    counts = [(word, sum(each.change == change for each in changed)) for change, word in _WORDS.items()]
    before, after = view.before.store_path, view.after.store_path
    return Found(
        view,
        link_to(cache_name, before),
        link_to(cache_name, after),
        [_row(cache_name, package, largest) for package in changed[:_PACKAGES_SHOWN]],
        max(0, len(changed) - _PACKAGES_SHOWN),
        [_row(cache_name, package, largest) for package in rebuilt[:_PACKAGES_SHOWN]],
        max(0, len(rebuilt) - _PACKAGES_SHOWN),
        [(word, count) for word, count in counts if count],
        f"/ui/caches/{cache_name}/compare?{urlencode({'from': after, 'to': before})}",
    )


def _row(cache_name: str, package: ChangedPackage, largest: int) -> Row:
    change = package.bytes_after - package.bytes_before
    width = -(-abs(change) * _BAR_WIDTH // largest) if largest else 0
    gone, new = package.gone[:_PATHS_SHOWN], package.new[:_PATHS_SHOWN]
    return Row(
        package,
        Bar(_BAR_WIDTH if change > 0 else _BAR_WIDTH - width, width, change > 0),
        [link_to(cache_name, path.store_path) for path in gone],
        [link_to(cache_name, path.store_path) for path in new],
        len(package.gone) + len(package.new) - len(gone) - len(new),
    )


def _versions(versions: Sequence[str]) -> str:
    return ", ".join(version or "no version" for version in versions)
