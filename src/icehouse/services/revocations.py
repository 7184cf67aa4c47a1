"""Revocations: what somebody published is hidden, with all that reaches it, until that is undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Connection

from icehouse.api.revocations import (
    DownloadView,
    RevocationAnswer,
    RevocationCreate,
    RevocationView,
    RevokedPath,
    UndoAnswer,
)
from icehouse.db.access_times import PathUse, load_uses
from icehouse.db.caches import CacheRow, get_cache, list_caches, next_generation
from icehouse.db.collection import newer_paths, read_generation
from icehouse.db.downloads import Downloader, DownloadRow, load_downloads
from icehouse.db.engine import Database
from icehouse.db.paths import find_restorable, find_visible, restore_paths
from icehouse.db.pins import load_pins
from icehouse.db.revocations import (
    PublishedPath,
    Revoked,
    end_revocation,
    find_copies,
    find_hidden_by,
    find_same_nars,
    find_still_published,
    forget_waiting,
    get_revocation,
    hold_back,
    insert_revocation,
    list_revocations,
    page_of_published,
)
from icehouse.db.tokens import find_descriptions
from icehouse.db.trash import ROWS_A_SEARCH, find_visible_names, last_path_id
from icehouse.db.verification import hide_paths, page_of_links
from icehouse.errors import Conflict, Denied, InvalidFormat, Unauthenticated
from icehouse.nix.store_paths import HashPart
from icehouse.rules.access import Grant
from icehouse.rules.audit import Action, Actor
from icehouse.rules.revocation import own_reason, parse_target, referrer_reason, render_target
from icehouse.rules.verification import plan_hiding
from icehouse.services.audit import record
from icehouse.services.demands import VouchedRows, vouch_for_hidden

MAX_NAMED: Final = 10_000
"""Paths that one answer names."""

MAX_DOWNLOADS_OF_PATH: Final = 100
MAX_DOWNLOADERS: Final = 1_000

_LATEST: Final = 2**53
_TRIES: Final = 8
_BATCH: Final = 1000


class _Changed(Exception):
    """What was found is no longer so."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search in one cache found, to be looked at again by the transaction."""

    cache: CacheRow
    generation: int
    published: Sequence[PublishedPath]
    referrers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Hit:
    """What is, or would be, hidden in one cache: names and what they reach, by hash part."""

    cache: CacheRow
    names: Mapping[HashPart, str]
    reached: Mapping[str, str]
    ids: Mapping[HashPart, int]
    pins: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known of some paths, by id."""

    uses: Mapping[int, PathUse]
    downloads: Mapping[int, Sequence[DownloadRow]]
    copies: Mapping[int, list[str]]

    def render(self, hit: _Hit, part: HashPart) -> RevokedPath:
        """What is told of one of them."""
        path_id = hit.ids[part]
        use = self.uses.get(path_id)
        return RevokedPath(
            path=f"{hit.cache.name}/{hit.names[part]}",
            reaches=hit.reached.get(part),
            uses=0 if use is None else use.uses,
            last_used_at=None if use is None else use.last_used_at,
            downloads=_sum_up(self.downloads.get(path_id, ()))[:MAX_DOWNLOADS_OF_PATH],
            copies=self.copies.get(path_id, []),
        )


class Revocations:
    """Revokes what somebody published, and takes that back."""

    def __init__(
        self,
        database: Database,
        access_database: Database,
        clock: Callable[[], int],
        *,
        flush_uses: Callable[[], Awaitable[None]],
    ) -> None:
        """*flush_uses* writes what this process knows of uses and downloads."""
        self._database = database
        self._access_database = access_database
        self._clock = clock
        self._flush_uses = flush_uses

    async def revoke(self, request: RevocationCreate, actor: Actor) -> RevocationAnswer:
        """Hold back what is meant, hide all that reaches it, and refuse it from whom it came. Or only tell.

        What that is, is found out page by page; one transaction looks again at what was found and at what came since,
        and hides it in all caches.

        Raises:
            InvalidFormat: who or when is malformed.
            NotFound: there is no such cache.
        """
        now = self._clock()
        target = parse_target(request.by)
        if not 0 <= request.since < _LATEST or not request.since <= (request.until or request.since) <= now:
            raise InvalidFormat(f"since {request.since}, until {request.until}: expected times that are past, in order")
        revoked = Revoked(target, request.since, request.until)
        if request.cache is None:
            caches = await self._database.read(list_caches)
        else:
            caches = (await self._database.read(partial(get_cache, name=request.cache)),)
        for _ in range(_TRIES):
            found = [await self._search(cache, revoked) for cache in caches]
            try:
                return await self._decide(request, revoked, found, actor, now)
            except _Changed:
                continue
        raise Conflict("these paths are published again and again at the same time; repeat yours")

    async def _decide(
        self, request: RevocationCreate, revoked: Revoked, found: Sequence[_Found], actor: Actor, now: int
    ) -> RevocationAnswer:
        if request.dry_run:
            hits = [await self._database.read(partial(_plan, found=one, revoked=revoked)) for one in found]
            return await self._tell(None, hits)

        def work(connection: Connection) -> tuple[int, list[_Hit]]:
            cache_id = None if request.cache is None else get_cache(connection, request.cache).id
            number = insert_revocation(connection, revoked, cache_id, created_by=actor.token_id, now=now)
            there = {cache.id for cache in list_caches(connection)}
            hits = [_carry_out(connection, one, revoked, number, now) for one in found if one.cache.id in there]
            facts = {
                "by": render_target(revoked.target),
                "since": revoked.since,
                "until": revoked.until,
                "paths": sum(len(hit.names) for hit in hits),
            }
            pattern = request.cache or "*"
            record(connection, actor, Action.REVOCATION_ADD, pattern, str(number), new=facts, now=now)
            return number, hits

        number, hits = await self._database.write(work)
        return await self._tell(number, hits)

    async def list_revocations(self) -> list[RevocationView]:
        """All revocations, undone ones too, oldest first."""

        def work(connection: Connection) -> list[RevocationView]:
            names = {cache.id: cache.name for cache in list_caches(connection)}
            return [
                RevocationView(
                    id=row.id,
                    by=render_target(row.revoked.target),
                    since=row.revoked.since,
                    until=row.revoked.until,
                    cache=None if row.cache_id is None else names.get(row.cache_id),
                    created_at=row.created_at,
                    created_by=row.created_by,
                    undone_at=row.undone_at,
                )
                for row in list_revocations(connection)
            ]

        return await self._database.read(work)

    async def undo(self, revocation_id: int, actor: Actor) -> UndoAnswer:
        """End a revocation, and make visible what it hid, as far as all that it needs is there.

        What lacks a signature that its cache demands by now stays in the trash.

        Raises:
            NotFound: there is no such revocation.
            Conflict: it was undone before.
        """
        last = await self._database.read(last_path_id)
        hidden: list[tuple[int, int, HashPart]] = []
        for first in range(1, last + 1, ROWS_A_SEARCH):
            search = partial(find_hidden_by, revocation_id=revocation_id, first=first, last=first + ROWS_A_SEARCH - 1)
            hidden += await self._database.read(search)
        vouched: dict[int, VouchedRows] = {}
        for cache in await self._database.read(list_caches):
            parts = {hash_part for _, cache_id, hash_part in hidden if cache_id == cache.id}
            vouched[cache.id] = await vouch_for_hidden(self._database, cache, parts)
        now = self._clock()

        def work(connection: Connection) -> UndoAnswer:
            row = get_revocation(connection, revocation_id)
            if row.undone_at is not None:
                raise Conflict(f"revocation {revocation_id} was undone before")
            end_revocation(connection, revocation_id, now=now)
            restored: list[str] = []
            wanted = 0
            for cache in list_caches(connection):
                parts = {hash_part for _, cache_id, hash_part in hidden if cache_id == cache.id}
                parts -= find_visible(connection, cache.id, parts).keys()
                wanted += len(parts)
                is_welcome = vouched[cache.id].judge(connection, cache) if parts else None
                rows = find_restorable(connection, cache.id, parts, is_welcome=is_welcome)
                if rows:
                    generation = next_generation(connection, cache.id)
                    restore_paths(connection, [row.id for row in rows.values()], generation=generation)
                restored += sorted(f"{cache.name}/{row.store_path.base_name}" for row in rows.values())
                wanted -= len(parts & rows.keys())
            pattern = next((cache.name for cache in list_caches(connection) if cache.id == row.cache_id), "*")
            facts = {"by": render_target(row.revoked.target), "paths": len(restored)}
            record(connection, actor, Action.REVOCATION_UNDO, pattern, str(revocation_id), new=facts, now=now)
            return UndoAnswer(restored=restored, left=wanted)

        return await self._database.write(work)

    async def _search(self, cache: CacheRow, revoked: Revoked) -> _Found:
        generation = await self._database.read(partial(read_generation, cache_id=cache.id))
        last = await self._database.read(last_path_id)
        published: list[PublishedPath] = []
        for first in range(1, last + 1, ROWS_A_SEARCH):
            end = first + ROWS_A_SEARCH - 1
            page = partial(page_of_published, cache_id=cache.id, revoked=revoked, first=first, last=end)
            published += await self._database.read(page)
        roots: dict[str, str] = {each.hash_part: each.base_name for each in published if each.is_visible}
        found: dict[str, str] = {}
        count = -1
        while roots and len(found) > count:  # References are mostly older than their referrers: two rounds do.
            count = len(found)
            after = 0
            while page_ := await self._database.read(partial(page_of_links, cache_id=cache.id, after=after)):
                after = page_[-1][0]
                found = plan_hiding(roots, (link[1:] for link in page_), found)
        return _Found(cache, generation, published, found)

    async def _tell(self, number: int | None, hits: Sequence[_Hit]) -> RevocationAnswer:
        await self._flush_uses()
        hidden = {path_id for hit in hits for path_id in hit.ids.values()}
        paths: list[RevokedPath] = []
        downloads: list[DownloadRow] = []
        for hit in hits:
            parts = list(hit.names)[: MAX_NAMED - len(paths)]
            for start in range(0, len(parts), _BATCH):
                some = parts[start : start + _BATCH]
                told = await self._look_up(hit, some, hidden)
                paths += [told.render(hit, part) for part in some]
                downloads += [row for rows in told.downloads.values() for row in rows]
        names = await self._find_names({row.by.token_id for row in downloads})
        return RevocationAnswer(
            id=number,
            count=sum(len(hit.names) for hit in hits),
            paths=[msgspec.structs.replace(path, downloads=_named(path.downloads, names)) for path in paths],
            pins=[pin for hit in hits for pin in hit.pins],
            downloaders=_named(_sum_up(downloads), names)[:MAX_DOWNLOADERS],
        )

    async def _look_up(self, hit: _Hit, parts: Sequence[HashPart], hidden: Collection[int]) -> _Told:
        ids = [hit.ids[part] for part in parts]
        uses = await self._access_database.read(partial(load_uses, path_ids=ids))
        same = await self._database.read(partial(find_same_nars, cache_id=hit.cache.id, path_ids=ids))
        since = {number: created_at for numbers in same.values() for number, created_at in numbers}
        rows: dict[int, list[DownloadRow]] = {}
        numbers = list(since)
        for start in range(0, len(numbers), _BATCH):
            some = numbers[start : start + _BATCH]
            for row in await self._access_database.read(partial(load_downloads, path_ids=some)):
                if row.last_at >= since[row.path_id]:  # else of a path that had this number before
                    rows.setdefault(row.path_id, []).append(row)
        own = [hit.ids[part] for part in parts if part not in hit.reached]
        copies = await self._database.read(partial(find_copies, cache_id=hit.cache.id, path_ids=own))
        return _Told(
            uses=uses,
            downloads={
                path_id: [replace(row, path_id=path_id) for number, _ in numbers for row in rows.get(number, ())]
                for path_id, numbers in same.items()
            },
            copies={
                path_id: sorted(name for copy_id, name in found if copy_id not in hidden)
                for path_id, found in copies.items()
            },
        )

    async def _find_names(self, token_ids: Collection[int | None]) -> dict[int, str]:
        wanted = sorted(token_id for token_id in token_ids if token_id is not None)
        names: dict[int, str] = {}
        for start in range(0, len(wanted), _BATCH):
            some = wanted[start : start + _BATCH]
            names |= await self._database.read(partial(find_descriptions, token_ids=some))
        return names


def _sum_up(rows: Iterable[DownloadRow]) -> list[DownloadView]:
    """Downloads by who made them, the latest first, without names."""
    by: dict[Downloader, DownloadView] = {}
    seen: dict[Downloader, set[int]] = {}
    for row in rows:
        seen.setdefault(row.by, set()).add(row.path_id)
        before = by.get(row.by)
        by[row.by] = DownloadView(
            token_id=row.by.token_id,
            name=None,
            address=row.by.address or None,
            paths=len(seen[row.by]),
            downloads=row.downloads + (0 if before is None else before.downloads),
            first_at=row.first_at if before is None else min(row.first_at, before.first_at),
            last_at=row.last_at if before is None else max(row.last_at, before.last_at),
        )
    return sorted(by.values(), key=lambda view: -view.last_at)


def _named(views: Iterable[DownloadView], names: Mapping[int, str]) -> list[DownloadView]:
    return [msgspec.structs.replace(view, name=names.get(view.token_id or 0)) for view in views]


def check_may_revoke(grant: Grant | None) -> Grant:
    """*grant*, if its holder may revoke what others published, in every cache.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token does not administer all caches.
    """
    if grant is None:
        raise Unauthenticated("revoking needs a token that has the permission admin on all caches")
    if not grant.administers("*"):
        raise Denied("revoking needs the permission admin on the pattern *, which this token lacks")
    return grant


def _plan(connection: Connection, found: _Found, revoked: Revoked) -> _Hit:
    """What the database, as it is now, has of what was found, and what came since."""
    cache = found.cache
    ids = [each.id for each in found.published]
    published = find_still_published(connection, cache.id, revoked, ids, found.generation)
    roots: dict[str, str] = {each.hash_part: each.base_name for each in published if each.is_visible}
    newer = newer_paths(connection, cache.id, found.generation)
    if any(each.is_visible and each.hash_part not in roots for each in found.published):
        # Somebody else published it meanwhile. What was found to reach it may reach others as well.
        raise _Changed
    reached = {part: name for part, name in found.referrers.items() if part not in roots}
    count = -1
    while len(reached) > count:
        count = len(reached)
        reached = plan_hiding(roots, newer, reached)
    visible = find_visible(connection, cache.id, [HashPart(part) for part in reached])
    names = {each.hash_part: each.base_name for each in published}
    names |= {
        store_path.hash_part: store_path.base_name
        for store_path in find_visible_names(connection, cache.id, visible.values()).values()
    }
    all_ids = {each.hash_part: each.id for each in published} | visible
    touched = set(all_ids.values())
    pins = [
        f"{cache.name}/{pin.name}"
        for pin in load_pins(connection, cache.id)
        if any(revision.path_id in touched for revision in pin.revisions)
    ]
    return _Hit(cache, names, {part: reached[part] for part in visible}, all_ids, pins)


def _carry_out(connection: Connection, found: _Found, revoked: Revoked, number: int, now: int) -> _Hit:
    hit = _plan(connection, found, revoked)
    cache = found.cache
    own = [part for part in hit.names if part not in hit.reached]
    hold_back(connection, [hit.ids[part] for part in own], number)
    reasons = {str(part): own_reason(number, revoked.target) for part in own}
    reasons |= {part: referrer_reason(number, name) for part, name in hit.reached.items()}
    hide_paths(connection, cache.id, reasons, now=now)
    forget_waiting(connection, cache.id, revoked)
    return hit
