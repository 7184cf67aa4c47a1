"""One collection from its beginning to its end, in the process that carries it out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec.structs import replace
from sqlalchemy import Connection

from icehouse.api.collection import CollectionReport
from icehouse.api.collections import CollectionResult, PinHold
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.pins import load_pins
from icehouse.rules.audit import THE_SERVER, Action, Actor
from icehouse.rules.pin_holds import measure_hold
from icehouse.rules.pins import kept_revisions
from icehouse.rules.retention import Retention
from icehouse.services.audit import record
from icehouse.services.collect import Collector, Mark
from icehouse.services.leases import hold
from icehouse.storage.blobs import BlobStore

LEASE: Final = "a collection"


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to collect."""

    cache_name: str | None
    """`None`: all caches."""
    is_dry_run: bool
    actor: Actor
    """Who asks for it."""
    retention: Retention | None = None
    """Of a dry run: what it goes by, instead of what the caches have set."""
    most_named: int | None = None
    """How many hidden paths of a cache the result names; `None`: all."""


class _Planner(Collector):
    """Notes what pins hold, from the facts that each plan is made of."""

    def __init__(
        self,
        database: Database,
        access_database: Database,
        blobs: BlobStore,
        clock: Callable[[], int],
        *,
        show_progress: Callable[[str], None],
        retention: Retention | None,
    ) -> None:
        super().__init__(
            database,
            access_database,
            blobs,
            clock,
            started_by="",
            show_progress=show_progress,
            retention=retention,
        )
        self.holds: list[PinHold] = []

    def plan_mark(self, cache: CacheRow) -> Mark:
        mark = super().plan_mark(cache)
        self._show_progress(f"{cache.name}: measuring what pins keep")
        self.holds += _measure_holds(self._database, mark, self._clock())
        return mark


def run_collection(
    database: Database,
    access_database: Database,
    blobs: BlobStore,
    clock: Callable[[], int],
    request: RunRequest,
    show_progress: Callable[[str], None],
) -> CollectionResult:
    """Collect, with the lease of which there is one for a database; or plan it, which needs none. Blocks.

    Raises:
        NotFound: there is no such cache.
        Conflict: another collection is under way, or the lease was lost.
        StorageError: a backend failed. What was done by then is done, and the next collection goes on.
    """
    if request.is_dry_run:
        planner = _Planner(
            database, access_database, blobs, clock, show_progress=show_progress, retention=request.retention
        )
        report = planner.collect(request.cache_name, is_dry_run=True)
        return CollectionResult(report=_shorten(report, request.most_named), pins=planner.holds)
    with hold(database, LEASE, request.actor.who, clock) as held:
        database.write_now(partial(_note_start, request=request, now=clock()))

        def show(text: str) -> None:
            held.check()
            show_progress(text)

        collector = Collector(database, access_database, blobs, clock, started_by=request.actor.who, show_progress=show)
        report = collector.collect(request.cache_name, is_dry_run=False)
        return CollectionResult(report=_shorten(report, request.most_named), pins=[])


def _shorten(report: CollectionReport, most_named: int | None) -> CollectionReport:
    marks = [replace(mark, hidden=mark.hidden[:most_named]) for mark in report.marks]
    return replace(report, marks=marks)


def _note_start(connection: Connection, request: RunRequest, *, now: int) -> None:
    cache = None if request.cache_name is None else get_cache(connection, request.cache_name)
    if request.actor != THE_SERVER:  # The history has those that the server starts, which nobody asked for.
        pattern = "*" if cache is None else cache.name
        record(connection, request.actor, Action.COLLECTION_START, pattern, now=now)


def _measure_holds(database: Database, mark: Mark, now: int) -> Iterator[PinHold]:
    for pin in database.read_now(partial(load_pins, cache_id=mark.cache.id)):
        roots: list[int] = []
        for revision in kept_revisions(pin, now):
            place = bisect_left(mark.ids, revision.path_id)
            if place < len(mark.ids) and mark.ids[place] == revision.path_id:
                roots.append(place)
        held = measure_hold(mark.facts, roots)
        yield PinHold(
            cache=mark.cache.name,
            pin=pin.name,
            revisions=len(roots),
            paths=held.paths,
            stored_bytes=held.stored_bytes,
        )
