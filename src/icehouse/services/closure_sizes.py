"""Closures of paths: what is in one, what brings the size in, and by which way a path reaches another."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.paths import ChainAnswer, ClosureMember, ClosureView
from icehouse.db.caches import CacheRow
from icehouse.db.closure_nodes import PathNode, RootRow, find_root, load_nodes
from icehouse.db.collection import read_generation
from icehouse.db.engine import Database
from icehouse.errors import NotFound
from icehouse.nix.store_paths import HASH_PART_LENGTH, HashPart
from icehouse.rules.closure_sizes import Closure, ClosurePath, find_chain, measure_added
from icehouse.rules.path_queries import has_words, parse_query
from icehouse.services.workers import Workers

MAX_PATHS: Final = 20_000
"""Of a closure that is looked at: twice those of a large system. More are cut."""

REMEMBERED_PATHS: Final = 60_000
"""Of closures that may be asked for again: some 600 bytes each."""

_PATHS_A_QUERY: Final = 1_000
_PATHS_A_READ: Final = 5_000


@dataclass(frozen=True, slots=True)
class MeasuredClosure:
    """A closure, and what brings the size in."""

    closure: Closure
    added: tuple[int, ...]
    """For each of its paths the bytes that it would lose if nothing referred to that (`measure_added`)."""
    generation: int
    """Of the cache, before it was looked at."""


@dataclass(slots=True)
class _Walk:
    """How far a closure was looked at; all are base names."""

    wanted: list[str]
    seen: set[str]
    found: list[PathNode] = field(default_factory=list[PathNode])
    absent: list[str] = field(default_factory=list[str])


class ClosureSizes:
    """Walks through closures, and remembers the last. Rights on the cache are checked by who calls (`Access.enter`).

    Belongs to one event loop. What a visible path reaches is visible, and changes only together with the path's
    generation; so what is remembered is right as long as that is the same. But for externals: one that is published
    brings what it reaches, so a closure with externals stands until the next path becomes visible in the cache.
    """

    def __init__(
        self,
        database: Database,
        workers: Workers,
        *,
        max_paths: int = MAX_PATHS,
        remembered_paths: int = REMEMBERED_PATHS,
    ) -> None:
        self._database = database
        self._max_paths = max_paths
        self._workers = workers
        self._remembered: OrderedDict[tuple[int, RootRow], MeasuredClosure] = OrderedDict()
        self._count = 0
        self._most = remembered_paths

    async def measure(self, cache: CacheRow, hash_part: HashPart) -> MeasuredClosure:
        """The closure of a visible path, and what each of its paths adds.

        Raises:
            NotFound: the cache has no such path.
        """
        found = await self._database.read(partial(_find_root, cache_id=cache.id, hash_part=hash_part))
        if found is None:
            raise NotFound(f"cache {cache.name!r} has no visible path {hash_part}")
        root, generation = found
        key = (cache.id, root)
        known = self._remembered.get(key)
        if known is not None and (known.generation == generation or not known.closure.externals):
            self._remembered.move_to_end(key)
            return known
        closure = await self._load(cache, root)
        added = await self._workers.run(partial(measure_added, closure))
        measured = MeasuredClosure(closure, tuple(added), generation)
        self._remember(key, measured)
        return measured

    async def view(self, cache: CacheRow, hash_part: HashPart) -> ClosureView:
        """The same for programs: what brings most first.

        Raises:
            NotFound: the cache has no such path.
        """
        measured = await self.measure(cache, hash_part)
        closure = measured.closure
        members = [
            ClosureMember(store_path=path.base_name, nar_size=path.nar_size, added_size=added)
            for path, added in zip(closure.paths, measured.added, strict=True)
        ]
        members.sort(key=lambda each: (-each.added_size, each.store_path))
        return ClosureView(
            nar_size=closure.nar_size, paths=members, externals=list(closure.externals), is_cut=closure.is_cut
        )

    async def find_member(self, cache: CacheRow, hash_part: HashPart, text: str) -> HashPart | None:
        """The path of a closure that *text* means (`rules.path_queries`): of several with the words, the nearest.

        Raises:
            NotFound: the cache has no path of that hash part.
            InvalidFormat: the text is too long.
        """
        query = parse_query(text)
        if query.hash_part is not None:
            return query.hash_part
        if query.is_hopeless or not query.words:
            return None
        names = (path.base_name for path in (await self.measure(cache, hash_part)).closure.paths)
        found = (name for name in names if has_words(name[HASH_PART_LENGTH + 1 :], query.words))
        return next((HashPart(name[:HASH_PART_LENGTH]) for name in found), None)

    async def find_chain(self, cache: CacheRow, hash_part: HashPart, other: HashPart) -> ChainAnswer:
        """The shortest way by which a visible path reaches another one.

        Raises:
            NotFound: the cache has no path of the first hash part.
        """
        closure = (await self.measure(cache, hash_part)).closure
        target = next((place for place, path in enumerate(closure.paths) if path.base_name.startswith(other)), None)
        if target is None:
            return ChainAnswer(chain=[], is_complete=not closure.is_cut)
        chain = [closure.paths[place].base_name for place in find_chain(closure, target)]
        return ChainAnswer(chain=chain, is_complete=True)

    async def _load(self, cache: CacheRow, root: RootRow) -> Closure:
        walk = _Walk([root.base_name], {root.base_name})
        while walk.wanted and len(walk.found) < self._max_paths:
            await self._database.read(partial(_walk_on, cache_id=cache.id, walk=walk, max_paths=self._max_paths))
        return _assemble(walk)

    def _remember(self, key: tuple[int, RootRow], measured: MeasuredClosure) -> None:
        size = len(measured.closure.paths)
        if size > self._most:
            return
        replaced = self._remembered.pop(key, None)
        if replaced is not None:  # it was out of date, or two measured it at once
            self._count -= len(replaced.closure.paths)
        self._remembered[key] = measured
        self._count += size
        while self._count > self._most:
            _, forgotten = self._remembered.popitem(last=False)
            self._count -= len(forgotten.closure.paths)


def _find_root(connection: Connection, cache_id: int, hash_part: HashPart) -> tuple[RootRow, int] | None:
    """The visible path of that hash part, and the generation of its cache."""
    root = find_root(connection, cache_id, hash_part)
    return None if root is None else (root, read_generation(connection, cache_id))


def _walk_on(connection: Connection, *, cache_id: int, walk: _Walk, max_paths: int) -> None:
    """Look at some more paths of a closure, level by level."""
    stop = min(max_paths, len(walk.found) + _PATHS_A_READ)
    while walk.wanted and len(walk.found) < stop:
        names = walk.wanted[: min(_PATHS_A_QUERY, stop - len(walk.found))]
        del walk.wanted[: len(names)]
        nodes = load_nodes(connection, cache_id, [name[:HASH_PART_LENGTH] for name in names])
        by_name = {f"{node.hash_part}-{node.name}": node for node in nodes}
        for name in names:
            node = by_name.get(name)
            if node is None:
                walk.absent.append(name)
                continue
            walk.found.append(node)
            for reference in node.references.split():
                if reference not in walk.seen:
                    walk.seen.add(reference)
                    walk.wanted.append(reference)


def _assemble(walk: _Walk) -> Closure:
    names = [f"{node.hash_part}-{node.name}" for node in walk.found]
    places = {name: place for place, name in enumerate(names)}
    paths = tuple(
        ClosurePath(
            name,
            node.nar_size,
            tuple(
                places[reference] for reference in node.references.split() if reference != name and reference in places
            ),
        )
        for name, node in zip(names, walk.found, strict=True)
    )
    return Closure(paths, tuple(sorted(walk.absent)), is_cut=bool(walk.wanted))
