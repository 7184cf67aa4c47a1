"""Noting when paths are used: counted in memory, written now and then, so that no read waits for a write."""

from __future__ import annotations

from typing import Final

from icehouse.db.access_times import PathUse, add_uses
from icehouse.db.engine import Database
from icehouse.services.flushing import Settle, settle_all

MAX_NOTED: Final = 1_000_000
"""Paths noted in memory at most; where writing fails for so long, further ones are not noted."""

_BATCH: Final = 50_000


class AccessTimes:
    """Uses of paths since they were last written. Belongs to one event loop.

    Uses that a crash or a failing disk loses cost no data: retention then sees somewhat older times.
    """

    def __init__(self, database: Database, *, max_noted: int = MAX_NOTED) -> None:
        self._database = database
        self._max_noted = max_noted
        self._noted: dict[int, PathUse] = {}
        self._settle: list[Settle] = []

    def settle_first(self, settle: Settle) -> None:
        """Have *settle* called before what was noted is looked at: it notes what was counted elsewhere."""
        self._settle.append(settle)

    def note(self, path_id: int, now: int, count: int = 1) -> None:
        """Note that a path was used *count* times, the last time no later than *now*, in seconds since the epoch."""
        noted = self._noted.get(path_id)
        if noted is not None:
            self._noted[path_id] = PathUse(path_id, max(now, noted.last_used_at), noted.uses + count)
        elif len(self._noted) < self._max_noted:
            self._noted[path_id] = PathUse(path_id, now, count)

    async def last_use(self, path_id: int) -> int | None:
        """When a path was last used, of what is not written yet."""
        await settle_all(self._settle)
        noted = self._noted.get(path_id)
        return None if noted is None else noted.last_used_at

    async def flush(self) -> None:
        """Write what was noted. What could not be written is kept for the next time; a batch may be counted twice then.

        Raises:
            StorageError: the database could not be written.
        """
        await settle_all(self._settle)
        due, self._noted = list(self._noted.values()), {}
        try:
            while due:
                rows = due[:_BATCH]
                await self._database.write(lambda connection, rows=rows: add_uses(connection, rows))
                del due[:_BATCH]
        finally:
            for use in due:
                self.note(*use)
