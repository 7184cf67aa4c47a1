"""What a server does by itself now and then: collections, backups of the database, and forgetting what is old."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection

from icehouse.api.collections import CollectionEvent
from icehouse.db.engine import Database
from icehouse.db.past_collections import find_last_began_at, has_work
from icehouse.errors import Conflict, IcehouseError
from icehouse.rules.audit import THE_SERVER
from icehouse.rules.maintenance import is_collection_due
from icehouse.services.collection_run import RunRequest
from icehouse.services.collections import Collections
from icehouse.services.leases import hold_in_thread

LOOK_SECONDS: Final = 600
"""How often the server looks what is due, at least; the first time so long after its start, more or less."""

_LEASE: Final = "maintenance"
_LINE_BYTES: Final = 64 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MaintenancePlan:
    """What a server does by itself."""

    collect_seconds: int
    """From one collection to the next; 0: none."""
    back_up: Callable[[], Awaitable[object]] | None
    """Makes a backup if one is due; `None`: none are made."""
    forget: Callable[[], Awaitable[object]]
    """Forgets what is old, if it is time to."""


@dataclass(slots=True)
class MaintenanceState:
    """What this process does, did last and will do, in seconds since the epoch."""

    doing: str | None = None
    began_at: int | None = None
    ended_at: int | None = None
    """`None` while a turn is under way."""
    error: str | None = None
    """The last one of that turn."""
    next_at: int | None = None


class Maintenance:
    """Does what is due. Of several processes that share a database, one does it."""

    def __init__(
        self,
        database: Database,
        collections: Collections,
        clock: Callable[[], int],
        plan: MaintenancePlan,
        *,
        draw: Callable[[], float],
    ) -> None:
        """*clock* gives seconds since the epoch; *draw* random numbers from 0 to 1, so that not all look at once."""
        self._database = database
        self._collections = collections
        self._clock = clock
        self._plan = plan
        self._draw = draw
        self.state = MaintenanceState()

    async def run(self) -> None:
        """Look now and then what is due, and do it, until cancelled."""
        look_seconds = min(LOOK_SECONDS, self._plan.collect_seconds or LOOK_SECONDS)
        while True:
            seconds = look_seconds * (0.5 + self._draw())
            self.state.next_at = self._clock() + round(seconds)
            await asyncio.sleep(seconds)
            await self.work()

    async def work(self) -> None:
        """Do what is due, unless somebody else is at it. What fails is logged, and tried again the next time."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(hold_in_thread(self._database, _LEASE, THE_SERVER.who, self._clock))
            except Conflict as exc:
                _log.debug("maintenance is somebody else's", reason=str(exc))
                return
            except IcehouseError as exc:
                _log.error("maintenance failed", error=str(exc))
                return
            state = self.state
            state.began_at, state.ended_at, state.error = self._clock(), None, None
            await self._try("collection", self._collect_if_due)
            if self._plan.back_up is not None:
                await self._try("backup", self._plan.back_up)
            await self._try("forgetting", self._plan.forget)
            state.ended_at = self._clock()

    async def _try(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        self.state.doing = what
        try:
            await work()
        except Conflict as exc:
            _log.info("not now", work=what, reason=str(exc))
        except IcehouseError as exc:
            self.state.error = f"{what}: {exc}"
            _log.error("maintenance failed", work=what, error=str(exc))
        finally:
            self.state.doing = None

    async def _collect_if_due(self) -> None:
        if not self._plan.collect_seconds or not await self._database.read(self._is_due):
            return
        _log.info("collection began")
        request = RunRequest(cache_name=None, is_dry_run=False, actor=THE_SERVER)
        async with contextlib.aclosing(await self._collections.start(request)) as pieces:
            async for line in _short_lines(pieces):
                event = msgspec.json.decode(line, type=CollectionEvent)
                if event.progress is not None:
                    _log.debug("collecting", progress=event.progress)
                if event.error is not None:
                    raise Conflict(event.error)
        past = (await self._collections.list_past(None))[0]
        _log.info(
            "collected",
            seconds=past.ended_at - past.began_at,
            hidden_paths=sum(mark.hidden for mark in past.marks),
            purged_paths=sum(sweep.purged_paths for sweep in past.sweeps),
            condemned_bytes=sum(sweep.condemned_bytes for sweep in past.sweeps),
            deleted_bytes=sum(sweep.deleted_bytes + sweep.stray_bytes for sweep in past.sweeps),
        )

    def _is_due(self, connection: Connection) -> bool:
        last = find_last_began_at(connection)
        is_early = last is not None and self._clock() - last < self._plan.collect_seconds
        return not is_early and is_collection_due(
            last,
            has_work=has_work(connection),  # which may read all paths
            collect_seconds=self._plan.collect_seconds,
            now=self._clock(),
        )


async def _short_lines(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The lines, but those that are empty or long: a result may name a million paths, and stands in the history too."""
    begun = bytearray()
    is_long = False
    async for piece in pieces:
        for line in piece.splitlines(keepends=True):
            is_long = is_long or len(begun) + len(line) > _LINE_BYTES
            if not is_long:
                begun += line
            if line.endswith(b"\n"):
                if begun.strip() and not is_long:
                    yield bytes(begun)
                begun.clear()
                is_long = False
