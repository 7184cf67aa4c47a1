"""Telling how far the verification is, and what is damaged in a cache."""

from __future__ import annotations

from typing import Final, Literal, cast

from sqlalchemy import Connection

from icehouse.api.verification import DamagedPath, VerificationState
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.verification import count_quarantined, load_pass, measure_progress, page_damaged

_MAX_COUNTED: Final = 1_000
_MAX_LISTED: Final = 100


class VerificationStates:
    """Rights on the cache are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, cache: CacheRow) -> VerificationState:
        """Where the pass is, and what is damaged in the cache. It counts no rows beyond a thousand."""

        def work(connection: Connection) -> VerificationState:
            state = load_pass(connection)
            is_under_way = state is not None and not state.is_between
            damaged = page_damaged(connection, cache.id, limit=_MAX_COUNTED)
            return VerificationState(
                phase=cast("Literal['packs', 'nars', 'paths']", state.phase) if is_under_way and state else None,
                percent=measure_progress(connection, state) if is_under_way and state else 0,
                began_at=state.began_at if is_under_way and state else None,
                completed_at=None if state is None else state.completed_at,
                damaged_paths=[
                    DamagedPath(store_path=base_name, reason=reason, since=since)
                    for base_name, reason, since in damaged[:_MAX_LISTED]
                ],
                damaged_path_count=len(damaged),
                damaged_chunks=count_quarantined(connection, cache.domain_id, limit=_MAX_COUNTED),
            )

        return await self._database.read(work)
