"""Collection: hiding what retention lets go, purging the trash, and giving the disk back, each by a plan.

The order: rows before bytes. What was planned is looked at again by the transaction that acts; a crash leaves objects
without rows, which a later collection finds. It runs in a process of its own, beside those that serve: with a million
paths it thinks for a while and takes some hundred bytes of memory for each.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection

from icehouse.api.collection import CollectionReport, HiddenPath, MarkReport, SweepReport
from icehouse.db.access_times import forget_uses, page_of_uses
from icehouse.db.cache_settings import grow, load_settings
from icehouse.db.caches import PUBLIC_DOMAIN_ID, CacheRow, get_cache, list_caches
from icehouse.db.collection import (
    PAGE_ROWS,
    PackRow,
    add_collection,
    count_purgeable_paths,
    delete_pack,
    find_known_objects,
    forget_purged,
    hide,
    list_packs,
    load_recipes,
    newer_paths,
    page_of_chunks,
    page_of_paths,
    page_of_purgeable_nars,
    page_of_recipes,
    page_of_references,
    purge_nars,
    purge_paths,
    purge_staged,
    read_generation,
    read_retention,
    set_condemned,
    set_stored_bytes,
)
from icehouse.db.downloads import forget_downloads
from icehouse.db.engine import Database
from icehouse.db.pins import delete_revisions, find_pin, find_reach_of_hidden, load_pins
from icehouse.errors import NotFound
from icehouse.rules.collection import GRACE_SECONDS, PackFacts, PackPlan, plan_packs
from icehouse.rules.pins import kept_revisions
from icehouse.rules.recipes import Run, parse_runs
from icehouse.rules.retention import (
    CacheFacts,
    Lists,
    Ranks,
    Reason,
    Retention,
    RetentionPlan,
    plan_retention,
    rank_paths,
    rescue,
    size_without,
)
from icehouse.services.compaction import Compaction, compact
from icehouse.services.retention import note_outline
from icehouse.storage.blobs import BlobInfo, BlobStore
from icehouse.storage.keys import UNFINISHED
from icehouse.storage.nars import pack_key

_BATCH: Final = 1000
_HASH_LETTERS: Final = 32
_SWEPT_PREFIXES: Final = ("packs/", "logs/")
"""Below these every object has a row. The journal has none: it is what rows can be made of again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """What to hide in one cache, and what that was decided from."""

    cache: CacheRow
    generation: int
    """As it was before anything else was read."""
    noted_bytes: int
    """The size that was noted then."""
    ids: "array[int]"
    """The visible paths, ascending. Facts and plan name them by their places here."""
    names: Sequence[str]
    """Their base names."""
    places: dict[str, int]
    """By hash part."""
    facts: CacheFacts
    ranks: Ranks
    plan: RetentionPlan


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to remove in one domain."""

    purged_paths: int
    purged_nars: int
    packs: PackPlan
    live: bytearray
    """One byte a chunk number: whether a NAR that stays needs it."""
    strays: tuple[BlobInfo, ...]


class Collector:
    """Plans collections and carries them out. Blocks; belongs to a process without an event loop."""

    def __init__(
        self,
        database: Database,
        access_database: Database,
        blobs: BlobStore,
        clock: Callable[[], int],
        *,
        started_by: str,
        show_progress: Callable[[str], None],
        retention: Retention | None = None,
    ) -> None:
        """Join the parts.

        *clock* gives seconds since the epoch; *started_by* stands in the history. With *retention* it goes by that, and
        not by what each cache has set.
        """
        self._retention = retention
        self._database = database
        self._access_database = access_database
        self._blobs = blobs
        self._clock = clock
        self._started_by = started_by
        self._show_progress = show_progress

    def collect(self, cache_name: str | None, *, is_dry_run: bool) -> CollectionReport:
        """Mark one cache, or all; then sweep their domains. With *is_dry_run* tell what that would do, and do nothing.

        Raises:
            NotFound: there is no such cache.
            StorageError: a backend failed. What was done by then is done, and the next collection goes on.
        """
        began_at = self._clock()
        if cache_name is None:
            caches = self._database.read_now(list_caches)
        else:
            caches = (self._database.read_now(partial(get_cache, name=cache_name)),)
        marks = [self._mark(cache, is_dry_run=is_dry_run) for cache in caches]
        domains = sorted({cache.domain_id for cache in caches})
        sweeps = [self._sweep_domain(domain_id, is_dry_run=is_dry_run) for domain_id in domains]
        report = CollectionReport(is_dry_run=is_dry_run, marks=marks, sweeps=sweeps)
        if not is_dry_run:
            while self._database.write_now(partial(forget_purged, now=began_at)):
                pass
            self._note(cache_name, report, began_at)
        return report

    def _note(self, cache_name: str | None, report: CollectionReport, began_at: int) -> None:
        numbers = msgspec.to_builtins(report)
        for mark in numbers["marks"]:
            mark["hidden"] = len(mark["hidden"])
        add = partial(
            add_collection,
            cache_name=cache_name,
            began_at=began_at,
            ended_at=self._clock(),
            started_by=self._started_by,
            result=msgspec.json.encode(numbers).decode(),
        )
        self._database.write_now(add)

    def _mark(self, cache: CacheRow, *, is_dry_run: bool) -> MarkReport:
        self._show_progress(f"{cache.name}: reading paths")
        mark = self.plan_mark(cache)
        hidden = mark.plan.hide if is_dry_run else self.hide(mark)
        note_outline(
            self._database, mark.cache, mark.names, mark.facts, mark.ranks, () if is_dry_run else hidden, self._clock()
        )
        after = mark.plan.size_after if is_dry_run or hidden == mark.plan.hide else self._remeasure(mark, hidden)
        return MarkReport(
            cache=cache.name,
            hidden=[HiddenPath(store_path=mark.names[place], reason=reason.value) for place, reason in hidden],
            hidden_by_reason=dict(Counter(reason.value for _, reason in hidden)),
            pinned_paths=mark.plan.pinned,
            stored_bytes_before=mark.plan.size_before,
            stored_bytes_after=after,
        )

    def plan_mark(self, cache: CacheRow) -> Mark:
        """Read the cache and decide what to hide."""
        database = self._database
        generation, noted_bytes = database.read_now(partial(_read_state, cache_id=cache.id))
        retention = self._retention or database.read_now(partial(read_retention, cache_id=cache.id))
        ids, pushed_at, nar_ids = array("Q"), array("Q"), array("Q")
        names: list[str] = []
        places: dict[str, int] = {}
        after = 0
        while rows := database.read_now(partial(page_of_paths, cache_id=cache.id, after=after)):
            for after, hash_part, name, nar_id, created_at in rows:
                places[hash_part] = len(ids)
                ids.append(after)
                pushed_at.append(created_at)
                nar_ids.append(nar_id)
                names.append(f"{hash_part}-{name}")
        references = self._references(cache.id, ids, places)
        self._show_progress(f"{cache.name}: {len(ids)} paths; reading what they take")
        nars = array("I")
        nar_places: dict[int, int] = {}
        for nar_id in nar_ids:
            nars.append(nar_places.setdefault(nar_id, len(nar_places)))
        chunks = self._chunks_of(list(nar_places))
        facts = CacheFacts(
            pushed_at, self._uses(ids, pushed_at), nars, references, chunks, self._chunk_bytes(cache.domain_id)
        )
        now = self._clock()
        roots = database.read_now(partial(self._find_roots, cache_id=cache.id, ids=ids, places=places, now=now))
        self._show_progress(f"{cache.name}: deciding")
        ranks = rank_paths(facts, roots)
        plan = plan_retention(facts, ranks, retention, now=now)
        return Mark(cache, generation, noted_bytes, ids, names, places, facts, ranks, plan)

    def _references(self, cache_id: int, ids: "array[int]", places: dict[str, int]) -> Lists:
        """For each of the paths, those that are visible. This second reading may see other rows than the first."""
        references = Lists.of(())
        after = 0
        while rows := self._database.read_now(partial(page_of_references, cache_id=cache_id, after=after)):
            for after, text in rows:
                place = bisect_left(ids, after, len(references))
                if place == len(ids) or ids[place] != after:
                    continue
                while len(references) < place:
                    references.append(())
                found = (places.get(base_name[:_HASH_LETTERS]) for base_name in text.split())
                references.append(reference for reference in found if reference is not None)
        while len(references) < len(ids):
            references.append(())
        return references

    def _uses(self, ids: "array[int]", pushed_at: "array[int]") -> "array[int]":
        used_at = pushed_at[:]
        after = 0
        while rows := self._access_database.read_now(partial(page_of_uses, after=after, limit=PAGE_ROWS)):
            for path_id, last_used_at in rows:
                place = bisect_left(ids, path_id)
                if place < len(ids) and ids[place] == path_id:
                    used_at[place] = max(used_at[place], last_used_at)
            after = rows[-1][0]
        return used_at

    def _chunks_of(self, nar_ids: Sequence[int]) -> Lists:
        chunks = Lists.of(())
        for start in range(0, len(nar_ids), _BATCH):
            batch = nar_ids[start : start + _BATCH]
            bodies = self._database.read_now(partial(load_recipes, nar_ids=batch))
            for nar_id in batch:
                body = bodies.get(nar_id)
                chunks.append(() if body is None else _distinct_numbers(parse_runs(body)))
        return chunks

    def _chunk_bytes(self, domain_id: int) -> "array[int]":
        """Stored bytes by chunk number."""
        sizes = array("I")
        after = 0
        while rows := self._database.read_now(partial(page_of_chunks, domain_id=domain_id, after=after)):
            after = rows[-1][0]
            sizes.extend(bytes(after + 1 - len(sizes)))
            for number, _, stored_bytes, _ in rows:
                sizes[number] = stored_bytes
        return sizes

    def _find_roots(
        self, connection: Connection, cache_id: int, ids: "array[int]", places: Mapping[str, int], now: int
    ) -> list[int]:
        """The places of the paths that pins keep, and of what those of them reach that are hidden for now.

        One that is not there any more is not of this plan.
        """
        roots: list[int] = []
        kept = {each.path_id for pin in load_pins(connection, cache_id) for each in kept_revisions(pin, now)}
        for path_id in kept:
            place = bisect_left(ids, path_id)
            if place < len(ids) and ids[place] == path_id:
                roots.append(place)
        for reached in find_reach_of_hidden(connection, cache_id, kept).values():
            roots.extend(places[each] for each in reached if each in places)
        return roots

    def _forget_revisions(self, connection: Connection, cache_id: int, now: int) -> None:
        """Delete what pins do not keep any more: its paths may go, and no later rule of the pin must promise them."""
        for pin in load_pins(connection, cache_id):
            kept = {revision.number for revision in kept_revisions(pin, now)}
            gone = [revision.number for revision in pin.revisions if revision.number not in kept]
            row = find_pin(connection, cache_id, pin.name) if gone else None
            if row is not None:
                delete_revisions(connection, row.id, gone)

    def hide(self, mark: Mark) -> tuple[tuple[int, Reason], ...]:
        """The transaction that hides: but what was published or pinned since the plan keeps what it needs."""
        now = self._clock()

        def act(connection: Connection) -> tuple[tuple[int, Reason], ...]:
            get_cache(connection, mark.cache.name)
            self._forget_revisions(connection, mark.cache.id, now)
            needed = self._find_roots(connection, mark.cache.id, mark.ids, mark.places, now)
            for hash_part, text in newer_paths(connection, mark.cache.id, mark.generation):
                names = [hash_part, *(name[:_HASH_LETTERS] for name in text.split())]
                needed.extend(mark.places[name] for name in names if name in mark.places)
            can_go = rescue(mark.facts.references, (place for place, _ in mark.plan.hide), needed)
            hidden = tuple((place, reason) for place, reason in mark.plan.hide if can_go[place])
            hide(connection, ((mark.ids[place], reason.value) for place, reason in hidden), now=now)
            _, noted_bytes = _read_state(connection, mark.cache.id)
            pushed_since = noted_bytes - mark.noted_bytes
            set_stored_bytes(connection, mark.cache.id, mark.plan.size_after + pushed_since)
            return hidden

        return self._database.write_now(act)

    def _remeasure(self, mark: Mark, hidden: tuple[tuple[int, Reason], ...]) -> int:
        size = size_without(mark.facts, (place for place, _ in hidden))
        more = size - mark.plan.size_after
        self._database.write_now(lambda connection: grow(connection, mark.cache.id, more) and None)
        return size

    def _sweep_domain(self, domain_id: int, *, is_dry_run: bool) -> SweepReport:
        self._show_progress(f"domain {domain_id}: looking for what nothing needs")
        now = self._clock()
        if is_dry_run:
            sweep = self.plan_sweep(domain_id, now, is_dry_run=True)
            planned = [Compaction(len(group), sum(pack.sound_bytes for pack in group)) for group in sweep.packs.compact]
            return _report(domain_id, sweep, sweep.purged_paths, sweep.purged_nars, sweep.packs.delete, planned)
        purged_paths = self._purge_paths(domain_id, now)
        self._database.write_now(partial(purge_staged, domain_id=domain_id, now=now))
        purged_nars = 0
        while count := self._database.write_now(partial(purge_nars, domain_id=domain_id, now=now)):
            purged_nars += count
        sweep = self.plan_sweep(domain_id, now, is_dry_run=False)
        packs = sweep.packs
        self._database.write_now(partial(set_condemned, pack_ids=[pack.id for pack in packs.condemn], condemned_at=now))
        self._database.write_now(partial(set_condemned, pack_ids=[pack.id for pack in packs.lift], condemned_at=None))
        deleted = [pack for pack in packs.delete if self._delete(domain_id, pack, now)]
        compacted = [
            compact(self._database, self._blobs, domain_id, group, sweep.live, now=now) for group in packs.compact
        ]
        strays = [stray for stray in sweep.strays if self._blobs.delete_unchanged(stray)]
        return _report(domain_id, replace(sweep, strays=tuple(strays)), purged_paths, purged_nars, deleted, compacted)

    def _purge_paths(self, domain_id: int, now: int) -> int:
        purged = 0
        while ids := self._database.write_now(partial(purge_paths, domain_id=domain_id, now=now)):
            self._access_database.write_now(partial(forget_uses, path_ids=ids))
            self._access_database.write_now(partial(forget_downloads, path_ids=ids))
            purged += len(ids)
        return purged

    def _delete(self, domain_id: int, pack: PackFacts, now: int) -> bool:
        """Rows, then bytes. Not if a NAR took the condemnation back, or if the bytes came again."""
        seen = self._find_bytes(domain_id, pack)
        if pack.condemned_at is None or not _is_old(seen, now):
            return False
        if not self._database.write_now(partial(delete_pack, pack_id=pack.id, condemned_at=pack.condemned_at)):
            return False
        if seen is not None:
            self._blobs.delete_unchanged(seen)
        return True

    def _find_bytes(self, domain_id: int, pack: PackFacts) -> BlobInfo | None:
        try:
            return self._blobs.describe(pack_key(domain_id, pack.name))
        except NotFound:
            return None

    def plan_sweep(self, domain_id: int, now: int, *, is_dry_run: bool) -> Sweep:
        """Look for what nothing in the domain needs.

        A dry run leaves out the NARs that would be purged. Else they are purged already, and every one that is there
        counts, whatever may be purged by now: whoever uses it again does not lift the condemnation of its packs.
        """
        database = self._database
        purged_paths = 0
        gone: set[int] = set()
        if is_dry_run:
            purged_paths = database.read_now(partial(count_purgeable_paths, domain_id=domain_id, now=now))
            after = 0
            while ids := database.read_now(partial(page_of_purgeable_nars, domain_id=domain_id, after=after, now=now)):
                gone.update(ids)
                after = ids[-1]
        live = bytearray()
        after = 0
        while recipes := database.read_now(partial(page_of_recipes, domain_id=domain_id, after=after)):
            after = recipes[-1][0]
            for nar_id, body in recipes:
                if nar_id not in gone:
                    _set_live(live, parse_runs(body))
        live_bytes: dict[int, int] = {}
        sound_bytes: dict[int, int] = {}
        after = 0
        while chunks := database.read_now(partial(page_of_chunks, domain_id=domain_id, after=after)):
            after = chunks[-1][0]
            for number, pack_id, stored_bytes, is_sound in chunks:
                if number < len(live) and live[number]:
                    live_bytes[pack_id] = live_bytes.get(pack_id, 0) + stored_bytes
                    if is_sound:
                        sound_bytes[pack_id] = sound_bytes.get(pack_id, 0) + stored_bytes
        rows = database.read_now(partial(list_packs, domain_id=domain_id))
        packs = plan_packs((_pack_facts(row, live_bytes, sound_bytes) for row in rows), now=now)
        packs = replace(packs, delete=tuple(p for p in packs.delete if _is_old(self._find_bytes(domain_id, p), now)))
        return Sweep(purged_paths, len(gone), packs, live, tuple(self._find_strays(domain_id, now)))

    def _find_strays(self, domain_id: int, now: int) -> Iterator[BlobInfo]:
        """Objects older than a day that no row knows. They are listed before their rows are asked for.

        What writers left is of no domain, and goes with the public one's strays.
        """
        prefixes = [f"{prefix}{domain_id}/" for prefix in _SWEPT_PREFIXES]
        if domain_id == PUBLIC_DOMAIN_ID:
            prefixes.append(f"{UNFINISHED}/")
        for prefix in prefixes:
            batch: list[BlobInfo] = []
            for info in self._blobs.list(prefix):
                if now - info.modified_at >= GRACE_SECONDS:
                    batch.append(info)
                if len(batch) == _BATCH:
                    yield from self._without_rows(batch, domain_id)
                    batch = []
            yield from self._without_rows(batch, domain_id)

    def _without_rows(self, batch: Sequence[BlobInfo], domain_id: int) -> list[BlobInfo]:
        names = {info.key: bytes.fromhex(info.key.rpartition("/")[2]) for info in batch if not info.is_unfinished}
        known = self._database.read_now(partial(find_known_objects, domain_id=domain_id, names=list(names.values())))
        return [info for info in batch if info.is_unfinished or names[info.key] not in known]


def _is_old(seen: BlobInfo | None, now: int) -> bool:
    """Whether the bytes of a pack may go.

    An upload may make the very same pack again, since its chunks count as missing. Its bytes come before its rows,
    which follow by half a day at most (`rules.collection.check_is_fresh`).
    """
    return seen is None or now - seen.modified_at >= GRACE_SECONDS


def _read_state(connection: Connection, cache_id: int) -> tuple[int, int]:
    """A cache's generation, and its size as it is noted."""
    return read_generation(connection, cache_id), load_settings(connection, cache_id)[1]


def _numbers(runs: Sequence[Run]) -> Iterator[int]:
    for run in runs:
        yield from range(run.first, run.first + run.count)


def _distinct_numbers(runs: Sequence[Run]) -> Collection[int]:
    if len(runs) == 1:  # as most are
        return range(runs[0].first, runs[0].first + runs[0].count)
    return set(_numbers(runs))


def _set_live(live: bytearray, runs: Sequence[Run]) -> None:
    for run in runs:
        end = run.first + run.count
        if end > len(live):
            live.extend(bytes(end - len(live)))
        live[run.first : end] = b"\1" * run.count


def _pack_facts(row: PackRow, live_bytes: dict[int, int], sound_bytes: dict[int, int]) -> PackFacts:
    return PackFacts(
        row.id,
        row.name,
        row.size_bytes,
        row.created_at,
        row.condemned_at,
        live_bytes.get(row.id, 0),
        sound_bytes.get(row.id, 0),
    )


def _report(
    domain_id: int,
    sweep: Sweep,
    purged_paths: int,
    purged_nars: int,
    deleted: Sequence[PackFacts],
    compacted: Sequence[Compaction],
) -> SweepReport:
    return SweepReport(
        domain=domain_id,
        purged_paths=purged_paths,
        purged_nars=purged_nars,
        condemned_packs=len(sweep.packs.condemn),
        condemned_bytes=sum(pack.size_bytes for pack in sweep.packs.condemn),
        lifted_packs=len(sweep.packs.lift),
        deleted_packs=len(deleted),
        deleted_bytes=sum(pack.size_bytes for pack in deleted),
        compacted_packs=sum(one.packs for one in compacted),
        compacted_bytes=sum(one.copied_bytes for one in compacted),
        deleted_strays=len(sweep.strays),
        stray_bytes=sum(stray.size_bytes for stray in sweep.strays),
    )
