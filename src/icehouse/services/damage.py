"""Damage: what cannot be read whole is hidden with all that refers to it, and comes back when it is healed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import Connection

from icehouse.db.caches import list_caches, list_caches_of_domain
from icehouse.db.chunks import ChunkRow, quarantine
from icehouse.db.collection import newer_paths, page_of_recipes, read_generation
from icehouse.db.engine import Database
from icehouse.db.verification import (
    HitPath,
    find_paths,
    find_paths_of_nars,
    find_still_placed,
    hide_paths,
    page_of_links,
    restore_healed,
)
from icehouse.errors import InvalidFormat
from icehouse.rules.recipes import parse_runs
from icehouse.rules.verification import UNREADABLE, plan_hiding, referrer_reason

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What was hidden."""

    damaged: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """By NAR: the paths that were visible and have it, as `<cache>/<base name>`."""
    referrers: dict[str, str] = field(default_factory=dict[str, str])
    """Paths that reach a damaged one, each with that one's base name."""


@dataclass(slots=True)
class _Scan:
    """What leads from damage to the paths that it hits, as the database had it."""

    last_nar_id: int = 0
    using: set[int] = field(default_factory=set[int])
    """NARs that use a damaged chunk."""
    generations: dict[int, int] = field(default_factory=dict[int, int])
    """By cache: up to which referrers were looked for."""
    referrers: dict[int, dict[str, str]] = field(default_factory=dict[int, dict[str, str]])


class Damage:
    """Marks damage, and takes the marks away. What is hidden in a transaction is so with all that reaches it."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._database = database
        self._clock = clock

    async def note(
        self,
        domain_id: int,
        chunks: Sequence[ChunkRow],
        nars: Mapping[int, str] | None = None,
        paths: Mapping[int, str] | None = None,
    ) -> Hidden:
        """Quarantine chunks, and hide the paths that cannot be read without them, and all that refers to those.

        Which paths that are is found out page by page; the transaction looks at what came since.

        Args:
            domain_id: whose chunks and NARs these are.
            chunks: damaged ones. One that has got another frame meanwhile is left alone.
            nars: NARs, by id, whose paths are to be hidden for another reason, which is given.
            paths: paths, by id, that are to be hidden, with the reason.
        """
        nars, paths = nars or {}, paths or {}
        while True:
            scan = await self._scan(domain_id, chunks, nars, paths)
            hidden = await self._database.write(
                partial(
                    _mark,
                    domain_id=domain_id,
                    chunks=chunks,
                    nars=nars,
                    paths=paths,
                    scan=scan,
                    now=self._clock(),
                )
            )
            if not isinstance(hidden, Hidden):
                chunks = hidden  # Some were healed or moved meanwhile.
                continue
            for nar_id, places in hidden.damaged.items():
                _log.error("paths are damaged and were hidden", nar=nar_id, paths=places)
            if hidden.referrers:
                _log.error("paths that reach damaged ones were hidden", count=len(hidden.referrers))
            return hidden

    async def restore_healed(self) -> list[str]:
        """Make what damage hid and what is whole again visible; its names, as `<cache>/<base name>`."""
        restored: list[str] = []
        for cache in await self._database.read(list_caches):
            names = await self._database.write(partial(restore_healed, cache_id=cache.id))
            restored += [f"{cache.name}/{name}" for name in names]
        if restored:
            _log.info("paths were healed and are visible again", count=len(restored))
        return restored

    async def _scan(
        self, domain_id: int, chunks: Sequence[ChunkRow], nars: Collection[int], paths: Collection[int]
    ) -> _Scan:
        scan = _Scan()
        if chunks:
            numbers = sorted(row.number for row in chunks)
            while page := await self._database.read(
                partial(page_of_recipes, domain_id=domain_id, after=scan.last_nar_id)
            ):
                _note_users(scan, page, numbers)
        for cache in await self._database.read(partial(list_caches_of_domain, domain_id=domain_id)):
            scan.generations[cache.id] = await self._database.read(partial(read_generation, cache_id=cache.id))
        hit = await self._database.read(partial(_find_hit, nar_ids={*nars, *scan.using}, path_ids=paths))
        for cache_id in {each.cache_id for each in hit}:
            damaged = {each.hash_part: each.base_name for each in hit if each.cache_id == cache_id}
            scan.referrers[cache_id] = await self._find_referrers(cache_id, damaged)
        return scan

    async def _find_referrers(self, cache_id: int, damaged: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        count = -1
        while len(found) > count:  # References are mostly older than their referrers, so two rounds are the rule.
            count = len(found)
            after = 0
            while page := await self._database.read(partial(page_of_links, cache_id=cache_id, after=after)):
                after = page[-1][0]
                found = plan_hiding(damaged, (link[1:] for link in page), found)
        return found


def _mark(
    connection: Connection,
    domain_id: int,
    chunks: Sequence[ChunkRow],
    nars: Mapping[int, str],
    paths: Mapping[int, str],
    scan: _Scan,
    now: int,
) -> Hidden | list[ChunkRow]:
    """The transaction; or, with nothing changed, those of *chunks* that are still where they were."""
    still = find_still_placed(connection, chunks)
    if len(still) < len(chunks):
        return still
    quarantine(connection, chunks, now=now)
    numbers = sorted(row.number for row in chunks)
    while numbers and (page := page_of_recipes(connection, domain_id, scan.last_nar_id)):
        _note_users(scan, page, numbers)
    hit = [each for each in _find_hit(connection, {*nars, *scan.using}, paths) if each.is_visible]
    hidden = Hidden()
    for cache in list_caches_of_domain(connection, domain_id):
        damaged = {each.hash_part: each for each in hit if each.cache_id == cache.id}
        if not damaged:
            continue
        base_names = {hash_part: each.base_name for hash_part, each in damaged.items()}
        newer = newer_paths(connection, cache.id, scan.generations[cache.id])
        reached = _add_until_all(base_names, newer, scan.referrers.get(cache.id, {}))
        reasons = {hash_part: referrer_reason(base_name) for hash_part, base_name in reached.items()}
        for hash_part, each in damaged.items():
            reasons[hash_part] = paths.get(each.id) or nars.get(each.nar_id) or UNREADABLE
        for hash_part, base_name in hide_paths(connection, cache.id, reasons, now=now):
            if hash_part in damaged:
                hidden.damaged.setdefault(damaged[hash_part].nar_id, []).append(f"{cache.name}/{base_name}")
            else:
                hidden.referrers[f"{cache.name}/{base_name}"] = reached[hash_part]
    return hidden


def _note_users(scan: _Scan, page: Sequence[tuple[int, bytes]], numbers: Sequence[int]) -> None:
    """Add the NARs of a page that use one of the chunks, which ascend."""
    for nar_id, body in page:
        try:
            runs = parse_runs(body)
        except InvalidFormat:
            continue  # Found, and reported, when the recipe itself is looked at.
        if any(bisect_left(numbers, run.first) < bisect_left(numbers, run.first + run.count) for run in runs):
            scan.using.add(nar_id)
    scan.last_nar_id = page[-1][0]


def _find_hit(connection: Connection, nar_ids: Collection[int], path_ids: Collection[int]) -> list[HitPath]:
    found = [*find_paths_of_nars(connection, nar_ids), *find_paths(connection, path_ids)]
    return list({each.id: each for each in found}.values())


def _add_until_all(
    damaged: Mapping[str, str], page: Sequence[tuple[str, str]], found: dict[str, str]
) -> dict[str, str]:
    """Add what of a page reaches damage, until nothing more does."""
    count = -1
    while len(found) > count:
        count = len(found)
        found = plan_hiding(damaged, page, found)
    return found
