"""Which paths of a cache may go: what nobody used, what is old, and what is over the budget.

A path's time counts as that of whatever refers to it, so what is hidden is always closed under referrers: no path that
stays visible loses its closure. What a pin keeps stays, and so does whatever is in doubt.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import nlargest
from itertools import compress, groupby
from typing import Final


class Reason(Enum):
    """Why a path is hidden; the value is for people."""

    UNUSED = "not used for longer than the cache keeps unused paths"
    OLD = "pushed longer ago than the cache keeps paths"
    BUDGET = "used least recently while the cache was over its budget"


@dataclass(frozen=True, slots=True)
class Retention:
    """What a cache keeps. `None` sets no bound."""

    keep_unused_seconds: int | None = None
    keep_pushed_seconds: int | None = None
    budget_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Lists:
    """Many short lists of numbers in two arrays."""

    starts: "array[int]"
    """One entry more than there are lists."""
    values: "array[int]"

    @classmethod
    def of(cls, lists: Iterable[Iterable[int]]) -> "Lists":
        """Copy them."""
        made = cls(array("Q", [0]), array("I"))
        for values in lists:
            made.append(values)
        return made

    def append(self, values: Iterable[int]) -> None:
        """Add one list."""
        self.values.extend(values)
        self.starts.append(len(self.values))

    def __len__(self) -> int:
        """How many lists."""
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> "array[int]":
        """One list."""
        return self.values[self.starts[index] : self.starts[index + 1]]


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """The visible paths of a cache, each by its place in these arrays, and what they take.

    Made for a million paths: some hundred bytes for each.
    """

    pushed_at: "array[int]"
    used_at: "array[int]"
    """When each was pulled, pushed or called present last; never less than `pushed_at`."""
    nars: "array[int]"
    """The place of each path's NAR in `chunks`."""
    references: Lists
    """The places of those references that are visible paths of this cache; maybe the path itself."""
    chunks: Lists
    """For each NAR the places in `chunk_bytes` of its distinct chunks."""
    chunk_bytes: "array[int]"
    """Stored bytes."""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What to hide. It was decided with the facts given; whoever acts on it looks at what changed since."""

    hide: tuple[tuple[int, Reason], ...]
    """Places of paths, referrers before what they refer to."""
    size_before: int
    """Stored bytes of the distinct chunks of the cache's paths."""
    size_after: int
    pinned: int
    """How many paths pins keep."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The paths of a cache in the order in which they may go, and what keeps some."""

    order: "array[int]"
    """Places, referrers before what they refer to."""
    is_kept: bytearray
    """One byte a path: whether a pin keeps it, or doubt does."""
    pinned: int
    """How many paths pins keep."""
    pushed_at: "array[int]"
    """Of each path the latest of its own time and those of its referrers."""
    used_at: "array[int]"
    """The same."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The times before which paths go."""

    oldest_use: int | None
    oldest_push: int | None

    @classmethod
    def of(cls, retention: Retention, now: int) -> "_Bounds":
        return cls(
            None if retention.keep_unused_seconds is None else now - retention.keep_unused_seconds,
            None if retention.keep_pushed_seconds is None else now - retention.keep_pushed_seconds,
        )

    def judge(self, used_at: int, pushed_at: int) -> Reason | None:
        """Why a path goes by its age; `None`: it stays."""
        if self.oldest_use is not None and used_at < self.oldest_use:
            return Reason.UNUSED
        if self.oldest_push is not None and pushed_at < self.oldest_push:
            return Reason.OLD
        return None


def rank_paths(facts: CacheFacts, roots: Iterable[int]) -> Ranks:
    """Put the paths in order. *roots* are places of the paths that pins keep."""
    order = _order_referrers_first(facts.references)
    is_kept = _reach(facts.references, roots)
    pinned = sum(is_kept)
    # What refers to itself in a circle can have no order, and should not be: doubt keeps it, and all that it reaches.
    in_order = bytearray(len(facts.nars))
    for place in order:
        in_order[place] = 1
    is_kept = _reach(facts.references, compress(range(len(in_order)), (not placed for placed in in_order)), is_kept)
    return Ranks(
        order,
        is_kept,
        pinned,
        _inherit(facts.references, order, facts.pushed_at),
        _inherit(facts.references, order, facts.used_at),
    )


def plan_retention(facts: CacheFacts, ranks: Ranks, retention: Retention, *, now: int) -> RetentionPlan:
    """Decide what to hide.

    Args:
        facts: the cache.
        ranks: its paths in order, by `rank_paths`.
        retention: its settings.
        now: seconds since the epoch.
    """
    bounds = _Bounds.of(retention, now)
    sizes = _Sizes(facts)
    size_before = sizes.total
    hide: list[tuple[int, Reason]] = []
    left: list[int] = []
    for place in ranks.order:
        if ranks.is_kept[place]:
            continue
        reason = bounds.judge(ranks.used_at[place], ranks.pushed_at[place])
        if reason is None:
            left.append(place)
            continue
        hide.append((place, reason))
        sizes.remove(place)
    if retention.budget_bytes is not None and sizes.total > retention.budget_bytes:
        # Sorting keeps the order of equals, in which referrers come first; of unequal ones they are the older.
        for place in sorted(left, key=ranks.used_at.__getitem__):
            if sizes.total <= retention.budget_bytes:
                break
            hide.append((place, Reason.BUDGET))
            sizes.remove(place)
    return RetentionPlan(tuple(hide), size_before, sizes.total, ranks.pinned)


@dataclass(frozen=True, slots=True)
class Cell:
    """Paths of one cache that nothing keeps and that are of the same ages."""

    unused_seconds: int
    """They were not used for longer than this, and for no longer than the next such time; by `round_age`."""
    pushed_seconds: int
    """The same of their push."""
    paths: int
    stored_bytes: int
    """What leaves the cache's size with them, where all that was used less recently goes too."""


@dataclass(frozen=True, slots=True)
class LargePath:
    """One of the paths with which most leaves the size of the cache."""

    place: int
    unused_seconds: int
    pushed_seconds: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What any retention would hide, in a few thousand numbers: made of all paths, and read in milliseconds."""

    paths: int
    pinned: int
    """How many of them pins keep."""
    size_bytes: int
    cells: tuple[Cell, ...]
    """What was used least recently first."""
    largest: tuple[LargePath, ...]
    """The largest first."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the paths of a cache."""

    paths: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """What a retention would hide, as far as an outline tells."""

    shares: Mapping[Reason, Share]
    size_after: int
    is_about: bool
    """Whether the numbers are near the exact ones only: see `preview_retention`."""
    largest: tuple[LargePath, ...]
    """Of what goes; as many as are known."""


_DAY_SECONDS: Final = 86_400
_STEPS: Final = ((90, 1), (365, 7), (36_500, 30))
"""Ages are told apart to the day up to 90 days, to 7 days up to a year, and to 30 days from there on."""

_LARGEST: Final = 500


def round_age(seconds: int) -> int:
    """The last of the times that outlines tell apart which is below that age, or 0."""
    days = max(0, seconds - 1) // _DAY_SECONDS
    start = 0
    for end, step in _STEPS:
        if days < end:
            return (start + (days - start) // step * step) * _DAY_SECONDS
        start = end
    return start * _DAY_SECONDS


def outline_retention(facts: CacheFacts, ranks: Ranks, gone: Iterable[int], *, now: int) -> Outline:
    """Sum up the cache without the paths of *gone*: by age, each path with what leaves the size with it.

    That is measured while all paths go, what was used least recently first, which is the order of the budget.
    """
    sizes = _Sizes(facts)
    is_gone = bytearray(len(facts.nars))
    for place in gone:
        is_gone[place] = 1
        sizes.remove(place)
    size_bytes = sizes.total
    left = [place for place in ranks.order if not ranks.is_kept[place] and not is_gone[place]]
    left.sort(key=ranks.used_at.__getitem__)
    counts: dict[tuple[int, int], list[int]] = {}
    freed: list[tuple[int, int]] = []
    for place in left:
        before = sizes.total
        sizes.remove(place)
        ages = round_age(now - ranks.used_at[place]), round_age(now - ranks.pushed_at[place])
        count = counts.setdefault(ages, [0, 0])
        count[0] += 1
        count[1] += before - sizes.total
        freed.append((before - sizes.total, place))
    cells = [Cell(*ages, *count) for ages, count in counts.items()]
    cells.sort(key=lambda cell: (-cell.unused_seconds, -cell.pushed_seconds))
    largest = [
        LargePath(place, round_age(now - ranks.used_at[place]), round_age(now - ranks.pushed_at[place]), stored_bytes)
        for stored_bytes, place in nlargest(_LARGEST, freed)
        if stored_bytes
    ]
    return Outline(len(facts.nars) - sum(is_gone), ranks.pinned, size_bytes, tuple(cells), tuple(largest))


def preview_retention(outline: Outline, retention: Retention) -> Preview:
    """What a retention would hide, at the time of the outline, by the rules of `plan_retention`.

    The number of paths that go by age is exact for ages that `round_age` leaves as they are; so is their size where
    nothing goes by its push. What goes by its push may share chunks with what stays and is used less, so that less
    leaves the size than is told here. Where the budget is met within one age, paths count in proportion.
    """
    bounds = _Bounds.of(retention, 0)
    size = outline.size_bytes
    shares = dict.fromkeys(Reason, Share())
    left: list[Cell] = []
    gone: set[tuple[int, int]] = set()
    for cell in outline.cells:
        reason = bounds.judge(-cell.unused_seconds - 1, -cell.pushed_seconds - 1)
        if reason is None:
            left.append(cell)
            continue
        shares[reason] = _plus(shares[reason], cell.paths, cell.stored_bytes)
        gone.add((cell.unused_seconds, cell.pushed_seconds))
        size -= cell.stored_bytes
    is_about = bool(shares[Reason.OLD].stored_bytes) or any(
        age is not None and round_age(age + 1) != age
        for age in (retention.keep_unused_seconds, retention.keep_pushed_seconds)
    )
    budget = retention.budget_bytes
    for _, same in groupby(left, key=lambda cell: cell.unused_seconds):
        cells = list(same)
        if budget is None or size <= budget:
            break
        paths, stored = sum(cell.paths for cell in cells), sum(cell.stored_bytes for cell in cells)
        if stored >= size - budget:
            is_about = True
            paths, stored = -(-paths * (size - budget) // stored), size - budget
        else:
            gone.update((cell.unused_seconds, cell.pushed_seconds) for cell in cells)
        shares[Reason.BUDGET] = _plus(shares[Reason.BUDGET], paths, stored)
        size -= stored
    largest = tuple(path for path in outline.largest if (path.unused_seconds, path.pushed_seconds) in gone)
    return Preview(shares, size, is_about, largest)


def _plus(share: Share, paths: int, stored_bytes: int) -> Share:
    return Share(share.paths + paths, share.stored_bytes + stored_bytes)


def rescue(references: Lists, hide: Iterable[int], needed: Iterable[int]) -> bytearray:
    """Mark those of *hide* that *needed* paths do not reach, so that they can still be hidden. One byte a path."""
    is_needed = _reach(references, needed)
    can_go = bytearray(len(references))
    for place in hide:
        can_go[place] = not is_needed[place]
    return can_go


def size_without(facts: CacheFacts, hidden: Iterable[int]) -> int:
    """Stored bytes of the distinct chunks that the cache's other paths use."""
    sizes = _Sizes(facts)
    for place in hidden:
        sizes.remove(place)
    return sizes.total


class _Sizes:
    """The size of a cache while paths go."""

    def __init__(self, facts: CacheFacts) -> None:
        self._facts = facts
        self._paths_of_nar = array("L", bytes(array("L").itemsize * len(facts.chunks)))
        self._nars_of_chunk = array("L", bytes(array("L").itemsize * len(facts.chunk_bytes)))
        self.total = 0
        for nar in facts.nars:
            self._paths_of_nar[nar] += 1
            if self._paths_of_nar[nar] == 1:
                for chunk in facts.chunks[nar]:
                    if not self._nars_of_chunk[chunk]:
                        self.total += facts.chunk_bytes[chunk]
                    self._nars_of_chunk[chunk] += 1

    def remove(self, place: int) -> None:
        nar = self._facts.nars[place]
        self._paths_of_nar[nar] -= 1
        if not self._paths_of_nar[nar]:
            for chunk in self._facts.chunks[nar]:
                self._nars_of_chunk[chunk] -= 1
                if not self._nars_of_chunk[chunk]:
                    self.total -= self._facts.chunk_bytes[chunk]


def _order_referrers_first(references: Lists) -> "array[int]":
    """All paths but those in circles and what only these reach. Source: Kahn, 1962."""
    count = len(references)
    referrers = array("L", bytes(array("L").itemsize * count))
    for place, reference in _edges(references):
        if reference != place:
            referrers[reference] += 1
    order = array("L", (place for place in range(count) if not referrers[place]))
    for place in order:  # grows while it is walked
        for reference in references[place]:
            if reference != place:
                referrers[reference] -= 1
                if not referrers[reference]:
                    order.append(reference)
    return order


def _edges(references: Lists) -> Iterator[tuple[int, int]]:
    for place in range(len(references)):
        for reference in references[place]:
            yield place, reference


def _inherit(references: Lists, order: Sequence[int], own: "array[int]") -> "array[int]":
    """The latest of each path's own time and those of its referrers."""
    latest = own[:]
    for place in order:
        time = latest[place]
        for reference in references[place]:
            latest[reference] = max(latest[reference], time)
    return latest


def _reach(references: Lists, roots: Iterable[int], reached: bytearray | None = None) -> bytearray:
    """One byte a path: whether *roots* reach it, or *reached* says so."""
    found = bytearray(len(references)) if reached is None else reached
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if not found[place]:
            found[place] = 1
            waiting.extend(references[place])
    return found
