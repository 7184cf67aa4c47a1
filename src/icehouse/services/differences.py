"""What differs between two paths of a cache, with all that they need."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.differences import ChangedPackage, ChangedPath, DifferenceView, SideView
from icehouse.db.caches import CacheRow
from icehouse.db.closures import ClosureRow
from icehouse.db.engine import Database
from icehouse.db.nars import load_runs
from icehouse.errors import NotFound, RateLimited
from icehouse.nix.store_paths import parse_path_or_hash
from icehouse.rules.differences import (
    ClosurePath,
    PackageDifference,
    Side,
    compare_closures,
    find_alike,
)
from icehouse.rules.recipes import Run, merge_runs
from icehouse.services.closures import Closure, load_closure
from icehouse.services.workers import Workers

MAX_PATHS: Final = 50_000
"""Paths of both closures together; a whole system has some thousands."""

MAX_WAITING: Final = 16
"""Comparisons that wait while one is made: each takes a thread and some memory, and anybody may ask for them."""

_RECIPES_A_READ: Final = 500
_RETRY_SECONDS: Final = 5


class Differences:
    """Compares closures, one pair at a time. Rights on the cache are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database, workers: Workers) -> None:
        self._database = database
        self._workers = workers
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def compare(self, cache: CacheRow, before: str, after: str) -> DifferenceView:
        """Compare two visible paths with all that they need. Each is a base name, a whole path or a hash part.

        Raises:
            InvalidFormat: one of them is none of these.
            NotFound: one is not visible in the cache.
            Conflict: a closure is not whole, perhaps since a path was moved to the trash meanwhile.
            TooLarge: the closures have more than `MAX_PATHS` together.
            RateLimited: too many others wait.
        """
        asked = [parse_path_or_hash(text, cache.store_dir) for text in (before, after)]
        hash_parts = [hash_part for hash_part, _ in asked]
        if self._waiting >= MAX_WAITING:
            raise RateLimited("too many differences are asked for; try again", retry_after_seconds=_RETRY_SECONDS)
        self._waiting += 1
        try:
            async with self._turn:
                closure = await load_closure(self._database, cache, hash_parts, max_paths=MAX_PATHS)
                for root, (_, store_path) in zip(closure.roots, asked, strict=True):
                    if store_path is not None and store_path.base_name != root:
                        raise NotFound(f"cache {cache.name!r} has no visible path {store_path}")
                comparison = await self._workers.run(partial(_Comparison, closure))
                contents = await self._load_contents(comparison.alike)
                return await self._workers.run(partial(comparison.view, contents))
        finally:
            self._waiting -= 1

    async def _load_contents(self, alike: Collection[ClosureRow]) -> dict[str, tuple[Run, ...]]:
        """For each base name the chunks of its NAR: they are those of another one if only store hashes differ."""
        numbers = sorted({row.nar_id for row in alike if row.nar_id is not None})
        runs: dict[int, tuple[Run, ...]] = {}
        for start in range(0, len(numbers), _RECIPES_A_READ):
            some = numbers[start : start + _RECIPES_A_READ]
            runs |= await self._database.read(partial(_load_runs, nar_ids=some))
        return {row.base_name: runs[row.nar_id] for row in alike if row.nar_id in runs}


def _load_runs(connection: Connection, nar_ids: Collection[int]) -> dict[int, tuple[Run, ...]]:
    return {number: merge_runs(runs) for number, runs in load_runs(connection, nar_ids).items()}


class _Comparison:
    """What is compared. All of it takes the processor, and belongs into a thread."""

    def __init__(self, closure: Closure) -> None:
        self._closure = closure
        self._known: dict[str, ClosurePath] = {}
        self._before, self._after = (self._reach(root) for root in closure.roots)
        self.alike = [closure.rows[name] for name in find_alike(self._before, self._after)]

    def view(self, contents: dict[str, tuple[Run, ...]]) -> DifferenceView:
        """The answer."""
        difference = compare_closures(self._before, self._after, contents)
        before, after = self._closure.roots
        return DifferenceView(
            before=self._side(before, difference.before, self._before),
            after=self._side(after, difference.after, self._after),
            common_paths=difference.common_count,
            packages=[_package(package) for package in difference.packages],
        )

    def _reach(self, root: str) -> list[ClosurePath]:
        known = self._known
        rows = self._closure.reach(root)
        for row in rows:
            if row.base_name not in known:
                known[row.base_name] = ClosurePath(row.base_name, row.nar_hash, row.nar_size)
        return [known[row.base_name] for row in rows]

    def _side(self, root: str, side: Side, paths: Iterable[ClosurePath]) -> SideView:
        rows, unknown = self._closure.rows, self._closure.unknown
        beyond = unknown and unknown.intersection(
            reference for path in paths for reference in rows[path.base_name].references
        )
        return SideView(store_path=root, paths=side.path_count, nar_bytes=side.size, unknown=len(beyond))


def _package(package: PackageDifference) -> ChangedPackage:
    return ChangedPackage(
        name=package.name,
        change=package.change.value,
        versions_before=list(package.versions_before),
        versions_after=list(package.versions_after),
        bytes_before=package.size_before,
        bytes_after=package.size_after,
        gone=_paths(package.gone),
        new=_paths(package.new),
    )


def _paths(paths: Iterable[ClosurePath]) -> list[ChangedPath]:
    return [ChangedPath(store_path=path.base_name, nar_size=path.nar_size) for path in paths]
