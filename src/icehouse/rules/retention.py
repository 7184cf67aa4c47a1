"""Which paths of a cache may go: what nobody used, what is old, and what is over the budget.

A path's time counts as that of whatever refers to it, so what is hidden is always closed under referrers: no path that
stays visible loses its closure. What a pin keeps stays, and so does whatever is in doubt.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import compress


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


def plan_retention(facts: CacheFacts, roots: Iterable[int], retention: Retention, *, now: int) -> RetentionPlan:
    """Decide what to hide.

    Args:
        facts: the cache.
        roots: places of the paths that pins keep.
        retention: its settings.
        now: seconds since the epoch.
    """
    order = _order_referrers_first(facts.references)
    is_kept = _reach(facts.references, roots)
    pinned = sum(is_kept)
    # What refers to itself in a circle can have no order, and should not be: doubt keeps it, and all that it reaches.
    in_order = bytearray(len(facts.nars))
    for place in order:
        in_order[place] = 1
    is_kept = _reach(facts.references, compress(range(len(in_order)), (not placed for placed in in_order)), is_kept)
    pushed_at = _inherit(facts.references, order, facts.pushed_at)
    used_at = _inherit(facts.references, order, facts.used_at)
    sizes = _Sizes(facts)
    size_before = sizes.total
    hide: list[tuple[int, Reason]] = []
    oldest_use = None if retention.keep_unused_seconds is None else now - retention.keep_unused_seconds
    oldest_push = None if retention.keep_pushed_seconds is None else now - retention.keep_pushed_seconds
    left: list[int] = []
    for place in order:
        if is_kept[place]:
            continue
        if oldest_use is not None and used_at[place] < oldest_use:
            hide.append((place, Reason.UNUSED))
        elif oldest_push is not None and pushed_at[place] < oldest_push:
            hide.append((place, Reason.OLD))
        else:
            left.append(place)
            continue
        sizes.remove(place)
    if retention.budget_bytes is not None and sizes.total > retention.budget_bytes:
        # Sorting keeps the order of equals, in which referrers come first; of unequal ones they are the older.
        for place in sorted(left, key=used_at.__getitem__):
            if sizes.total <= retention.budget_bytes:
                break
            hide.append((place, Reason.BUDGET))
            sizes.remove(place)
    return RetentionPlan(tuple(hide), size_before, sizes.total, pinned)


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
