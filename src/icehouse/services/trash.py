"""The trash of a cache: what is in it, putting a path there by hand, and taking one out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.paths import (
    DeleteAnswer,
    DeletePlan,
    PathsPage,
    RestoreAnswer,
    RestoreManyAnswer,
    TrashedPath,
    TrashPage,
    TrashReason,
)
from icehouse.db.cache_settings import load_settings
from icehouse.db.caches import CacheRow, get_cache, next_generation
from icehouse.db.collection import hide, newer_paths, read_generation
from icehouse.db.engine import Database
from icehouse.db.past_collections import CollectionRow, find_collection, find_spans
from icehouse.db.paths import find_restorable, find_visible, restore_paths
from icehouse.db.pins import find_reach_of_hidden, load_pins
from icehouse.db.trash import (
    ROWS_A_SEARCH,
    PathFacts,
    TrashPlace,
    find_facts,
    find_visible_names,
    last_path_id,
    page_facts,
    page_of_hidden,
    page_trash,
    search_referrers,
)
from icehouse.db.verification import page_of_links
from icehouse.errors import Conflict, InvalidFormat, NotFound, TooLarge
from icehouse.nix.excerpts import excerpt
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Action, Actor
from icehouse.rules.pins import kept_revisions
from icehouse.rules.retention import Reason
from icehouse.rules.revocation import REVOCATION
from icehouse.rules.verification import DAMAGED, plan_hiding
from icehouse.services.audit import record
from icehouse.services.demands import vouch_for_hidden
from icehouse.services.paths import summarise

PATHS_A_PAGE: Final = 1_000
TRASH_A_PAGE: Final = 50
MAX_RESTORED: Final = 1_000
"""Paths that one request names."""

_TRANSACTIONS: Final = 10  # for what a collection hid, in one request: some 10,000 paths
_MAX_SPANS: Final = 200
_RETENTION: Final = {reason.value for reason in Reason}
_DELETED: Final = "deleted by "
_OPENINGS: Final[Mapping[str, TrashReason]] = {_DELETED: "deleted", REVOCATION: "revoked", DAMAGED: "damaged"}
_PLACE: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,18})")

_NAMED: Final = 5  # of what stands in the way, in a message
_AUDITED: Final = 100
_MAX_PLANNED: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Doomed:
    """A path to delete, and what reaches it, as a search found it."""

    path: PathFacts
    generation: int
    """Of the cache before the search."""
    referrers: Mapping[str, str]
    """By hash part. Of those that only reach it through others, all are here only if they are to go too."""


class Trash:
    """Moves paths to the trash and back. Rights on the cache are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database, clock: Callable[[], int], *, note_use: Callable[[int, int], None]) -> None:
        """*clock* gives seconds since the epoch; *note_use* notes that a path, by id, was used then."""
        self._database = database
        self._clock = clock
        self._note_use = note_use

    async def list_paths(self, cache: CacheRow, *, is_trash: bool, after: HashPart | None = None) -> PathsPage:
        """The visible paths of a cache, or those in its trash, by hash part; a page of them."""

        def work(connection: Connection) -> PathsPage:
            settings, _ = load_settings(connection, cache.id)
            page = partial(page_facts, connection, cache.id, after=after or "", is_hidden=is_trash)
            rows = page(limit=PATHS_A_PAGE + 1)
            summaries = [summarise(row, settings.trash_seconds) for row in rows[:PATHS_A_PAGE]]
            return PathsPage(paths=summaries, has_more=len(rows) > PATHS_A_PAGE)

        return await self._database.read(work)

    async def list_trash(
        self, cache: CacheRow, *, name: str = "", before: str | None = None, limit: int = TRASH_A_PAGE
    ) -> TrashPage:
        """What is in the trash, what came last first; with *name* those whose names have that in them.

        Raises:
            InvalidFormat: *before* is not what an earlier page gave.
        """
        place = None if before is None else _parse_place(before)

        def work(connection: Connection) -> TrashPage:
            settings, _ = load_settings(connection, cache.id)
            rows, end = page_trash(connection, cache.id, name=name, before=place, limit=limit)
            times = [row.hidden_at for row in rows if row.hidden_at is not None and row.hidden_because in _RETENTION]
            spans: Sequence[tuple[int, int, int]] = ()
            if times:
                spans = find_spans(connection, cache.name, since=min(times), until=max(times), limit=_MAX_SPANS)
            paths = [_trashed(row, settings.trash_seconds, spans) for row in rows]
            return TrashPage(paths=paths, before=None if end is None else _render_place(end))

        return await self._database.read(work)

    async def restore_many(self, cache: CacheRow, hash_parts: Collection[HashPart], actor: Actor) -> RestoreManyAnswer:
        """Make paths of the trash visible again, each with what it needs from there, in one transaction.

        Repeating it changes nothing. Those that cannot come back are named, and do not stop the others.

        Raises:
            TooLarge: there are more than `MAX_RESTORED`.
        """
        if len(hash_parts) > MAX_RESTORED:
            raise TooLarge(f"{len(hash_parts)} paths: expected at most {MAX_RESTORED} at once")
        restored, refused = await self._restore_some(cache, frozenset(hash_parts), actor, None)
        return RestoreManyAnswer(restored=restored, refused=refused, after=None)

    async def restore_collection(
        self, cache: CacheRow, collection_id: int, actor: Actor, *, after: str | None = None
    ) -> RestoreManyAnswer:
        """Make visible again what a collection hid in the cache, a thousand paths a transaction.

        One call restores some ten thousand; the answer says whether there is more.

        Raises:
            NotFound: no such collection concerned the cache.
            InvalidFormat: *after* is not what an earlier answer gave.
        """
        place = None if after is None else _parse_place(after)
        row = await self._database.read(partial(_get_collection, cache=cache, collection_id=collection_id))
        restored: list[str] = []
        refused: list[str] = []
        for _ in range(_TRANSACTIONS):
            page = partial(page_of_hidden, cache_id=cache.id, since=row.began_at, until=row.ended_at)
            hash_parts, place = await self._database.read(partial(page, reasons=_RETENTION, after=place))
            back, not_back = await self._restore_some(cache, frozenset(hash_parts), actor, f"collection {row.id}")
            restored += back
            refused += not_back
            if place is None:
                break
        end = None if place is None else _render_place(place)
        return RestoreManyAnswer(restored=sorted(restored), refused=sorted(refused), after=end)

    async def _restore_some(
        self, cache: CacheRow, hash_parts: frozenset[HashPart], actor: Actor, subject: str | None
    ) -> tuple[list[str], list[str]]:
        """Restore those that can come back; their base names, and the hash parts of those that cannot, sorted."""
        now = self._clock()
        vouched = await vouch_for_hidden(self._database, cache, hash_parts)

        def work(connection: Connection) -> tuple[dict[int, str], list[HashPart]]:
            get_cache(connection, cache.name)
            found = find_restorable(connection, cache.id, hash_parts, is_welcome=vouched.judge(connection, cache))
            left = hash_parts - found.keys()
            refused = sorted(left - find_visible(connection, cache.id, left).keys())
            restored = {each.id: each.store_path.base_name for each in found.values()}
            if restored:
                restore_paths(connection, list(restored), generation=next_generation(connection, cache.id))
                new = _audited("restored", restored.values())
                record(connection, actor, Action.PATH_RESTORE, cache.name, subject, new=new, now=now)
            return restored, refused

        restored, refused = await self._database.write(work)
        for path_id in restored:
            self._note_use(path_id, now)
        return sorted(restored.values()), list(refused)

    async def restore(self, cache: CacheRow, hash_part: HashPart, actor: Actor) -> RestoreAnswer:
        """Make a path of the trash visible again, with what it needs from there. It counts as a use of all of them.

        Repeating it changes nothing.

        Raises:
            NotFound: the cache has no such path, visible or in its trash.
            Conflict: it is damaged, or it reaches something that is, or that was purged; or one of them lacks a
                signature that the cache demands.
        """
        now = self._clock()
        vouched = await vouch_for_hidden(self._database, cache, {hash_part})

        def work(connection: Connection) -> dict[int, str]:
            get_cache(connection, cache.name)
            row = _get_facts(connection, cache, hash_part)
            if row.hidden_at is None:
                return {}
            found = find_restorable(connection, cache.id, {hash_part}, is_welcome=vouched.judge(connection, cache))
            if hash_part not in found:
                unsigned = ", or lacks a signature that the cache demands" if vouched.keys else ""
                raise Conflict(
                    f"{row.store_path} cannot be restored: it, or something that it reaches, is damaged, revoked or "
                    f"purged{unsigned} ({row.hidden_because}). Push it again"
                )
            restored = {each.id: each.store_path.base_name for each in found.values()}
            restore_paths(connection, list(restored), generation=next_generation(connection, cache.id))
            new = _audited("restored", restored.values())
            record(connection, actor, Action.PATH_RESTORE, cache.name, row.store_path.base_name, new=new, now=now)
            return restored

        restored = await self._database.write(work)
        for path_id in restored:
            self._note_use(path_id, now)
        return RestoreAnswer(restored=sorted(restored.values()))

    async def plan_delete(self, cache: CacheRow, hash_part: HashPart) -> DeletePlan:
        """What `delete` of a visible path would meet: it searches as that does, and changes nothing.

        Raises:
            NotFound: the cache has no such path.
            Conflict: it is in the trash already.
        """
        path = await self._database.read(partial(_get_facts, cache=cache, hash_part=hash_part))
        if path.hidden_at is not None:
            raise Conflict(f"{path.store_path} is in the trash already ({path.hidden_because})")
        referrers = await self._find_all(cache, path) if await self._find_direct(cache, hash_part) else {}
        now = self._clock()

        def work(connection: Connection) -> tuple[list[str], list[str]]:
            ids = find_visible(connection, cache.id, [hash_part, *(HashPart(each) for each in referrers)])
            first = [ids[HashPart(each)] for each in sorted(referrers)[:_MAX_PLANNED] if HashPart(each) in ids]
            names = find_visible_names(connection, cache.id, first)
            return _find_keepers(connection, cache.id, ids, now), [name.base_name for name in names.values()]

        keepers, names = await self._database.read(work)
        return DeletePlan(
            store_path=path.store_path.base_name,
            nar_size=path.nar_size,
            referrers=sorted(names),
            referrer_count=len(referrers),
            kept_by=keepers[:_AUDITED],
        )

    async def delete(self, cache: CacheRow, hash_part: HashPart, actor: Actor, *, with_referrers: bool) -> DeleteAnswer:
        """Move a visible path to the trash. Repeating it changes nothing.

        Finding what refers to it reads the references of all paths of the cache, a page at a time. The transaction
        looks at what was published since, and at the pins.

        Raises:
            NotFound: the cache has no such path.
            Conflict: a pin keeps it, or something that goes with it; or visible paths refer to it, and *with_referrers*
                is false.
        """
        path = await self._database.read(partial(_get_facts, cache=cache, hash_part=hash_part))
        if path.hidden_at is not None:
            return DeleteAnswer(deleted=[])
        generation = await self._database.read(partial(read_generation, cache_id=cache.id))
        direct = await self._find_direct(cache, hash_part)
        if direct and not with_referrers:
            raise _still_needed(path, direct)
        referrers = await self._find_all(cache, path) if direct else {}
        doomed = _Doomed(path, generation, referrers)
        now = self._clock()
        return await self._database.write(
            partial(_delete, cache=cache, doomed=doomed, with_referrers=with_referrers, actor=actor, now=now)
        )

    async def _find_direct(self, cache: CacheRow, hash_part: HashPart) -> list[str]:
        found: list[str] = []
        for after in range(0, await self._database.read(last_path_id), ROWS_A_SEARCH):
            search = partial(search_referrers, cache_id=cache.id, hash_part=hash_part, after=after)
            found += await self._database.read(search)
        return found

    async def _find_all(self, cache: CacheRow, path: PathFacts) -> dict[str, str]:
        roots: dict[str, str] = {path.store_path.hash_part: path.store_path.base_name}
        found: dict[str, str] = {}
        count = -1
        while len(found) > count:  # References are mostly older than their referrers, so two rounds are the rule.
            count = len(found)
            after = 0
            while page := await self._database.read(partial(page_of_links, cache_id=cache.id, after=after)):
                after = page[-1][0]
                found = plan_hiding(roots, (link[1:] for link in page), found)
        return found


def _delete(
    connection: Connection, *, cache: CacheRow, doomed: _Doomed, with_referrers: bool, actor: Actor, now: int
) -> DeleteAnswer:
    get_cache(connection, cache.name)
    path = doomed.path
    roots: dict[str, str] = {path.store_path.hash_part: path.store_path.base_name}
    newer = newer_paths(connection, cache.id, doomed.generation)
    found = dict(doomed.referrers)
    count = -1
    while len(found) > count:
        count = len(found)
        found = plan_hiding(roots, newer, found)
    if found and not with_referrers:
        raise _still_needed(path, list(found))
    hash_parts = [path.store_path.hash_part, *(HashPart(each) for each in found)]
    ids = find_visible(connection, cache.id, hash_parts)
    keepers = _find_keepers(connection, cache.id, ids, now)
    if keepers:
        raise Conflict(f"{path.store_path} is kept by {_some(keepers, 'pin')}; unpin first")
    names = find_visible_names(connection, cache.id, ids.values())
    because = f"{_DELETED}{actor.who}"
    with_it = f"{because}, with {path.store_path} which it reaches"
    hide(connection, ((each, because if each == path.id else with_it) for each in names), now=now)
    deleted = sorted(name.base_name for name in names.values())
    if deleted:
        new = _audited("deleted", deleted)
        record(connection, actor, Action.PATH_DELETE, cache.name, path.store_path.base_name, new=new, now=now)
    return DeleteAnswer(deleted=deleted)


def _find_keepers(connection: Connection, cache_id: int, doomed: Mapping[HashPart, int], now: int) -> list[str]:
    """The pins that keep one of the paths, given with their ids, with the revision.

    All visible paths that reach one are among them. One that is hidden for damage is not, and comes back when it is
    healed: what it reaches is looked for.
    """
    kept = [(pin.name, each) for pin in load_pins(connection, cache_id) for each in kept_revisions(pin, now)]
    path_ids = {revision.path_id for _, revision in kept}
    keeping = path_ids & set(doomed.values())
    for path_id, reached in find_reach_of_hidden(connection, cache_id, path_ids).items():
        if not reached.isdisjoint(doomed):
            keeping.add(path_id)
    return [f"{name} (revision {revision.number})" for name, revision in kept if revision.path_id in keeping]


def _get_collection(connection: Connection, cache: CacheRow, collection_id: int) -> CollectionRow:
    row = find_collection(connection, collection_id)
    if row is None or row.cache_name not in {None, cache.name}:
        raise NotFound(f"no collection {collection_id} of cache {cache.name!r} is known")
    return row


def _audited(what: str, base_names: Collection[str]) -> dict[str, object]:
    """What the audit log holds of paths: how many, and the first ones. The rows of those deleted name the path too."""
    return {what: len(base_names), "paths": sorted(base_names)[:_AUDITED]}


def _still_needed(path: PathFacts, referrers: list[str]) -> Conflict:
    return Conflict(
        f"{path.store_path} is referred to by {_some(referrers, 'visible path')}; without it they would not be whole. "
        "Delete it with its referrers (--with-referrers), or those first"
    )


def _some(names: list[str], noun: str) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}: {', '.join(sorted(names)[:_NAMED])}{more}"


def _get_facts(connection: Connection, cache: CacheRow, hash_part: HashPart) -> PathFacts:
    row = find_facts(connection, cache.id, hash_part)
    if row is None:
        raise NotFound(f"cache {cache.name!r} has no path {hash_part}, visible or in its trash")
    return row


def _trashed(row: PathFacts, trash_seconds: int, spans: Sequence[tuple[int, int, int]]) -> TrashedPath:
    hidden_at = row.hidden_at or 0
    because = row.hidden_because or ""
    concerned = (number for number, began_at, ended_at in spans if began_at <= hidden_at <= ended_at)
    return TrashedPath(
        store_path=row.store_path.base_name,
        nar_size=row.nar_size,
        created_at=row.created_at,
        published_by=row.published_by,
        hidden_at=hidden_at,
        reason=_find_reason(because),
        hidden_because=because,
        restorable_until=hidden_at + trash_seconds,
        collection=next(concerned, None) if because in _RETENTION else None,
    )


def _find_reason(because: str) -> TrashReason:
    if because == Reason.BUDGET.value:
        return "budget"
    if because in _RETENTION:
        return "retention"
    for opening, reason in _OPENINGS.items():
        if because.startswith(opening):
            return reason
    return "other"


def _render_place(place: TrashPlace) -> str:
    return f"{place.hidden_at}-{place.path_id}"


def _parse_place(text: str) -> TrashPlace:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise InvalidFormat(f"place {excerpt(text)}: expected what the page before gave, such as 1700000000-12")
    return TrashPlace(int(match[1]), int(match[2]))
