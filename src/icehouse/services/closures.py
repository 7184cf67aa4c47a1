"""Walking closures: a path of a cache, with all that its references reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.db.caches import CacheRow
from icehouse.db.closures import ClosureRow, load_closure_rows
from icehouse.db.engine import Database
from icehouse.errors import Conflict, NotFound, TooLarge
from icehouse.nix.store_paths import HASH_PART_LENGTH, HashPart

_PATHS_A_QUERY: Final = 1_000
_PATHS_A_READ: Final = 5_000
_NAMED_MISSING: Final = 5


@dataclass(frozen=True, slots=True)
class Closure:
    """Paths with all that their references reach."""

    roots: tuple[str, ...]
    """Base names, in the order in which they were asked for."""
    rows: Mapping[str, ClosureRow]
    """By base name. Each reference is one of these, or unknown."""
    unknown: frozenset[str]
    """Base names of what paths of upstreams refer to, of which nothing more is known here."""

    def reach(self, root: str) -> list[ClosureRow]:
        """The closure of one of the paths, itself first."""
        rows = self.rows
        seen = {root}
        ways = [root]
        for name in ways:  # which grows
            for reference in rows[name].references:
                if reference not in seen and reference in rows:
                    seen.add(reference)
                    ways.append(reference)
        return [rows[name] for name in ways]


@dataclass(slots=True)
class _Walk:
    """How far closures were looked at."""

    wanted: list[str]
    names: dict[str, str]
    """Of all that was seen: each name is kept once, however many refer to it."""
    rows: dict[str, ClosureRow] = field(default_factory=dict[str, ClosureRow])
    absent: set[str] = field(default_factory=set[str])


async def load_closure(
    database: Database, cache: CacheRow, hash_parts: Sequence[HashPart], *, max_paths: int
) -> Closure:
    """The closures of visible paths, together. Read in pieces, so that others may read and write in between.

    Raises:
        NotFound: one of the paths is not visible in the cache.
        Conflict: a closure is not whole, perhaps since a path was moved to the trash meanwhile.
        TooLarge: they have more than *max_paths*.
    """
    found = await database.read(
        lambda connection: load_closure_rows(connection, cache.id, list(dict.fromkeys(hash_parts)))
    )
    for hash_part in hash_parts:
        if hash_part not in found or found[hash_part].nar_id is None:
            raise NotFound(f"cache {cache.name!r} has no visible path {hash_part}")
    roots = tuple(found[hash_part].base_name for hash_part in hash_parts)
    walk = _Walk(list(dict.fromkeys(roots)), {root: root for root in roots})
    while walk.wanted:
        await database.read(partial(_walk_on, cache_id=cache.id, walk=walk))
        if len(walk.rows) > max_paths:
            names = " and ".join(dict.fromkeys(roots))
            raise TooLarge(f"{names}: more than {max_paths} paths in the closure, the most that are looked at here")
    missing = walk.absent.intersection(
        reference for row in walk.rows.values() if row.nar_id is not None for reference in row.references
    )
    if missing:
        raise Conflict(f"the closure is not whole: cache {cache.name!r} lacks {_name_some(missing)}; try again")
    return Closure(roots, walk.rows, frozenset(walk.absent))


def _walk_on(connection: Connection, *, cache_id: int, walk: _Walk) -> None:
    """Look at some more paths."""
    looked_at = 0
    while walk.wanted and looked_at < _PATHS_A_READ:
        wanted = walk.wanted[-_PATHS_A_QUERY:]
        del walk.wanted[-_PATHS_A_QUERY:]
        looked_at += len(wanted)
        found = load_closure_rows(connection, cache_id, [HashPart(name[:HASH_PART_LENGTH]) for name in wanted])
        for name in wanted:
            row = found.get(HashPart(name[:HASH_PART_LENGTH]))
            if row is None or row.base_name != name:
                walk.absent.add(name)
                continue
            new = [reference for reference in row.references if reference not in walk.names]
            walk.names.update(zip(new, new, strict=True))
            walk.wanted += new
            references = tuple(walk.names[reference] for reference in row.references)
            walk.rows[name] = ClosureRow(name, row.nar_id, row.nar_hash, row.nar_size, references)


def _name_some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED_MISSING} more" if len(listed) > _NAMED_MISSING else ""
    return ", ".join(listed[:_NAMED_MISSING]) + more
