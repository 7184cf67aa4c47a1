"""The verification that goes on for ever, a little at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.verification import (
    PassState,
    find_next_cache,
    find_next_nar,
    find_next_pack,
    list_hidden_by_damage,
    load_pass,
    measure_phase,
    save_pass,
)
from icehouse.errors import Conflict, IcehouseError
from icehouse.rules.maintenance import is_verification_due
from icehouse.rules.verification import Finding
from icehouse.services.leases import hold_in_thread
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.verify import Findings, Verifier
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore

STEP_SECONDS: Final = 5
"""How often something is read while a pass goes on."""

LOOK_SECONDS: Final = 120
"""How often it is looked whether a pass is due, or was left behind by a process that ended."""

_MAX_SAVED_SECONDS: Final = 60  # of reading that was not done, which may be made up for
_LEAST_COST_BYTES: Final = 64 * 1024  # of a pack or NAR, however small: looking it up takes as long as reading so much
_PAGE_COST_BYTES: Final = 256 * 1024  # of a page of paths, whose signatures take as long as reading so much
_RECENT_BYTES: Final = 32 * 1024 * 1024
_PACKS, _NARS, _PATHS = "packs", "nars", "paths"
_LEASE: Final = "the verification that never ends"
_WHO: Final = "the server itself"
_MAX_LISTED: Final = 1_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PassStep:
    """What one call of `VerifyPass.advance` did."""

    read_bytes: int
    findings: list[Finding]
    is_complete: bool
    """Whether a pass came to its end, and the next one begins."""


class VerifyPass:
    """Verifies packs, then NARs, then paths, and begins again. Where it stands is in the database.

    One at a time; whoever calls `advance` sees to that, by a lease.
    """

    def __init__(
        self, database: Database, verifier: Verifier, clock: Callable[[], int], *, bytes_per_second: int
    ) -> None:
        """Join the parts. *clock* gives seconds since the epoch. With 0 bytes a second nothing is read."""
        self._database = database
        self._verifier = verifier
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._allowance = 0.0
        self._recent = RecentChunks(_RECENT_BYTES)

    async def advance(self, seconds: float) -> PassStep:
        """Read as much as *seconds*, the time since the last call, allow for.

        Objects are read whole. So a call may read more than that, and then the next ones read nothing. Where it stands
        is noted once a call: whoever goes on after a crash reads again what that call had read.
        """
        self._allowance += seconds * self._bytes_per_second
        self._allowance = min(self._allowance, _MAX_SAVED_SECONDS * self._bytes_per_second)
        if self._allowance <= 0:
            return PassStep(0, [], is_complete=False)
        state = await self._database.read(load_pass)
        if state is None or state.is_between:
            state = replace(state or PassState(_PACKS, 0, 0, 0), began_at=self._clock())
        findings: list[Finding] = []
        read_bytes = 0
        is_complete = False
        while self._allowance > 0 and not is_complete:
            found = Findings()
            place, size_bytes, cost_bytes = await self._check_next(state, found)
            for finding in found.findings:
                _log.error("found damage", fault=finding.fault.value, place=finding.place, detail=finding.detail)
            self._allowance -= cost_bytes
            read_bytes += size_bytes
            findings += found.findings
            state = replace(state, read_bytes=state.read_bytes + size_bytes, findings=state.findings + found.count)
            is_complete = place is None
            if place is None:
                state = await self._end(state)
            else:
                phase, scope, after = place
                state = replace(state, phase=phase, scope=scope, after=after)
        await self._database.write(partial(save_pass, state=state))
        return PassStep(read_bytes, findings, is_complete)

    async def _check_next(self, state: PassState, found: Findings) -> tuple[tuple[str, int, int] | None, int, int]:
        """Verify what comes next.

        Returns:
            Where the pass stands then (`None`: at its end), how much was read, and how much of the allowance that took.
        """
        if state.phase == _PACKS:
            pack = await self._database.read(partial(find_next_pack, after=state.after))
            if pack is None:
                return (_NARS, 0, 0), 0, 0
            read_bytes = await self._verifier.verify_pack(*pack, found)
            return (_PACKS, 0, pack[1].id), read_bytes, max(read_bytes, _LEAST_COST_BYTES)
        if state.phase == _NARS:
            nar = await self._database.read(partial(find_next_nar, after=state.after))
            if nar is None:
                return (_PATHS, 0, 0), 0, 0
            await self._verifier.verify_nar(nar.row.id, self._recent, found)
            return (_NARS, 0, nar.row.id), nar.row.file_size, max(nar.row.file_size, _LEAST_COST_BYTES)
        cache = await self._database.read(partial(_find_cache, cache_id=state.scope))
        if cache is None:
            return None, 0, 0
        page = await self._verifier.verify_page(cache, state.after if cache.id == state.scope else 0, found)
        if page is None:
            return (_PATHS, cache.id + 1, 0), 0, 0
        return (_PATHS, cache.id, page[0]), 0, _PAGE_COST_BYTES

    async def _end(self, state: PassState) -> PassState:
        restored = await self._verifier.restore_healed()
        now = self._clock()
        _log.info(
            "verified everything",
            seconds=now - state.began_at,
            bytes=state.read_bytes,
            findings=state.findings,
            restored=len(restored),
        )
        return PassState(
            _PACKS,
            0,
            0,
            now,
            completed_at=now,
            last_began_at=state.began_at,
            last_read_bytes=state.read_bytes,
            last_findings=state.findings,
        )


class Verification:
    """Runs passes in a server, one after the other. Of several processes that share a database, one does it.

    It has a thread of its own, so that it never takes those of requests.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        clock: Callable[[], int],
        *,
        bytes_per_second: int,
        draw: Callable[[], float],
    ) -> None:
        """*clock* gives seconds since the epoch; *draw* random numbers from 0 to 1, so that not all look at once."""
        self._database = database
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._draw = draw
        self._is_ending = threading.Event()
        self._workers = Workers(1)
        verifier = Verifier(database, blobs, self._workers, clock, keep_on=self._keep_on)
        self._pass = VerifyPass(database, verifier, clock, bytes_per_second=bytes_per_second)

    def end(self) -> None:
        """Let go of a long NAR that is being read, so that a server that stops has not to wait for it."""
        self._is_ending.set()

    def close(self) -> None:
        """End the thread."""
        self._workers.close()

    async def run(self) -> None:
        """Look now and then whether a pass is due, and make it, until cancelled."""
        if not self._bytes_per_second:
            return
        while True:
            await asyncio.sleep(LOOK_SECONDS * (0.5 + self._draw()))
            await self.work()

    async def work(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Make a pass, or its rest, if one is due and nobody else is at it. What fails is logged, and tried again."""
        try:
            state = await self._database.read(load_pass)
            is_between = state is not None and state.is_between
            completed_at = state.completed_at if state is not None and is_between else None
            if not is_verification_due(completed_at, now=self._clock()):
                return
            async with hold_in_thread(self._database, _LEASE, _WHO, self._clock) as held:
                is_complete = False
                while not is_complete:
                    await sleep(STEP_SECONDS)
                    held.check()
                    is_complete = (await self._pass.advance(STEP_SECONDS)).is_complete
        except Conflict as exc:
            _log.debug("verification is somebody else's", reason=str(exc))
        except IcehouseError as exc:
            _log.error("verification failed", error=str(exc))

    def _keep_on(self) -> None:
        if self._is_ending.is_set():
            raise Conflict("the server stops")


@dataclass(frozen=True, slots=True)
class PassStatus:
    """Where the verification stands, and what damage hides."""

    state: PassState | None
    """`None`: it never began."""
    phase_done: int
    """Packs, NARs or paths of the present phase that are behind it."""
    phase_total: int
    hidden_count: int
    """Paths that are hidden for damage, now."""
    hidden: dict[str, str]
    """The first 1,000 of them, as `<cache>/<base name>`, with the reason."""


def load_status(connection: Connection) -> PassStatus:
    """Where it stands. Looks at all rows of its phase, and at all hidden paths."""
    state = load_pass(connection)
    done, total = (0, 0) if state is None or state.is_between else measure_phase(connection, state)
    count, hidden = list_hidden_by_damage(connection, _MAX_LISTED)
    return PassStatus(state, done, total, count, dict(hidden))


def _find_cache(connection: Connection, cache_id: int) -> CacheRow | None:
    name = find_next_cache(connection, cache_id)
    return None if name is None else get_cache(connection, name)
