"""Collections that a server is asked for: each runs in a process of its own, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from icehouse.api.collection import SweepReport
from icehouse.api.collections import CollectionEvent, MarkSummary, PastCollection
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.past_collections import CollectionRow, find_collection, page_collections
from icehouse.errors import Conflict, Denied, NotFound, Unauthenticated, Unavailable
from icehouse.rules.access import Grant
from icehouse.services.collection_run import RunRequest

COLLECTIONS_A_PAGE: Final = 100
COLLECTIONS_SHOWN: Final = 25

_PIECE_BYTES: Final = 64 * 1024
_ALIVE_SECONDS: Final = 15
"""How often an empty line is sent while nothing else is to be told: proxies give up on silence."""

_STOP_SECONDS: Final = 10


class _Numbers(msgspec.Struct, frozen=True):
    """What the history holds of a collection."""

    marks: list[MarkSummary]
    sweeps: list[SweepReport]


class Collections:
    """Starts collections, and tells what became of those of the past. Belongs to one event loop.

    Rights on one cache are checked by who calls (`Access.enter`).
    """

    def __init__(
        self, database: Database, command: Sequence[str], *, flush_uses: Callable[[], Awaitable[None]]
    ) -> None:
        """Join the parts.

        *command* runs in the process: given a `RunRequest` as JSON, after all else, it prints `CollectionEvent`s.
        *flush_uses* writes the uses of paths that are still in this process's memory: plans go by what is written.
        """
        self._database = database
        self._command = command
        self._running = asyncio.Lock()
        self._flush_uses = flush_uses

    async def start(self, request: RunRequest) -> AsyncGenerator[bytes]:
        """Start a collection; give what it tells: lines of JSON, each a `CollectionEvent`, and empty ones.

        Whoever stops listening stops the collection. What was done by then is done.

        Raises:
            NotFound: there is no such cache.
            Conflict: this process, or somebody else, collects already.
            Unavailable: it ended before it told anything.
            StorageError: the uses could not be written.
        """
        if self._running.locked():
            raise Conflict("this server is at a collection, or at the plan of one; try again when that is done")
        await self._flush_uses()  # Else what was restored or pulled a moment ago would go.
        events = self._run(request)
        first = await anext(events)  # It says whether anything is done at all, so a refusal has its own status.
        event = msgspec.json.decode(first, type=CollectionEvent)
        if event.error is not None:
            await events.aclose()
            raise (NotFound if event.is_not_found else Conflict)(event.error)
        return _chained(first, events)

    async def list_past(self, cache: CacheRow | None, *, before: int | None = None) -> list[PastCollection]:
        """Collections of the past, the newest first; with *cache* those that concern it, and only what does."""
        name = None if cache is None else cache.name
        page = partial(page_collections, cache_name=name, before=before, limit=COLLECTIONS_A_PAGE)
        return [_view(row, cache) for row in await self._database.read(page)]

    async def page_past(
        self, cache: CacheRow, *, before: int | None = None, limit: int = COLLECTIONS_SHOWN
    ) -> tuple[list[PastCollection], bool]:
        """Some of those that concern the cache, the newest first, and whether there are older ones."""
        page = partial(page_collections, cache_name=cache.name, before=before, limit=limit + 1)
        rows = await self._database.read(page)
        return [_view(row, cache) for row in rows[:limit]], len(rows) > limit

    async def get_past(self, cache: CacheRow, collection_id: int) -> PastCollection:
        """A collection of the past, and what it did to the cache.

        Raises:
            NotFound: there was none of that number, or it did not concern the cache.
        """
        row = await self._database.read(partial(find_collection, collection_id=collection_id))
        if row is None or row.cache_name not in {None, cache.name}:
            raise NotFound(f"no collection {collection_id} of cache {cache.name!r} is known")
        return _view(row, cache)

    async def find_last(self) -> PastCollection | None:
        """The newest collection, of whatever caches; `None`: there was none."""
        rows = await self._database.read(partial(page_collections, cache_name=None, before=None, limit=1))
        return _view(rows[0], None) if rows else None

    async def _run(self, request: RunRequest) -> AsyncGenerator[bytes]:
        async with self._running:
            process = await asyncio.create_subprocess_exec(
                *self._command, msgspec.json.encode(request).decode(), stdin=DEVNULL, stdout=PIPE
            )
            try:
                assert process.stdout is not None  # noqa: S101  it is a pipe
                first = await process.stdout.readline()
                if not first:
                    raise Unavailable(f"the collection ended with status {await process.wait()}; the log may say why")
                yield first
                while piece := await _read_or_show_life(process.stdout):
                    yield piece
            finally:
                await _stop(process)


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[CollectionEvent]:
    """What `Collections.start` gives, as events."""
    waiting = b""
    async for piece in pieces:
        *lines, waiting = (waiting + piece).split(b"\n")
        for line in lines:
            if line:
                yield msgspec.json.decode(line, type=CollectionEvent)


async def _read_or_show_life(stdout: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(stdout.read(_PIECE_BYTES), _ALIVE_SECONDS)
    except TimeoutError:
        return b"\n"


async def _stop(process: Process) -> None:
    """See a process to its end, which is told to it if it has not come by itself."""
    try:
        # What closed its output ends at once.
        await asyncio.wait_for(process.wait(), 0.2)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _chained(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()


def check_may_collect_all(grant: Grant | None) -> Grant:
    """*grant*, if its holder may collect all caches.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token is not one for administering all caches.
    """
    if grant is None:
        raise Unauthenticated("collecting all caches needs a token that has the permission admin on all of them")
    if not grant.administers("*"):
        raise Denied("collecting all caches needs the permission admin on the pattern *, which this token lacks")
    return grant


def _view(row: CollectionRow, cache: CacheRow | None) -> PastCollection:
    numbers = msgspec.json.decode(row.result, type=_Numbers)
    return PastCollection(
        id=row.id,
        cache=row.cache_name,
        began_at=row.began_at,
        ended_at=row.ended_at,
        started_by=row.started_by,
        marks=[mark for mark in numbers.marks if cache is None or mark.cache == cache.name],
        sweeps=[sweep for sweep in numbers.sweeps if cache is None or sweep.domain == cache.domain_id],
    )
