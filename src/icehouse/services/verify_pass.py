"""The verification that goes on for ever, a little at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.verification import PassState, find_next_cache, find_next_nar, find_next_pack, load_pass, save_pass
from icehouse.rules.verification import Finding
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.verify import Findings, Verifier

DEFAULT_BYTES_PER_SECOND: Final = 2 * 1024 * 1024
"""Some 170 GB a day."""

_MAX_SAVED_SECONDS: Final = 60  # of reading that was not done, which may be made up for
_PAGE_COST_BYTES: Final = 256 * 1024  # of a page of paths, whose signatures take as long as reading so much
_RECENT_BYTES: Final = 32 * 1024 * 1024
_PACKS, _NARS, _PATHS = "packs", "nars", "paths"

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
        self,
        database: Database,
        verifier: Verifier,
        clock: Callable[[], int],
        *,
        bytes_per_second: int = DEFAULT_BYTES_PER_SECOND,
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

        Objects are read whole. So a call may read more than that, and then the next ones read nothing.
        """
        self._allowance += seconds * self._bytes_per_second
        self._allowance = min(self._allowance, _MAX_SAVED_SECONDS * self._bytes_per_second)
        state = await self._database.read(load_pass) or PassState(_PACKS, 0, 0, self._clock())
        findings: list[Finding] = []
        read_bytes = 0
        is_complete = False
        while self._allowance > 0 and not is_complete:
            found = Findings()
            place, size_bytes = await self._check_next(state, found)
            self._allowance -= size_bytes
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
        for finding in findings:
            _log.error("found damage", fault=finding.fault.value, place=finding.place, detail=finding.detail)
        return PassStep(read_bytes, findings, is_complete)

    async def _check_next(self, state: PassState, found: Findings) -> tuple[tuple[str, int, int] | None, int]:
        """Verify what comes next; give where the pass stands then (`None`: at its end), and how much was read."""
        if state.phase == _PACKS:
            pack = await self._database.read(partial(find_next_pack, after=state.after))
            if pack is None:
                return (_NARS, 0, 0), 0
            return (_PACKS, 0, pack[1].id), await self._verifier.verify_pack(*pack, found)
        if state.phase == _NARS:
            nar = await self._database.read(partial(find_next_nar, after=state.after))
            if nar is None:
                return (_PATHS, 0, 0), 0
            await self._verifier.verify_nar(nar.row.id, self._recent, found)
            return (_NARS, 0, nar.row.id), nar.row.file_size
        cache = await self._database.read(partial(_find_cache, cache_id=state.scope))
        if cache is None:
            return None, 0
        page = await self._verifier.verify_page(cache, state.after if cache.id == state.scope else 0, found)
        if page is None:
            return (_PATHS, cache.id + 1, 0), 0
        return (_PATHS, cache.id, page[0]), _PAGE_COST_BYTES

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
        return PassState(_PACKS, 0, 0, now, completed_at=now)


def _find_cache(connection: Connection, cache_id: int) -> CacheRow | None:
    name = find_next_cache(connection, cache_id)
    return None if name is None else get_cache(connection, name)
