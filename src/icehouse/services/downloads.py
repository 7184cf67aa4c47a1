"""Noting who downloads what, for revocations to tell: counted in memory, written now and then, kept for a while."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from icehouse.db.downloads import (
    Downloader,
    DownloadRow,
    add_downloads,
    count_downloads,
    find_last_of_oldest,
    purge_downloaders,
    purge_downloads,
)
from icehouse.db.engine import Database

MAX_NOTED: Final = 100_000
"""Rows in memory at most; where more comes between two writes, it is not noted."""

MAX_ROWS: Final = 2_000_000
"""Rows on the disk, 16 bytes each. Beyond, a tenth goes: what was downloaded longest ago."""

_BATCH: Final = 5_000
_DAY_SECONDS: Final = 86_400

_log = structlog.get_logger(__name__)


class Downloads:
    """Downloads since they were last written. Belongs to one event loop.

    What a crash or a failing disk loses costs no data, only that somebody is not named later on.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], int],
        *,
        keep_days: int,
        max_noted: int = MAX_NOTED,
        max_rows: int = MAX_ROWS,
    ) -> None:
        """*keep_days*: 0 notes nothing, and forgets what was noted; *clock* gives seconds since the epoch."""
        self._database = database
        self._clock = clock
        self._keep_days = keep_days
        self._max_noted = max_noted if keep_days else 0
        self._max_rows = max_rows
        self._noted: dict[tuple[int, int | None, str], tuple[int, int, int]] = {}
        self._lost = 0

    def note(self, path_id: int, token_id: int | None, address: str, now: int) -> None:
        """Count one download of a path's NAR: by the holder of a token, or else from an address."""
        key = (path_id, token_id, "" if token_id is not None else address)
        found = self._noted.get(key)
        if found is not None:
            self._noted[key] = (found[0] + 1, found[1], now)
        elif len(self._noted) < self._max_noted:
            self._noted[key] = (1, now, now)
        else:
            self._lost += 1

    async def flush(self) -> None:
        """Write what was noted. What could not be written is kept for the next time, as far as there is room.

        Raises:
            StorageError: the database could not be written.
        """
        noted, self._noted = self._noted, {}
        lost, self._lost = self._lost, 0
        if lost and self._keep_days:
            _log.warning("downloads were not noted: too many at once", count=lost)
        rows = [
            DownloadRow(path_id, Downloader(token_id, address), *counts)
            for (path_id, token_id, address), counts in noted.items()
        ]
        written = 0
        try:
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                await self._database.write(partial(add_downloads, new=batch))
                written = start + len(batch)
        finally:
            for row in rows[written:]:
                key = (row.path_id, row.by.token_id, row.by.address)
                count, _, last_at = self._noted.get(key, (0, row.first_at, row.last_at))
                self._noted[key] = (count + row.downloads, row.first_at, last_at)
        if rows:
            await self._make_room()

    async def purge(self) -> None:
        """Forget what was downloaded longer ago than downloads are kept.

        Raises:
            StorageError: the database could not be written.
        """
        await self._purge(self._clock() - self._keep_days * _DAY_SECONDS)

    async def _make_room(self) -> None:
        count = await self._database.read(count_downloads)
        if count > self._max_rows:
            surplus = count - self._max_rows * 9 // 10
            until = await self._database.read(partial(find_last_of_oldest, count=surplus))
            if until is not None:
                await self._purge(until)
                _log.warning("older downloads were forgotten: there are too many", count=surplus)

    async def _purge(self, until: int) -> None:
        purged = 0
        while count := await self._database.write(partial(purge_downloads, until=until, limit=_BATCH)):
            purged += count
        if purged:
            await self._database.write(purge_downloaders)
